"""The surfaces of a file: which stored tensors bits can flip in, and what each is for.

Roles follow from how nodes consume a tensor, never from its name, so that files of any exporter read alike: QDQ and
QOperator, static and dynamic quantization, com.microsoft operators, float models.
"""

import dataclasses
import enum
import math
from collections.abc import Iterator

import onnx

from resq_deploy.deployed.graph import WIDTHS, Wiring, node_label, stored_tensors
from resq_deploy.deployed.operators import PASSED_ON, PRODUCTS, SHAPE_SLOTS, slots


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
_FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}
_QUANTIZED = {
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.UINT16,
    onnx.TensorProto.INT4,
    onnx.TensorProto.UINT4,
    onnx.TensorProto.FLOAT8E4M3FN,
    onnx.TensorProto.FLOAT8E4M3FNUZ,
    onnx.TensorProto.FLOAT8E5M2,
    onnx.TensorProto.FLOAT8E5M2FNUZ,
}


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
    role: Role
    node: onnx.NodeProto


def find_surfaces(model: onnx.ModelProto) -> tuple[Surface, ...]:
    """Return every surface of a model in the order of the file; a tensor that no node reads is none."""
    reader = _RoleReader(Wiring(model.graph))
    found: dict[str, Surface] = {}
    for tensor, name in stored_tensors(model.graph):
        if tensor.data_type not in WIDTHS or not math.prod(tensor.dims) or name in found:
            continue
        uses = reader.uses(name, tensor.data_type)
        if not uses:
            continue
        use = min(uses, key=lambda use: _EXPOSURE[use.role])
        found[name] = Surface(
            tensor=name,
            role=use.role,
            layer=node_label(use.node),
            dtype=onnx.TensorProto.DataType.Name(tensor.data_type).lower(),
            shape=tuple(tensor.dims),
            width=WIDTHS[tensor.data_type],
        )
    return tuple(found.values())


class _RoleReader:
    """Derives roles by following a stored value to the nodes that compute with it."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring

    def uses(self, value: str, dtype: int) -> list[_Use]:
        """Return each use of a stored value of this type as a parameter; shapes and indices are none."""
        found = []
        for use in self._follow(value, frozenset()):
            if isinstance(use, _Use):
                found.append(use)
            elif use[1] in SHAPE_SLOTS.get(use[0].op_type, ()):
                continue
            elif dtype in _QUANTIZED or dtype in _FLOATS:
                found.append(_Use(Role.WEIGHT if dtype in _QUANTIZED else Role.FLOAT, use[0]))
        return found

    def _follow(self, value: str, seen: frozenset[str]) -> Iterator[_Use | tuple[onnx.NodeProto, int]]:
        """Yield the uses of a parameter value, looking through nodes that only pass it on.

        `seen` ends the walk in a graph with a cycle, which no valid file has.
        """
        if value in seen:
            return
        for node, slot in self._wiring.readers(value):
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and slot in (1, 2):
                yield self._companion(node, 0, slot == 2, seen | {value})
            elif node.op_type in PASSED_ON and slot == 0 and node.output:
                yield from self._follow(node.output[0], seen | {value})
            else:
                yield self._operand(node, slot, seen | {value}) or (node, slot)

    def _operand(self, node: onnx.NodeProto, slot: int, seen: frozenset[str]) -> _Use | None:
        """Return the use that a computing node makes of a parameter in one of its slots, if it is a known one."""
        known = slots(node.op_type, len(node.input))
        if known is not None:
            if slot in known.weights:
                return _Use(Role.WEIGHT, node)
            if slot in known.biases:
                return _Use(Role.BIAS, node)
            for operand, scale, zero_point in known.quantized:
                if slot in (scale, zero_point):
                    return self._companion(node, operand, slot == zero_point, seen)
            for scale, zero_point in known.outputs:
                if slot in (scale, zero_point):
                    role = Role.ACTIVATION_ZERO_POINT if slot == zero_point else Role.ACTIVATION_SCALE
                    return _Use(role, node)
        if node.op_type in ("Add", "Mul") and len(node.input) == 2:
            return self._elementwise(node, node.input[1 - slot])
        return None

    def _elementwise(self, node: onnx.NodeProto, other: str) -> _Use | None:
        """Recognise a bias added to a product, and the weight scale of a dynamically quantized one."""
        maker = self._wiring.maker(other)
        if node.op_type == "Mul":
            dynamic = maker is not None and maker.op_type == "DynamicQuantizeLinear" and other == maker.output[1]
            return _Use(Role.WEIGHT_SCALE, node) if dynamic else None
        for _ in range(len(self._wiring.nodes)):
            if maker is None or maker.op_type in PRODUCTS:
                break
            # Dynamic quantization scales the integer product with a Mul before the bias is added.
            if maker.op_type not in PASSED_ON and maker.op_type != "Mul":
                return None
            maker = self._wiring.maker(maker.input[0]) if maker.input else None
        return _Use(Role.BIAS, node) if maker is not None and maker.op_type in PRODUCTS else None

    def _companion(self, node: onnx.NodeProto, operand: int, zero_point: bool, seen: frozenset[str]) -> _Use:
        """Return the use of a scale or zero point: that of the parameter it belongs to, else of an activation."""
        value = node.input[operand] if operand < len(node.input) else ""
        if not self._is_parameter(value):
            return _Use(Role.ACTIVATION_ZERO_POINT if zero_point else Role.ACTIVATION_SCALE, node)
        owner = node
        bias = False
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.output:
            uses = list(self._follow(node.output[0], seen))
            owner = next((use.node if isinstance(use, _Use) else use[0] for use in uses), node)
            bias = bool(uses) and all(isinstance(use, _Use) and use.role is Role.BIAS for use in uses)
        if bias:
            return _Use(Role.BIAS_ZERO_POINT if zero_point else Role.BIAS_SCALE, owner)
        return _Use(Role.WEIGHT_ZERO_POINT if zero_point else Role.WEIGHT_SCALE, owner)

    def _is_parameter(self, value: str) -> bool:
        """Return whether a value is stored, or only passed on from a stored one."""
        for _ in range(len(self._wiring.nodes) + 1):
            if value in self._wiring.stored:
                return True
            maker = self._wiring.maker(value)
            if maker is None or maker.op_type not in PASSED_ON or not maker.input:
                return False
            value = maker.input[0]
        return False
