"""What each stored value is for, from how nodes consume it, never from its name."""

import dataclasses
import enum
import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from resq_deploy.deployed.nesting import node_label, subgraphs
from resq_deploy.deployed.operators import (
    ADDITIONS,
    BOUNDS,
    COMBINATIONS,
    COMPARISONS,
    INTEGER_PRODUCTS,
    PASSED_ON,
    PRODUCTS,
    ROUNDINGS,
    Slots,
    slots,
    steering,
)
from resq_deploy.deployed.tensors import FLOATS
from resq_deploy.deployed.wiring import Wiring


class Role(enum.StrEnum):
    """What a stored tensor is for, most exposed first."""

    WEIGHT = "weight"
    BIAS = "bias"
    WEIGHT_SCALE = "weight-scale"
    WEIGHT_ZERO_POINT = "weight-zero-point"
    BIAS_SCALE = "bias-scale"
    BIAS_ZERO_POINT = "bias-zero-point"
    ACTIVATION_SCALE = "activation-scale"
    ACTIVATION_ZERO_POINT = "activation-zero-point"
    FLOAT = "float"
    CONSTANT = "constant"
    CODE = "code"


_EXPOSURE = {role: order for order, role in enumerate(Role)}
_LINEAR = ("QuantizeLinear", "DequantizeLinear")
_TABLES = {onnx.TensorProto.INT32, onnx.TensorProto.UINT32, onnx.TensorProto.INT64, onnx.TensorProto.UINT64}
INTEGERS = frozenset(_TABLES | {onnx.TensorProto.BOOL})
"""Types of masks and integer tables, which no weight has that is not known as one."""

_MASK_VALUES = 2


class Hint(enum.Enum):
    """How a value is used where no slot of an operator says what it is."""

    NONE = enum.auto()
    PLAIN = enum.auto()
    COMBINED = enum.auto()  # with another stored value
    LAST = enum.auto()  # behind all products with stored operands, as anchors are
    SCORES = enum.auto()  # added in front of a softmax, as masks are


@dataclasses.dataclass(frozen=True)
class Use:
    """What one node does with a value; no role where only the value itself can tell."""

    role: Role | None
    layer: str
    hint: Hint = Hint.NONE


class Uses:
    """The uses of one value, boiled down to the first of each kind, so that they stay few in any graph."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[Role | None, Hint], Use] = {}

    def __iter__(self) -> Iterator[Use]:
        return iter(self._kinds.values())

    def add(self, use: Use) -> None:
        """Add a use, unless there is one of its kind."""
        self._kinds.setdefault((use.role, use.hint), use)

    @property
    def first(self) -> Use | None:
        """The first use; None if there is none."""
        return next(iter(self), None)

    @property
    def bias_only(self) -> bool:
        """Whether all uses are as a bias."""
        return {use.role for use in self} == {Role.BIAS}

    def most_exposed(self, tensor: onnx.TensorProto) -> tuple[Role, str] | None:
        """Return the most exposed role of a stored tensor that is used so, and the layer in it; None if unused."""
        roles = [(_role(tensor, use), use.layer) for use in self]
        return min(roles, key=lambda use: _EXPOSURE[use[0]], default=None)


def _role(tensor: onnx.TensorProto, use: Use) -> Role:
    """Return the role of a tensor in one use.

    What no slot names is a parameter left in the graph, unless it is a single number, a table of integers, or shaped
    and used like anchors or masks.
    """
    if use.hint is not Hint.NONE and use.role is not Role.CODE:
        if math.prod(tensor.dims) == 1:
            return Role.CONSTANT
        if use.hint is Hint.LAST and sum(size > 1 for size in tensor.dims) > 1:
            return Role.CONSTANT
        if use.hint is Hint.SCORES and len(np.unique(numpy_helper.to_array(tensor))) <= _MASK_VALUES:
            return Role.CONSTANT
    if use.role is not None:
        return use.role
    if tensor.data_type in INTEGERS:
        return Role.CONSTANT
    return Role.FLOAT if tensor.data_type in FLOATS else Role.WEIGHT


class RoleReader:
    """Derives roles by following a stored value to the nodes that compute with it.

    The uses of the values that follow from stored ones are gathered once, against the direction of the graph.

    Args:
        wiring: of the graph.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._known: dict[str, Uses] = {}
        self._beyond: dict[str, Uses] = {}  # of values on the other side of a subgraph's border
        self._lead_on: set[str] = set()  # values that products with stored operands come behind
        for node in reversed(wiring.nodes):
            product = node.op_type in PRODUCTS and any(map(wiring.product, node.output))
            if product or not self._lead_on.isdisjoint(self._made_of(node)):
                self._lead_on.update(node.input)
            for output in node.output:
                if output in wiring.held:
                    self._known[output] = self.uses(output)

    def uses(self, value: str) -> Uses:
        """Return each use of a stored value, looking through nodes that only pass it on."""
        found = Uses()
        for node, slot in self._wiring.readers(value):
            if self._wiring.decoding.is_table(value, node):
                found.add(Use(Role.CODE, self._wiring.decoding.decoder(node)))
            elif steering(node, slot) is None:
                for use in self._in_slot(node, slot):
                    found.add(use)
        for name in filter(None, self._wiring.onward(value)):
            if name not in self._beyond:
                self._beyond[name] = Uses()  # in a circle, as only a file has that onnxruntime refuses
                self._beyond[name] = self.uses(name)
            for use in self._beyond[name]:
                found.add(use)
        if value in self._wiring.returned:
            found.add(Use(None, self._wiring.returned[value], Hint.PLAIN))
        return found

    def first_layer(self, value: str) -> str:
        """Return the first node that reads a value; the value itself if none does."""
        readers = self._wiring.readers(value)
        return node_label(readers[0][0]) if readers else value

    def _made_of(self, node: onnx.NodeProto) -> list[str]:
        """Return what the values that a node makes are called, outside its subgraph too."""
        return [name for output in node.output for name in (output, *self._wiring.onward(output))]

    def _in_slot(self, node: onnx.NodeProto, slot: int) -> Iterator[Use]:
        """Yield the uses that a node makes of a stored value in one of its slots."""
        if subgraphs(node):
            return  # what a loop begins with goes on under another name
        if node.op_type in _LINEAR and slot in (1, 2):
            yield self._companion(node, 0, slot == 2)
        elif slot in BOUNDS.get(node.op_type, ()):
            yield Use(Role.CONSTANT, node_label(node))
        elif self._is_companion_by_hand(node, slot):
            yield self._companion(node, 1 - slot, node.op_type == "Sub")
        elif any(output in self._known for output in node.output):
            for output in node.output:
                for use in self._known.get(output, ()):
                    yield self._through(node, use)
        else:
            yield self._operand(node, slot)

    def _through(self, node: onnx.NodeProto, use: Use) -> Use:
        """Return the use of a value whose result behind a node has some use."""
        # What is dequantized is a quantized parameter, whatever its type and whoever reads it.
        role = Role.WEIGHT if use.role is None and node.op_type == "DequantizeLinear" else use.role
        hint = Hint.COMBINED if node.op_type in COMBINATIONS else use.hint
        return Use(role, use.layer, hint)

    def _operand(self, node: onnx.NodeProto, slot: int) -> Use:
        """Return the use that a computing node makes of a parameter in one of its slots."""
        known, label = slots(node.op_type, len(node.input)) or Slots(), node_label(node)
        if slot in known.weights:
            return Use(Role.WEIGHT, label)
        if slot in known.biases or self._is_added(node, slot):
            return Use(Role.BIAS, label)
        for operand, scale, zero_point in known.quantized:
            if slot in (scale, zero_point):
                return self._companion(node, operand, slot == zero_point)
        for scale, zero_point in known.outputs:
            if slot in (scale, zero_point):
                return Use(Role.ACTIVATION_ZERO_POINT if slot == zero_point else Role.ACTIVATION_SCALE, label)
        if self._scales_product(node, slot):
            return Use(Role.WEIGHT_SCALE, label)
        if node.op_type in COMPARISONS:
            return Use(Role.CONSTANT, label)
        added_to = self._rounded_for(node, slot)
        if added_to is not None:
            return Use(Role.BIAS, node_label(added_to))
        return Use(None, label, self._hint(node))

    def _is_added(self, node: onnx.NodeProto, slot: int) -> bool:
        """Return whether a slot of an addition is the bias of the sum of products in the other one."""
        left, right = ADDITIONS.get(node.op_type, (None, None))
        other = {left: right, right: left}.get(slot)
        return other is not None and other < len(node.input) and self._wiring.product(node.input[other]) is not None

    def _rounded_for(self, node: onnx.NodeProto, slot: int) -> onnx.NodeProto | None:
        """Return the addition of a bias that dynamic quantization divides by the scale of the sum, rounds and adds."""
        if node.op_type not in ("Div", "Mul") or (node.op_type == "Div" and slot != 0):
            return None
        for _ in self._wiring.nodes:
            readers = self._wiring.readers(node.output[0]) if node.output else []
            if len(readers) != 1:
                return None
            node, slot = readers[0]
            if self._is_added(node, slot):
                return node
            if slot != 0 or node.op_type not in PASSED_ON | ROUNDINGS:
                return None
        return None

    def _scales_product(self, node: onnx.NodeProto, slot: int) -> bool:
        """Return whether a multiplication is that of dynamic quantization: by its scale, or of its product."""
        if node.op_type != "Mul" or len(node.input) != 2:
            return False
        other = node.input[1 - slot]
        maker = self._wiring.maker(other)
        dynamic = maker is not None and maker.op_type == "DynamicQuantizeLinear" and other == maker.output[1]
        return dynamic or self._wiring.product(other) in INTEGER_PRODUCTS

    def _is_companion_by_hand(self, node: onnx.NodeProto, slot: int) -> bool:
        """Return whether a slot holds what stored codes are multiplied by or reduced by, without DequantizeLinear."""
        if len(node.input) != 2 or node.input[1 - slot] not in self._wiring.codes:
            return False
        if node.op_type == "Sub":
            return slot == 1
        scales = node.op_type == "Mul" or (node.op_type == "Div" and slot == 1)
        return scales and node.input[slot] not in self._wiring.codes

    def _companion(self, node: onnx.NodeProto, operand: int, zero_point: bool) -> Use:
        """Return the use of a scale or zero point: that of the parameter it belongs to, else of an activation."""
        label, wiring = node_label(node), self._wiring
        value = node.input[operand] if operand < len(node.input) else ""
        if value not in wiring.held and value not in wiring.codes:
            return Use(Role.ACTIVATION_ZERO_POINT if zero_point else Role.ACTIVATION_SCALE, label)
        if slots(node.op_type, len(node.input)) is None:
            uses = self._known.get(node.output[0], Uses()) if node.output else Uses()
            label = uses.first.layer if uses.first else label
            bias = uses.bias_only
        else:
            bias = self._operand(node, operand).role is Role.BIAS
        if bias:
            return Use(Role.BIAS_ZERO_POINT if zero_point else Role.BIAS_SCALE, label)
        return Use(Role.WEIGHT_ZERO_POINT if zero_point else Role.WEIGHT_SCALE, label)

    def _hint(self, node: onnx.NodeProto) -> Hint:
        """Return how a node uses a value that it has no name for."""
        readers = self._wiring.readers(node.output[0]) if node.op_type == "Add" else []
        if readers and all(reader.op_type == "Softmax" for reader, _ in readers):
            return Hint.SCORES
        last = self._lead_on.isdisjoint(self._made_of(node))
        return Hint.LAST if node.op_type in COMBINATIONS and last else Hint.PLAIN
