"""Integer products as int32 sums give them, on any CPU.

onnxruntime's kernels for uint8 x int8 add two neighbouring products in 16 bits on x86 CPUs without VNNI, and saturate
there: 255 x 127 + 255 x 127 is not 32,767. Those for two uint8 operands are exact everywhere. A graph is made exact by
handing its int8 operands over as uint8: every byte XOR 0x80, that is 128 more, and every zero point 128 more. What the
file stores stays what it is, and so do the sums, which are those of (a - zero point of a) x (b - zero point of b).

This works on the graph that is really run, behind onnxruntime's optimiser, so that it reaches whatever the optimiser
made: fused layers, weights quantized at load, votes and transposed weights folded or not.
"""

import dataclasses
import enum
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from resq_deploy.deployed.operators import slots
from resq_deploy.errors import ModelError
from resq_deploy.grid import REDUCED_CODE_MAX, UINT8_ZERO_POINT, as_uint8

_DOMAINS = ("", "ai.onnx", "com.microsoft")
_SAME_TYPE = {"Where": 1} | dict.fromkeys(
    (
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ),
    0,
)  # operator -> an input whose element type its output has


class Arithmetic(enum.StrEnum):
    """How integer products are computed."""

    EXACT = "exact"
    NATIVE = "native"


@dataclasses.dataclass(frozen=True)
class Product:
    """The input slots of one product of an operator.

    Attributes:
        left: operand, or the floats that the operator itself quantizes to uint8.
        right: operand.
        left_zero: its zero point; None where the operator quantizes the left operand itself.
        right_zero: the same of the right operand.
    """

    left: int
    right: int
    left_zero: int | None
    right_zero: int


PRODUCTS: Mapping[str, tuple[Product, ...]] = {
    "ConvInteger": (Product(0, 1, 2, 3),),
    "MatMulInteger": (Product(0, 1, 2, 3),),
    "MatMulIntegerToFloat": (Product(0, 1, 4, 5),),
    "QLinearConv": (Product(0, 3, 2, 5),),
    "QLinearMatMul": (Product(0, 3, 2, 5),),
    "QGemm": (Product(0, 3, 2, 5),),
    "QAttention": (Product(0, 1, 6, 7),),
    "DynamicQuantizeMatMul": (Product(0, 1, None, 3),),
    "DynamicQuantizeLSTM": (Product(0, 1, None, 9), Product(0, 2, None, 11)),
}
"""Every operator of onnxruntime's CPU provider that multiplies 8-bit integers, and where its operands are."""

Form = tuple[str, int, int]
"""Operator, and the ONNX element types of its left and right operand."""

Ask = Callable[[Sequence[str]], Mapping[str, int]]
"""Returns the element types of values of the main graph, by name."""


def has_integers(model: bytes) -> bool:
    """Return whether a serialised model names any operator that could lead to integer products."""
    return any(word in model for word in (b"uantize", b"QLinear", b"QGemm", b"QAttention", b"Integer"))


def made_exact(model: onnx.ModelProto, saturating: Collection[Form], ask: Ask) -> onnx.ModelProto | None:
    """Return the model with every product that may saturate computed from two uint8 operands.

    Args:
        model: the graph as it is run, optimised already or run without optimisation; it is not changed.
        saturating: the forms that saturate where it is run, as `kernels.saturating` finds them.
        ask: tells the types of values that the graph itself does not show.

    Returns:
        The new model; None if no product of the model can saturate, so that it is exact as it is.

    Raises:
        ModelError: naming the layer whose operands have types that cannot be told.
    """
    found = [node for graph in _graphs(model.graph) for node in graph.node if _is_product(node)]
    if not found:
        return None
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    taken = {value for graph in _graphs(exact.graph) for value in _names(graph)}
    scope = _Scope(exact.graph, None, saturating, ask, taken)
    return exact if scope.rewrite() else None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Operands:
    """What one product of a graph multiplies, as far as the graph shows it.

    Attributes:
        node: the node that computes it.
        product: which of its products.
        types: ONNX element types of its left and right operand; 0 where the graph does not show one.
        right: the right operand, where it is stored.
    """

    node: onnx.NodeProto
    product: Product
    types: tuple[int, int]
    right: onnx.TensorProto | None


def products(graph: onnx.GraphProto) -> Iterator[Operands]:
    """Yield every product of a graph and of those inside it, in order."""
    yield from _Scope(graph, None, (), lambda _: {}, set()).products()


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in PRODUCTS and node.domain in _DOMAINS


class _Scope:
    """One graph being rewritten, with those around it.

    Args:
        graph: the graph, changed in place.
        outer: the scope around it; None for the main graph.
        saturating: forms to rewrite.
        ask: tells the types of values of the main graph.
        taken: names that are in use anywhere in the model.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        outer: "_Scope | None",
        saturating: Collection[Form],
        ask: Ask,
        taken: set[str],
    ) -> None:
        self._graph = graph
        self._outer = outer
        self._saturating = saturating
        self._ask = ask
        self._taken = taken
        self._stored: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self._given = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._given |= {sparse.values.name: sparse.values.data_type for sparse in graph.sparse_initializer}
        self._makers = {value: node for node in graph.node for value in node.output if value}
        self._moved: dict[str, str] = {}
        self._added: list[onnx.NodeProto] = []

    def rewrite(self) -> bool:
        """Rewrite the graph and its subgraphs; return whether anything had to be."""
        nodes, changed = list(self._graph.node), False
        rewritten: list[onnx.NodeProto] = []
        for node in nodes:
            for subgraph in _subgraphs(node):
                changed |= _Scope(subgraph, self, self._saturating, self._ask, self._taken).rewrite()
            if _is_product(node):
                changed |= self._rewrite_node(node)
            rewritten += [*self._added, node]
            self._added = []
        if changed:
            del self._graph.node[:]
            self._graph.node.extend(rewritten)
        return changed

    def _rewrite_node(self, node: onnx.NodeProto) -> bool:
        """Hand the int8 operands of a node's mixed products over as uint8, unless none of its sums can saturate."""
        moved, harmless = [], True
        for product in PRODUCTS[node.op_type]:
            left, right = self._operand_types(node, product)
            if (node.op_type, left, right) not in self._saturating:
                continue
            if right == TensorProto.INT8:
                moved.append((product.right, product.right_zero))
                harmless &= self._is_small(node.input[product.right])
            elif product.left_zero is not None:
                moved.append((product.left, product.left_zero))
                harmless = False
        if harmless:
            return False
        for operand, zero in moved:  # all of them: an operator takes its operands in one type
            self._move(node, operand, zero)
        return True

    def products(self) -> Iterator[Operands]:
        """Yield every product of the graph and of those inside it."""
        for node in self._graph.node:
            for subgraph in _subgraphs(node):
                yield from _Scope(subgraph, self, self._saturating, self._ask, self._taken).products()
            for product in PRODUCTS[node.op_type] if _is_product(node) else ():
                right = self._tensor(node.input[product.right])
                yield Operands(node=node, product=product, types=self._shown_types(node, product), right=right)

    def _tensor(self, value: str) -> onnx.TensorProto | None:
        """Return the tensor that a value is stored as, here or in a graph around; None if it is given or computed."""
        if value in self._stored and value not in self._given:
            return self._stored[value]
        hidden = value in self._given or value in self._makers
        return None if hidden or self._outer is None else self._outer._tensor(value)

    def _shown_types(self, node: onnx.NodeProto, product: Product) -> tuple[int, int]:
        """Return the element types of a product's operands; 0 where the graph does not show one."""
        operands = ((product.left, product.left_zero), (product.right, product.right_zero))
        left, right = (
            int(TensorProto.UINT8)  # the operator quantizes by itself
            if zero is None
            else self._type_of(node.input[operand]) or self._type_of(_at(node, zero))
            for operand, zero in operands
        )
        return left, right

    def _operand_types(self, node: onnx.NodeProto, product: Product) -> tuple[int, int]:
        left, right = self._shown_types(node, product)
        left, right = left or self._asked(node.input[product.left]), right or self._asked(node.input[product.right])
        if not left or not right:
            unknown = node.input[product.right if left else product.left]
            raise ModelError(
                f"{node.op_type} {node.name or node.output[0]!r}: the type of {unknown!r} cannot be told, so that its "
                "sums cannot be made exact on this CPU; --arithmetic native runs the file as this CPU does"
            )
        return left, right

    def _type_of(self, value: str) -> int:
        """Return the element type of a value as far as the graphs show it; 0 where they do not."""
        if not value:
            return 0
        if value in self._stored:
            return int(self._stored[value].data_type)
        if value in self._given:
            return int(self._given[value])
        if value in self._makers:
            return self._type_made(self._makers[value], value)
        return self._outer._type_of(value) if self._outer else 0

    def _type_made(self, node: onnx.NodeProto, value: str) -> int:
        if node.op_type == "DynamicQuantizeLinear":
            return int(TensorProto.FLOAT if value == node.output[1] else TensorProto.UINT8)
        if node.op_type == "QuantizeLinear":
            return self._type_of(_at(node, 2))
        if node.op_type == "Cast":
            return next((int(attribute.i) for attribute in node.attribute if attribute.name == "to"), 0)
        if node.op_type == "Constant":
            return next((int(attribute.t.data_type) for attribute in node.attribute if attribute.name == "value"), 0)
        if node.op_type in _SAME_TYPE:
            return self._type_of(_at(node, _SAME_TYPE[node.op_type]))
        known = slots(node.op_type, len(node.input)) if node.op_type.startswith("QLinear") else None
        return self._type_of(_at(node, known.outputs[0][1])) if known and known.outputs else 0

    def _asked(self, value: str) -> int:
        """Return the element type of a value of the main graph as onnxruntime gives it; 0 for others."""
        if self._outer:
            return 0 if value in self._makers or value in self._given else self._outer._asked(value)
        return int(self._ask([value]).get(value, 0)) if value in self._makers else 0

    def _is_small(self, value: str) -> bool:
        """Return whether codes are stored that no two products of can pass 16 bits: 2 x 64 x 255 = 32,640."""
        tensor = self._tensor(value)
        if tensor is None:
            return False
        codes = numpy_helper.to_array(tensor).astype(np.int16)
        return bool((np.abs(codes) <= REDUCED_CODE_MAX).all())

    def _move(self, node: onnx.NodeProto, operand: int, zero: int) -> None:
        """Hand an int8 operand and its zero point over as uint8."""
        node.input[operand] = self._as_uint8(node.input[operand])
        node.input.extend([""] * (zero + 1 - len(node.input)))
        node.input[zero] = self._as_uint8(node.input[zero]) if node.input[zero] else self._half()

    def _as_uint8(self, value: str) -> str:
        """Return the name of a value 128 above an int8 one."""
        if value in self._moved:
            return self._moved[value]
        if value not in self._stored and value not in self._given and value not in self._makers and self._outer:
            # Of a graph around this one: there a stored value is moved once for all; a computed one is moved here.
            stored = self._outer._stored_as_uint8(value)
            if stored:
                return stored
        elif value in self._stored and value not in self._given:
            return self._stored_as_uint8(value) or value
        name = self._new_name(value)
        wide, moved = self._new_name(f"{value} wide"), self._new_name(f"{value} moved")
        self._added += [
            onnx.helper.make_node("Cast", [value], [wide], to=TensorProto.INT32),
            onnx.helper.make_node("Add", [wide, self._constant(np.array(UINT8_ZERO_POINT, np.int32))], [moved]),
            onnx.helper.make_node("Cast", [moved], [name], to=TensorProto.UINT8),
        ]
        self._moved[value] = name
        return name

    def _stored_as_uint8(self, value: str) -> str | None:
        """Return the name of a stored int8 tensor moved by 128, here or in a graph around; None if it is not stored."""
        if value in self._moved and value in self._stored:
            return self._moved[value]
        if value in self._given or value in self._makers:
            return None
        if value not in self._stored:
            return self._outer._stored_as_uint8(value) if self._outer else None
        codes = numpy_helper.to_array(self._stored[value])
        self._moved[value] = self._constant(np.asarray(as_uint8(codes)), value)
        return self._moved[value]

    def _half(self) -> str:
        return self._constant(np.array(UINT8_ZERO_POINT, np.uint8))

    def _constant(self, value: NDArray[Any], name: str = "half") -> str:
        tensor = numpy_helper.from_array(value, self._new_name(name))
        self._graph.initializer.append(tensor)
        self._stored[tensor.name] = tensor
        return str(tensor.name)

    def _new_name(self, stem: str) -> str:
        name, number = f"{stem} uint8", 1
        while name in self._taken:
            number += 1
            name = f"{stem} uint8 {number}"
        self._taken.add(name)
        return name


def _at(node: onnx.NodeProto, slot: int) -> str:
    return str(node.input[slot]) if slot < len(node.input) else ""


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for subgraph in _subgraphs(node):
            yield from _graphs(subgraph)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (value for value in (*node.input, *node.output) if value)
