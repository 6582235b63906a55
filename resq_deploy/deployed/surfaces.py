"""The surfaces of a file: which stored tensors bits can flip in, and what each is for.

Roles follow from how nodes consume a tensor, never from its name, so that files of any exporter read alike: QDQ and
QOperator, static and dynamic quantization, com.microsoft operators, float models.
"""

import collections
import dataclasses
import enum
import math

import onnx

from resq_deploy.deployed.graph import node_label, stored_tensors
from resq_deploy.deployed.operators import ADDITIONS, INTEGER_PRODUCTS, NO_PARAMETERS, Slots, slots
from resq_deploy.deployed.tensors import WIDTHS
from resq_deploy.deployed.wiring import Wiring
from resq_deploy.errors import ModelError


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


_EXPOSURE = {role: order for order, role in enumerate(Role)}
_LINEAR = ("QuantizeLinear", "DequantizeLinear")
_FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}
_QUANTIZED = WIDTHS.keys() - _FLOATS - {onnx.TensorProto.INT32}  # an int32 without a known use is an index


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surface:
    """One stored tensor that faults can hit.

    Attributes:
        tensor: name of the initializer (or of the value of a Constant node).
        role: what it is for; of a shared tensor, its most exposed use.
        layer: the first node that computes with it: the node's name, else its first output.
        dtype: stored type, as ONNX names it, in lower case.
        shape: shape of the tensor.
        width: stored bits of one element.
    """

    tensor: str
    role: Role
    layer: str
    dtype: str
    shape: tuple[int, ...]
    width: int

    @property
    def elements(self) -> int:
        """How many values it stores."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """How many bits it stores."""
        return self.elements * self.width

    def as_dict(self) -> dict[str, object]:
        """Return the surface as the JSON object `inspect --json` prints."""
        return {
            "tensor": self.tensor,
            "role": str(self.role),
            "layer": self.layer,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "bits": self.bits,
        }


@dataclasses.dataclass(frozen=True)
class _Use:
    """What one node does with a value; no role where only the value's type can tell."""

    role: Role | None
    layer: str


class _Uses:
    """The uses of one value, boiled down to the first of each role, so that they stay few in any graph."""

    def __init__(self) -> None:
        self.by_role: dict[Role | None, _Use] = {}

    def add(self, use: _Use) -> None:
        self.by_role.setdefault(use.role, use)

    @property
    def first(self) -> _Use | None:
        return next(iter(self.by_role.values()), None)

    @property
    def bias_only(self) -> bool:
        return list(self.by_role) == [Role.BIAS]

    def most_exposed(self, dtype: int) -> tuple[Role, str] | None:
        """Return the role of a stored tensor of this type, and the layer in it; None if it is no parameter."""
        plain = Role.WEIGHT if dtype in _QUANTIZED else Role.FLOAT if dtype in _FLOATS else None
        roles = [(role or plain, use.layer) for role, use in self.by_role.items()]
        known = [(role, layer) for role, layer in roles if role is not None]
        return min(known, key=lambda use: _EXPOSURE[use[0]], default=None)


def find_surfaces(model: onnx.ModelProto) -> tuple[Surface, ...]:
    """Return every surface of a model in the order of the file; a tensor that no node reads is none.

    Raises:
        ModelError: if two stored tensors share a name, so that a fault could not say which it means.
    """
    reader = _RoleReader(Wiring(model.graph))
    names = collections.Counter(name for _, name in stored_tensors(model.graph))
    found = []
    for tensor, name in stored_tensors(model.graph):
        if tensor.data_type not in WIDTHS or not math.prod(tensor.dims):
            continue
        use = reader.uses(name).most_exposed(tensor.data_type)
        if use is None:
            continue
        if names[name] > 1:
            raise ModelError(f"{names[name]} stored tensors are called {name!r}: give each a name of its own")
        found.append(
            Surface(
                tensor=name,
                role=use[0],
                layer=use[1],
                dtype=onnx.TensorProto.DataType.Name(tensor.data_type).lower(),
                shape=tuple(tensor.dims),
                width=WIDTHS[tensor.data_type],
            )
        )
    return tuple(found)


class _RoleReader:
    """Derives roles by following a stored value to the nodes that compute with it.

    The uses of the values that follow from stored ones are gathered once, against the direction of the graph.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._known: dict[str, _Uses] = {}
        for node in reversed(wiring.nodes):
            for output in node.output:
                if output in wiring.parameters:
                    self._known[output] = self.uses(output)

    def uses(self, value: str) -> _Uses:
        """Return each use of a stored value as a parameter, looking through nodes that only pass it on."""
        found = _Uses()
        for node, slot in self._wiring.readers(value):
            if slot in NO_PARAMETERS.get(node.op_type, ()):
                continue
            if node.op_type in _LINEAR and slot in (1, 2):
                found.add(self._companion(node, 0, slot == 2))
            elif node.output and node.output[0] in self._known:
                # What is dequantized is a quantized parameter, whatever its type and whoever reads it.
                plain = Role.WEIGHT if node.op_type == "DequantizeLinear" else None
                for output in filter(None, node.output):
                    for use in self._known[output].by_role.values():
                        found.add(_Use(use.role or plain, use.layer))
            else:
                found.add(self._operand(node, slot))
        return found

    def _operand(self, node: onnx.NodeProto, slot: int) -> _Use:
        """Return the use that a computing node makes of a parameter in one of its slots."""
        known = slots(node.op_type, len(node.input)) or Slots()
        if slot in known.weights:
            return _Use(Role.WEIGHT, node_label(node))
        if slot in known.biases or self._is_added(node, slot):
            return _Use(Role.BIAS, node_label(node))
        for operand, scale, zero_point in known.quantized:
            if slot in (scale, zero_point):
                return self._companion(node, operand, slot == zero_point)
        for scale, zero_point in known.outputs:
            if slot in (scale, zero_point):
                role = Role.ACTIVATION_ZERO_POINT if slot == zero_point else Role.ACTIVATION_SCALE
                return _Use(role, node_label(node))
        return _Use(Role.WEIGHT_SCALE if self._scales_product(node, slot) else None, node_label(node))

    def _is_added(self, node: onnx.NodeProto, slot: int) -> bool:
        """Return whether a slot of an addition is the bias of the sum of products in the other one."""
        left, right = ADDITIONS.get(node.op_type, (None, None))
        other = {left: right, right: left}.get(slot)
        return other is not None and other < len(node.input) and self._wiring.product(node.input[other]) is not None

    def _scales_product(self, node: onnx.NodeProto, slot: int) -> bool:
        """Return whether a multiplication is that of dynamic quantization: by its scale, or of its product."""
        if node.op_type != "Mul" or len(node.input) != 2:
            return False
        other = node.input[1 - slot]
        maker = self._wiring.maker(other)
        dynamic = maker is not None and maker.op_type == "DynamicQuantizeLinear" and other == maker.output[1]
        return dynamic or self._wiring.product(other) in INTEGER_PRODUCTS

    def _companion(self, node: onnx.NodeProto, operand: int, zero_point: bool) -> _Use:
        """Return the use of a scale or zero point: that of the parameter it belongs to, else of an activation."""
        label = node_label(node)
        if operand >= len(node.input) or node.input[operand] not in self._wiring.parameters:
            return _Use(Role.ACTIVATION_ZERO_POINT if zero_point else Role.ACTIVATION_SCALE, label)
        if node.op_type in _LINEAR:
            uses = self._known.get(node.output[0], _Uses()) if node.output else _Uses()
            label = uses.first.layer if uses.first else label
            bias = uses.bias_only
        else:
            bias = self._operand(node, operand).role is Role.BIAS
        if bias:
            return _Use(Role.BIAS_ZERO_POINT if zero_point else Role.BIAS_SCALE, label)
        return _Use(Role.WEIGHT_ZERO_POINT if zero_point else Role.WEIGHT_SCALE, label)
