"""One faulty layer, computed only for the output channels a fault touches, for many faults at once.

A flipped weight or bias of an integer layer changes the output channel it belongs to and no other. Faulty channels of
several faults are stacked into one small layer and fed as inputs, so that no session is created for a fault. Integer
sums are exact in any order; that the kernels agree bit by bit is tried out with golden channels beforehand.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.campaign.engines.activations import Values
from resq_deploy.campaign.engines.rows import Overlay, differing, joined, split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph

MOST = 16
"""Faults that are stacked at most."""

Channels = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Input slots of an integer layer.

    Attributes:
        data: the activations.
        weight: the stored operand.
        bias: the stored bias; None where there is none.
        companions: scale and zero point of the weight, one a channel or one for all.
    """

    data: int
    weight: int
    bias: int | None
    companions: tuple[int, ...]


LAYOUTS = {
    "QLinearConv": Layout(data=0, weight=3, bias=8, companions=(4, 5)),
    "QLinearMatMul": Layout(data=0, weight=3, bias=None, companions=(4, 5)),
    "QGemm": Layout(data=0, weight=3, bias=6, companions=(4, 5)),
    "ConvInteger": Layout(data=0, weight=1, bias=None, companions=(3,)),
    "MatMulInteger": Layout(data=0, weight=1, bias=None, companions=(3,)),
    "MatMulIntegerToFloat": Layout(data=0, weight=1, bias=6, companions=(3, 5)),
    "DynamicQuantizeMatMul": Layout(data=0, weight=1, bias=4, companions=(2, 3)),
}
INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32)


def integer_operands(node: onnx.NodeProto) -> list[str]:
    """Return the names of a node's weight and bias, if it is an integer layer."""
    layout = LAYOUTS.get(node.op_type)
    slots = [layout.weight, layout.bias] if layout else []
    return [node.input[slot] for slot in slots if slot is not None and slot < len(node.input) and node.input[slot]]


class ChannelLayer:
    """An integer layer of the golden graph whose channels can be computed by themselves.

    Args:
        graph: the golden graph.
        place: the layer's node.
        deployment: how the file is run.

    Attributes:
        data: name of the activations it reads.
        output: name of the value it makes.
        tensors: the stored tensors whose faults it can compute: weight, integer bias, and scales, one a channel. A zero
            point that differs from those of other channels can stop the whole layer.

    Raises:
        ValueError: if the node is no such layer.
    """

    def __init__(self, graph: RuntimeGraph, place: int, deployment: Deployment) -> None:
        node = graph.nodes[place]
        layout = LAYOUTS.get(node.op_type)
        if layout is None or len(node.output) != 1 or node.input[layout.weight] not in graph.parameters:
            raise ValueError(f"{node.op_type} is no layer with stored integer weights")
        self.data, self.output = node.input[layout.data], node.output[0]
        if self.data in graph.parameters:
            raise ValueError("the stored operand is the left one")
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        convolution = node.op_type in ("QLinearConv", "ConvInteger")
        self._out_axis = 1 if convolution and not attributes.get("channels_last") else -1
        self._groups = int(attributes.get("group", 1)) if convolution else 1
        self._weight = node.input[layout.weight]
        stored = numpy_helper.to_array(graph.parameters[self._weight])
        if not convolution and stored.ndim != 2:
            raise ValueError("the weight is no matrix")
        self._axis = 0 if convolution or attributes.get("transB") else 1
        self.channels = stored.shape[self._axis]
        self._stacked: dict[int, tuple[str, NDArray[Any], int]] = {layout.weight: (self._weight, stored, self._axis)}
        self._bias = self._stack_others(graph, node, layout)
        self.tensors = self._hit(graph, place)
        self._part = self._build(graph, place, deployment)

    def _stack_others(self, graph: RuntimeGraph, node: onnx.NodeProto, layout: Layout) -> str | None:
        """Note the other inputs that hold one value a channel; return the bias if it is stored as integers."""
        bias = None
        for slot in (*layout.companions, layout.bias):
            if slot is None or slot >= len(node.input) or not node.input[slot]:
                continue
            name = node.input[slot]
            if name not in graph.parameters:
                raise ValueError(f"{name!r} is no stored tensor")
            values = numpy_helper.to_array(graph.parameters[name])
            if values.shape == (self.channels,) and self.channels > 1:
                self._stacked[slot] = (name, values, 0)
            elif values.size != 1 or slot == layout.bias:
                raise ValueError(f"{name!r} has shape {values.shape}")
            if slot == layout.bias and values.dtype == np.int32:
                bias = name
        return bias

    def _hit(self, graph: RuntimeGraph, place: int) -> tuple[str, ...]:
        """Return what is stored for each channel and read here alone, in one slot: weight and bias, and scales."""
        hit = []
        scales = [name for name, values, _ in self._stacked.values() if values.dtype.kind == "f"]
        for name in dict.fromkeys(filter(None, (self._weight, self._bias, *scales))):
            slots = list(graph.nodes[place].input).count(name)
            known = name in scales or graph.parameters[name].data_type in INTEGERS
            if known and slots == 1 and graph.readers(name) == [place] and self.channels > 1:
                hit.append(name)
        if not set(hit) & {self._weight, self._bias}:
            raise ValueError("no stored integers of its own")
        return tuple(hit)

    def _build(self, graph: RuntimeGraph, place: int, deployment: Deployment) -> Part:
        node = onnx.NodeProto()
        node.CopyFrom(graph.nodes[place])
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = 1
        part = onnx.GraphProto(name="channels")
        part.input.append(onnx.helper.make_tensor_value_info(self.data, graph.element_type(self.data), None))
        for slot, (name, _, _) in self._stacked.items():
            node.input[slot] = f"channels {slot}"
            stored = graph.parameters[name]
            part.input.append(onnx.helper.make_tensor_value_info(f"channels {slot}", stored.data_type, None))
        part.node.append(node)
        part.initializer.extend(
            graph.parameters[name] for name in dict.fromkeys(node.input) if name in graph.parameters
        )
        part.output.append(onnx.ValueInfoProto(name=self.output))
        inputs = [self.data, *(f"channels {slot}" for slot in self._stacked)]
        return Part(graph.as_model(part).SerializeToString(), inputs, [self.output], deployment)

    def touched(self, values: Mapping[str, bytes]) -> Channels:
        """Return the output channels that new stored bytes of its tensors change."""
        found = np.zeros(self.channels, dtype=bool)
        for name, stored, axis in self._stacked.values():
            if name in values:
                differs = np.frombuffer(values[name], dtype=stored.dtype).reshape(stored.shape) != stored
                found |= differs.any(axis=tuple(other for other in range(stored.ndim) if other != axis))
        return np.flatnonzero(found)

    def elements(self, tensor: str, channels: int) -> NDArray[np.int64]:
        """Return the elements, flat and row-major, that one of its tensors stores for the first so many channels."""
        _, stored, axis = next(entry for entry in self._stacked.values() if entry[0] == tensor)
        places = np.arange(stored.size).reshape(stored.shape)
        return places.take(np.arange(channels), axis=axis).reshape(-1)

    def faulty(self, values: Mapping[str, bytes], channels: Channels) -> list[NDArray[Any]]:
        """Return what the layer stores for some channels, faults included, in the order of its inputs."""
        taken = []
        for name, stored, axis in self._stacked.values():
            whole = np.frombuffer(values[name], dtype=stored.dtype).reshape(stored.shape) if name in values else stored
            taken.append(whole.take(channels, axis=axis))
        return taken

    def run(
        self, data: NDArray[Any], channels: Sequence[Channels], stored: Sequence[list[NDArray[Any]]]
    ) -> list[NDArray[Any]]:
        """Return the outputs of faults' channels, each with the channels along the last axis.

        Args:
            data: the layer's activations.
            channels: for each fault the channels it touches.
            stored: for each fault what the layer stores for them.
        """
        if self._groups > 1:
            return [self._one_by_one(data, chosen, parts) for chosen, parts in zip(channels, stored, strict=True)]
        stacked = [np.concatenate([parts[at] for parts in stored], axis=axis) for at, axis in enumerate(self._axes)]
        ends = np.cumsum([len(chosen) for chosen in channels])[:-1]
        return np.split(self._run(data, stacked), ends, axis=-1)

    def _one_by_one(self, data: NDArray[Any], channels: Channels, stored: list[NDArray[Any]]) -> NDArray[Any]:
        """Run channels of a grouped convolution, each on the input channels of its group."""
        outputs = []
        for at, channel in enumerate(channels):
            alone = [part.take([at], axis=axis) for part, axis in zip(stored, self._axes, strict=True)]
            outputs.append(self._run(self._group_of(data, int(channel)), alone))
        return np.concatenate(outputs, axis=-1)

    @property
    def _axes(self) -> list[int]:
        return [axis for _, _, axis in self._stacked.values()]

    def _group_of(self, data: NDArray[Any], channel: int) -> NDArray[Any]:
        """Return the input channels that a channel of a grouped convolution reads."""
        axis = self._out_axis % data.ndim
        width = data.shape[axis] // self._groups
        first = channel // (self.channels // self._groups) * width
        return np.ascontiguousarray(data.take(range(first, first + width), axis=axis))

    def _run(self, data: NDArray[Any], stacked: Sequence[NDArray[Any]]) -> NDArray[Any]:
        feeds = dict(zip(self._part.inputs, [data, *stacked], strict=True))
        return np.moveaxis(np.asarray(self._part.run(feeds)[0]), self._out_axis, -1)

    def differing(self, part: NDArray[Any], output: NDArray[Any], channels: Channels, rows: int) -> Channels:
        """Return which of the rows of a batch differ from the layer's golden output in these channels."""
        known = np.ascontiguousarray(self._last(output)[..., channels])
        left, right = split(part, rows), split(known, rows)
        if left is None or right is None:  # no rows of images: all of them, or none
            return np.arange(rows) if differing(part[None], known[None]).any() else np.arange(0)
        return np.flatnonzero(differing(left, right))

    def overlay(self, part: NDArray[Any], channels: Channels, rows: int) -> Overlay:
        """Return a function that puts channels of a batch into copies of some rows of the golden output."""

        def put(values: Values, chosen: Channels) -> None:
            blocks = split(part, rows)
            taken = part if blocks is None or len(chosen) == rows else joined(blocks[chosen])
            self._last(values[self.output])[..., channels] = taken

        return put

    def faulty_output(self, golden: Values, overlay: Overlay, rows: int) -> Values:
        """Return the layer's golden output for a batch with faulty channels put in."""
        faulty = {self.output: golden[self.output].copy()}
        overlay(faulty, np.arange(rows))
        return faulty

    def _last(self, output: NDArray[Any]) -> NDArray[Any]:
        """Return a view of the layer's output with the channels along the last axis."""
        return np.moveaxis(output, self._out_axis, -1)

    def agrees(self, data: NDArray[Any], output: NDArray[Any]) -> bool:
        """Try whether golden channels by themselves equal those of the whole layer bit by bit.

        Args:
            data: golden activations of one batch.
            output: what the whole layer made of them.
        """
        source = np.random.default_rng(0)
        for count in (1, 2, min(MOST, self.channels)):
            channels = np.sort(source.choice(self.channels, min(count, self.channels), replace=False))
            (alone,) = self.run(data, [channels], [self.faulty({}, channels)])
            if len(self.differing(alone, output, channels, 1)):
                return False
        return True
