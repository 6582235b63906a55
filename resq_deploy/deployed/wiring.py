"""Who makes and who reads each value, without trusting names."""

from collections import defaultdict

import onnx

from resq_deploy.deployed.graph import graphs, in_order, stored_tensors
from resq_deploy.deployed.operators import INTEGER_PRODUCTS, PASSED_ON, PRODUCTS


class Wiring:
    """The values of a graph and its subgraphs, in two sweeps along the graph; no walk can run in circles.

    Args:
        graph: a graph without cycles.

    Attributes:
        nodes: all nodes, each after the nodes it reads from.
        parameters: the values a tensor is stored for, and those that follow from stored ones alone: onnxruntime
            computes them once, when it creates the session.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = [node for part in graphs(graph) for node in in_order(part)]
        self.parameters = {name for _, name in stored_tensors(graph)}
        self._makers = {output: node for node in self.nodes for output in node.output if output}
        self._products: dict[str, str] = {}
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        for node in self.nodes:
            for slot, value in enumerate(node.input):
                if value:
                    self._readers[value].append((node, slot))
            if self._passes_parameters_on(node):
                self.parameters.update(output for output in node.output if output)
            self._follow_product(node)

    def maker(self, value: str) -> onnx.NodeProto | None:
        """Return the node that computes a value; None for stored values and graph inputs."""
        return self._makers.get(value)

    def readers(self, value: str) -> list[tuple[onnx.NodeProto, int]]:
        """Return the nodes that read a value, each with the input slot it reads it in."""
        return self._readers.get(value, [])

    def product(self, value: str) -> str | None:
        """Return the operator whose sums of products a value holds, if it holds any."""
        return self._products.get(value)

    def _passes_parameters_on(self, node: onnx.NodeProto) -> bool:
        inputs = [value for value in node.input if value]
        if not inputs or any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            return False
        return (node.op_type in PASSED_ON and inputs[0] in self.parameters) or self.parameters.issuperset(inputs)

    def _follow_product(self, node: onnx.NodeProto) -> None:
        if not node.output:
            return
        if node.op_type in PRODUCTS:
            self._products[node.output[0]] = node.op_type
        elif node.op_type in PASSED_ON:
            origin = self.product(node.input[0]) if node.input else None
            if origin:
                self._products[node.output[0]] = origin
        elif node.op_type in ("Add", "Mul") and any(self.product(value) in INTEGER_PRODUCTS for value in node.input):
            # A bias may be added to the integers; a multiplication scales them, and what it gives are floats.
            self._products[node.output[0]] = "MatMulInteger" if node.op_type == "Add" else "MatMul"
