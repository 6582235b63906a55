"""What must change with a stored weight's codes so that all who read it still read the same values.

A weight is `scale * (code - zero point)`. When its codes are divided by a factor, these go with them:

    scales       of every reader - a DequantizeLinear, a quantized operator, or the Mul behind an integer product -
                 are multiplied by it
    zero points  move with the codes
    biases       int32 codes that are added to sums of products are divided by it. In QLinearConv and QGemm their step
                 is the product of the scales of input and weight, which has grown. A bias of DequantizeLinear has a
                 scale of its own; but where onnxruntime fuses such a layer, it takes the codes and not that scale, so
                 that both change here, and the file means the same with and without fusion.

Where it cannot be told from the graph who reads a weight, and how, nothing of it may change: `Companions` says why.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from resq_deploy.deployed.nesting import node_label
from resq_deploy.deployed.operators import PRODUCTS, SELECTIONS, Slots, slots
from resq_deploy.deployed.stored import STANDARD_DOMAINS
from resq_deploy.deployed.wiring import Wiring

Axes = tuple[int, ...] | None
"""For each axis of a value, which one of the weight it is; None where that is lost."""

_RESHAPED = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_SAME_VALUES = _RESHAPED | {"Identity", "Transpose"}
_CHANNEL_FIRST = frozenset({"Conv", "ConvInteger", "FusedConv", "NhwcFusedConv", "QLinearConv"})
_PACKED = frozenset({"GatherBlockQuantized", "MatMulNBits"})  # several weights in a byte, scales of blocks
_INTEGER_BIAS = frozenset({"QGemm", "QLinearConv"})
_RIGHT = {
    "DynamicQuantizeMatMul": 1,
    "FusedMatMul": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "QAttention": 1,
    "QLinearMatMul": 3,
}
"""Operators that multiply matrices, and the slot of the right one, whose last axis is that of the outputs."""

_GEMMS = {"FusedGemm": 1, "Gemm": 1, "QGemm": 3}


class UnreadableError(Exception):
    """Nothing of a weight can be changed; the message says why, to stand behind `left as it is:`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """An input of a node of the model, which changes in place with the graph."""

    node: onnx.NodeProto
    slot: int

    @property
    def value(self) -> str:
        """The name of what is read there."""
        return str(self.node.input[self.slot])

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from other places, whatever it reads: a value has one maker."""
        return next(filter(None, self.node.output)), self.node.op_type, self.slot


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Companions:
    """What changes with a weight.

    Attributes:
        weight: name of the initializer.
        axis: the axis of the weight along which each channel may have a factor of its own; None where all of it must
            have one.
        outputs: the axis of the output channels, over each of which products are summed up.
        codes: who reads the codes.
        scales: float values to multiply by the factor.
        biases: int32 codes to divide by it.
        zero_points: stored zero points; empty where they are left out, and so are 0.
        zero: their value, [] or, along `axis`, [channels].
    """

    weight: str
    axis: int | None
    outputs: int
    codes: tuple[Place, ...]
    scales: tuple[Place, ...]
    biases: tuple[Place, ...]
    zero_points: tuple[Place, ...]
    zero: NDArray[np.int16]


class CompanionReader:
    """Finds the companions of weights.

    Args:
        model: the model, self-contained, without votes and codes; companions are places in it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._wiring = Wiring(model.graph)
        self._outputs = {value.name for value in model.graph.output}
        given = {value.name for value in model.graph.input}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in given}
        self._taken: set[tuple[str, str, int]] = set()

    def readers(self, value: str) -> list[Place] | None:
        """Return all who read a value, by place; None where others may read it too."""
        passed_on = value in self._wiring.returned or self._wiring.onward(value) or value in self._outputs
        return None if passed_on else [Place(node, slot) for node, slot in self._wiring.readers(value)]

    def companions(self, weight: str) -> Companions:
        """Return what changes with a weight; each place is given to one weight only.

        Raises:
            UnreadableError: if that cannot be told, or is given to another weight.
        """
        if weight not in self._stored:
            raise UnreadableError("it is no initializer of the main graph, or a graph input too")
        search = _Search(self, self._wiring, self._stored, self._stored[weight])
        found = search.companions()
        places = {place.key for part in (found.codes, found.scales, found.biases) for place in part}
        if not self._taken.isdisjoint(places):
            raise UnreadableError("what is to change with it belongs to another weight as well")
        self._taken |= places
        return found


class _Search:
    """The search for the companions of one weight."""

    def __init__(
        self, reader: CompanionReader, wiring: Wiring, stored: dict[str, TensorProto], tensor: TensorProto
    ) -> None:
        self._reader, self._wiring, self._stored, self._tensor = reader, wiring, stored, tensor
        self._codes: list[Place] = []
        self._scales: list[Place] = []
        self._biases: list[Place] = []
        self._zeros: list[Place | None] = []
        self._axes: list[int | None] = []  # what each scale says
        self._outputs: list[int] = []

    def companions(self) -> Companions:
        self._follow_codes(self._tensor.name, tuple(range(len(self._tensor.dims))))
        if not self._codes:
            raise UnreadableError("nothing reads it")
        outputs = self._outputs[0] if self._outputs else 0
        axis = self._common_axis()
        return Companions(
            weight=self._tensor.name,
            axis=axis,
            outputs=outputs,
            codes=tuple(self._codes),
            scales=tuple(self._scales),
            biases=tuple(self._biases),
            zero_points=tuple(filter(None, self._zeros)),
            zero=self._zero(axis),
        )

    def _common_axis(self) -> int | None:
        """Return the axis along which every companion has one value a channel; None where one of them has not."""
        axes = set(self._axes)
        axis = axes.pop() if len(axes) == 1 else None
        if axis is None or (self._biases and set(self._outputs) != {axis}):
            return None
        channels = self._tensor.dims[axis]
        sizes = {self._values(place).size for place in (*self._scales, *self._biases)}
        return axis if sizes <= {channels} else None

    def _zero(self, axis: int | None) -> NDArray[np.int16]:
        """Return the one zero point of the weight, or one a channel.

        Raises:
            UnreadableError: if readers do not agree on it, or it has a layout that is not known.
        """
        values = [np.zeros(1, np.int16) if place is None else self._values(place) for place in self._zeros]
        flat = [value.reshape(-1).astype(np.int16) for value in values]
        if all((value == flat[0][0]).all() for value in flat):
            return np.array(flat[0][0])
        agreed = all(np.array_equal(value, flat[0]) for value in flat)
        if not agreed or axis is None or flat[0].size != self._tensor.dims[axis]:
            raise UnreadableError("its readers have different zero points")
        return flat[0]

    def _values(self, place: Place) -> NDArray[Any]:
        return numpy_helper.to_array(self._stored[place.value])

    def _place(self, node: onnx.NodeProto, slot: int, what: str) -> Place:
        """Return a place that reads a stored tensor.

        Raises:
            UnreadableError: if what is read there is computed, given, or missing.
        """
        if slot >= len(node.input) or node.input[slot] not in self._stored:
            raise UnreadableError(f"{what} at {node_label(node)!r} is no plain stored tensor")
        return Place(node, slot)

    def _readers(self, value: str) -> list[Place]:
        readers = self._reader.readers(value)
        if readers is None:
            raise UnreadableError(f"{value!r} is handed on as an output, or into or out of a subgraph")
        return readers

    def _follow_codes(self, value: str, axes: Axes) -> None:
        """Take up all who read codes, through nodes that only lay them out anew."""
        for place in self._readers(value):
            node, slot = place.node, place.slot
            if slot == 0 and node.op_type in _SAME_VALUES | SELECTIONS and node.domain in STANDARD_DOMAINS:
                for output in node.output:
                    self._follow_codes(output, _turned(node, axes))
            elif slot == 0 and node.op_type == "DequantizeLinear" and node.domain in STANDARD_DOMAINS:
                self._dequantized(place, axes)
            elif node.domain in STANDARD_DOMAINS:
                self._quantized(place, axes)
            else:
                raise UnreadableError(f"{node.op_type} {node_label(node)!r} reads it")

    def _take(self, place: Place, scale: Place, zero: int, axis: int | None) -> None:
        """Take up a reader of the codes with its scale and zero point."""
        node = place.node
        stored = zero < len(node.input) and bool(node.input[zero])
        self._codes.append(place)
        self._scales.append(scale)
        self._zeros.append(self._place(node, zero, "its zero point") if stored else None)
        self._axes.append(axis)

    def _dequantized(self, place: Place, axes: Axes) -> None:
        node = place.node
        if _attribute(node, "block_size", 0):
            raise UnreadableError(f"it is dequantized by blocks at {node_label(node)!r}")
        scale = self._place(node, 1, "its scale")
        axis = None
        if axes and self._values(scale).ndim == 1:
            axis = axes[_attribute(node, "axis", 1) % len(axes)]
        self._take(place, scale, 2, axis)
        self._follow_floats(node.output[0], axes)

    def _follow_floats(self, value: str, axes: Axes) -> None:
        """Look for biases of the layers that read dequantized values."""
        if self._wiring.onward(value):
            raise UnreadableError(f"{value!r} is handed into or out of a subgraph")
        for node, slot in self._wiring.readers(value):
            if slot == 0 and node.op_type in _SAME_VALUES | SELECTIONS:
                for output in node.output:
                    self._follow_floats(output, _turned(node, axes))
                continue
            known = slots(node.op_type, len(node.input)) or Slots()
            outputs = _output_axis(node, slot, axes)
            if outputs is not None:
                self._outputs.append(outputs)
            for at in known.biases:
                if at < len(node.input) and at != slot:
                    self._float_bias(node.input[at])
            for adding, addend in self._added_to(node):
                self._float_bias(adding.input[addend])

    def _added_to(self, node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, int]]:
        """Yield the additions behind a product, each with the slot of what is added: onnxruntime may make them one."""
        if node.op_type not in PRODUCTS or not node.output:
            return
        for reader, slot in self._wiring.readers(node.output[0]):
            if reader.op_type == "Add" and len(reader.input) == 2:
                yield reader, 1 - slot

    def _float_bias(self, value: str) -> None:
        """Take up a bias where it is a dequantized int32; others are floats, which mean the same as before."""
        maker, direct = self._wiring.maker(value), True
        while maker is not None and maker.op_type in _SAME_VALUES:
            maker, direct = self._wiring.maker(maker.input[0]), False
        if maker is None or maker.op_type != "DequantizeLinear":
            return
        codes = self._stored.get(maker.input[0])
        if codes is not None and codes.data_type != TensorProto.INT32:
            return
        label = node_label(maker)
        if codes is None:
            if self._computed_int32(maker.input[0]):
                raise UnreadableError(f"the bias dequantized at {label!r} is no plain stored tensor")
            return
        readers = self._readers(maker.output[0])
        if not direct or len(readers) > 1:
            raise UnreadableError(f"the bias dequantized at {label!r} is reshaped, or has several readers")
        if len(maker.input) > 2 and maker.input[2]:
            zero = self._place(maker, 2, "the zero point of its bias")
            if self._values(zero).any():
                raise UnreadableError(f"the bias dequantized at {label!r} has a zero point")
        self._biases.append(Place(maker, 0))
        self._scales.append(self._place(maker, 1, "the scale of its bias"))

    def _computed_int32(self, value: str) -> bool:
        """Return whether what is dequantized may be an int32 bias all the same: it follows from stored values alone."""
        return value in self._wiring.held

    def _quantized(self, place: Place, axes: Axes) -> None:
        """Take up an operator that computes with the codes themselves."""
        node, slot = place.node, place.slot
        known = slots(node.op_type, len(node.input)) or Slots()
        triple = next((triple for triple in known.quantized if triple[0] == slot), None)
        _, scale, zero = triple or (slot, None, None)
        if zero is None or node.op_type in _PACKED:
            raise UnreadableError(f"{node.op_type} {node_label(node)!r} reads it")
        outputs = _output_axis(node, slot, axes)
        if outputs is not None:
            self._outputs.append(outputs)
        if scale is None:
            self._integer_product(place, zero, outputs)
            return
        found = self._place(node, scale, "its scale")
        self._take(place, found, zero, outputs if self._values(found).size > 1 else None)
        if node.op_type in _INTEGER_BIAS:
            for at in known.biases:
                if at < len(node.input) and node.input[at]:
                    self._biases.append(self._place(node, at, "its bias"))

    def _integer_product(self, place: Place, zero: int, outputs: int | None) -> None:
        """Take up an operator that gives sums of products in int32, which are scaled behind it."""
        scales = list(self._scales_behind(place.node.output[0], is_float=False))
        if not scales:
            raise UnreadableError(f"nothing scales the sums of {node_label(place.node)!r}")
        for scale in scales:
            self._take(place, scale, zero, outputs if self._values(scale).size > 1 else None)

    def _scales_behind(self, value: str, *, is_float: bool) -> Iterator[Place]:
        """Yield the stored scales that sums of products are multiplied by, and take up what is added to them."""
        for place in self._readers(value):
            node, slot = place.node, place.slot
            if node.op_type == "Cast" and not is_float and _attribute(node, "to", 0) == TensorProto.FLOAT:
                yield from self._scales_behind(node.output[0], is_float=True)
            elif node.op_type == "Add" and not is_float:
                self._biases.append(self._place(node, 1 - slot, "its bias"))
                yield from self._scales_behind(node.output[0], is_float=False)
            elif node.op_type == "Mul" and is_float:
                yield self._factor(node, 1 - slot)
            else:
                raise UnreadableError(f"{node.op_type} {node_label(node)!r} reads the sums of its products")

    def _factor(self, node: onnx.NodeProto, slot: int) -> Place:
        """Return the stored scale in a factor: the factor itself, or one of the two it is the product of."""
        if node.input[slot] in self._stored:
            return Place(node, slot)
        maker = self._wiring.maker(node.input[slot])
        if maker is not None and maker.op_type == "Mul" and len(self._readers(maker.output[0])) == 1:
            stored = [at for at, value in enumerate(maker.input) if value in self._stored]
            if len(stored) == 1:
                return Place(maker, stored[0])
        raise UnreadableError(f"no stored scale is found at {node_label(node)!r}")


def _turned(node: onnx.NodeProto, axes: Axes) -> Axes:
    """Return what the axes of a value are behind a node that lays it out anew."""
    if axes is None or node.op_type == "Identity":
        return axes
    if node.op_type == "Transpose":
        order: Sequence[int] = _attribute(node, "perm", tuple(reversed(range(len(axes)))))
        return tuple(axes[at] for at in order)
    return None


def _output_axis(node: onnx.NodeProto, slot: int, axes: Axes) -> int | None:
    """Return the axis of the weight that is, at an operand of a product, that of its output channels, if it is known.

    ConvTranspose has its output channels in groups along its second axis; these are not told apart.
    """
    if not axes:
        return None
    if node.op_type in _CHANNEL_FIRST:
        return axes[0]
    if node.op_type in _GEMMS:
        right, turned = slot == _GEMMS[node.op_type], bool(_attribute(node, "transB", 0))
        return axes[0 if turned else 1] if right and len(axes) == 2 else None
    if _RIGHT.get(node.op_type) == slot and not _attribute(node, "transB", 0):
        return axes[-1]
    return None


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)
