"""Who makes and who reads each value, without trusting names."""

from collections import defaultdict
from collections.abc import Sequence

import onnx

from resq_deploy.deployed.coded import DOMAIN, decoding
from resq_deploy.deployed.graph import in_order, stored_tensors
from resq_deploy.deployed.nesting import node_label, subgraphs
from resq_deploy.deployed.operators import INTEGER_PRODUCTS, PASSED_ON, PRODUCTS, SELECTIONS, Slots, slots
from resq_deploy.deployed.tensors import FLOATS, WIDTHS

_OF_SHAPES = ("Shape", "Size")
_STILL_CODES = (PASSED_ON | SELECTIONS | {"Concat", "Sub"}) - {"DequantizeLinear", "QuantizeLinear"}
_CODES = {kind for kind, width in WIDTHS.items() if width <= 16} - FLOATS - {onnx.TensorProto.BOOL}


class Wiring:
    """The values of a graph and its subgraphs, in one sweep along the graph; no walk can run in circles.

    Args:
        graph: a graph without cycles, no name of which means two values (`make_names_unique`).

    Attributes:
        nodes: all nodes, each after the nodes it reads from; those of subgraphs before the node they belong to.
        parameters: the values a tensor is stored for, and those that follow from stored ones alone: onnxruntime
            computes them once, when it creates the session.
        held: these, and values that are one of several stored ones: what an If returns, what a Loop begins with.
        codes: stored integers of at most 16 bits, and what is picked from them or cast, before it is dequantized.
        varying: the values that depend on the inputs of the graph, and not on their shapes alone.
        decoding: what decodes weights that are stored under a code.
        returned: values that the graph or the body of a loop returns, each with the name of what it is returned by.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        stored = list(stored_tensors(graph))
        self.nodes: list[onnx.NodeProto] = []
        self.parameters = {name for _, name in stored}
        self.held = set(self.parameters)
        self.codes = {name for tensor, name in stored if tensor.data_type in _CODES}
        self.varying = {value.name for value in graph.input} - self.parameters
        self.returned = {value.name: value.name for value in graph.output}
        self.decoding = decoding(graph)
        self._makers: dict[str, onnx.NodeProto] = {}
        self._products: dict[str, str] = {}
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        self._onward: dict[str, list[str]] = defaultdict(list)
        self._sweep(graph)

    def maker(self, value: str) -> onnx.NodeProto | None:
        """Return the node that computes a value; None for stored values and graph inputs."""
        return self._makers.get(value)

    def readers(self, value: str) -> list[tuple[onnx.NodeProto, int]]:
        """Return the nodes that read a value, each with the input slot it reads it in."""
        return self._readers.get(value, [])

    def onward(self, value: str) -> list[str]:
        """Return what a value is called on the other side of a subgraph's border, where it passes one."""
        return self._onward.get(value, [])

    def product(self, value: str) -> str | None:
        """Return the operator whose sums of products with stored operands a value holds, if it holds any."""
        return self._products.get(value)

    def _sweep(self, graph: onnx.GraphProto) -> None:
        for node in in_order(graph):
            inner = [subgraph for _, subgraph in subgraphs(node)]
            if node.op_type in ("Loop", "Scan"):
                self._enter_loop(node, inner)
            for subgraph in inner:
                self._sweep(subgraph)
            self._add(node, inner)

    def _enter_loop(self, node: onnx.NodeProto, bodies: Sequence[onnx.GraphProto]) -> None:
        """Note what the body of a loop calls the values that the loop begins with."""
        steering = 2 if node.op_type == "Loop" else 0  # how often and whether to go on
        for body in bodies:
            self.varying.update(value.name for value in body.input)
            for value in body.output[: steering // 2]:
                self._readers[value.name].append((node, 1))
            for inside, outer in zip(body.output[steering // 2 :], node.output, strict=False):
                self.returned[inside.name] = node_label(node)
                self._onward[inside.name].append(outer)
            for outer, inside in list(zip(node.input, body.input, strict=False))[steering:]:
                if outer:
                    self._onward[outer].append(inside.name)
                    self.held |= {inside.name} if outer in self.held else set()
        if node.op_type == "Loop":  # what it begins with is what it gives where it makes no turn
            for before, after in zip(node.input[2:], node.output, strict=False):
                self._onward[before].append(after)

    def _add(self, node: onnx.NodeProto, inner: Sequence[onnx.GraphProto]) -> None:
        outputs = [output for output in node.output if output]
        self.nodes.append(node)
        self._makers.update((output, node) for output in outputs)
        for slot, value in enumerate(node.input):
            if value:
                self._readers[value].append((node, slot))
        if inner or (node.op_type not in _OF_SHAPES and not self.varying.isdisjoint(node.input)):
            self.varying.update(outputs)
        if node.op_type == "If":
            self._leave_branches(node, inner)
        if not inner:
            self._follow(node, outputs)

    def _leave_branches(self, node: onnx.NodeProto, branches: Sequence[onnx.GraphProto]) -> None:
        """Note what a node calls the values that its branches return."""
        for branch in branches:
            for inside, outer in zip(branch.output, node.output, strict=False):
                if outer:
                    self._onward[inside.name].append(outer)
                    self.held |= {outer} if inside.name in self.held else set()

    def _follow(self, node: onnx.NodeProto, outputs: Sequence[str]) -> None:
        """Note what the values that a node makes still are."""
        first = node.input[0] if node.input else ""
        inputs = [value for value in node.input if value]
        passed = node.op_type in PASSED_ON
        if inputs and ((passed and first in self.parameters) or self.parameters.issuperset(inputs)):
            self.parameters.update(outputs)
        if self.parameters.issuperset(outputs) or (passed and first in self.held):
            self.held.update(outputs)
        if first in self.codes and (node.op_type in _STILL_CODES or node.domain == DOMAIN):
            self.codes.update(outputs)
        self._follow_product(node)

    def _follow_product(self, node: onnx.NodeProto) -> None:
        if not node.output:
            return
        if node.op_type in PRODUCTS:
            known = slots(node.op_type, len(node.input)) or Slots()
            if any(slot < len(node.input) and node.input[slot] in self.held for slot in known.weights):
                self._products[node.output[0]] = node.op_type
        elif node.op_type in PASSED_ON:
            origin = self.product(node.input[0]) if node.input else None
            if origin:
                self._products[node.output[0]] = origin
        elif node.op_type in ("Add", "Mul") and any(self.product(value) in INTEGER_PRODUCTS for value in node.input):
            # A bias may be added to the integers; a multiplication scales them, and what it gives are floats.
            self._products[node.output[0]] = "MatMulInteger" if node.op_type == "Add" else "MatMul"
