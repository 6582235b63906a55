"""The weight tensors of a float model: which they are, their channels, and narrowing them."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.errors import ModelError
from resq_deploy.grid import CODE_MAX, weight_scale
from resq_deploy.quantization.scheme import Scheme

_WEIGHT_SLOTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}
"""Operators whose stored operands the quantizer makes int8, and the inputs these are."""

Clips = Mapping[str, NDArray[np.float32]]
"""By name of the tensor, the clip of each channel, shape [channels], or of the tensor, shape []."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WeightTensor:
    """One stored weight of Conv, Gemm or MatMul nodes.

    Attributes:
        name: of the initializer.
        axis: the axis of channels, None where the tensor has one range.
        values: float32, finite.
    """

    name: str
    axis: int | None
    values: NDArray[np.float32]

    @property
    def largest(self) -> NDArray[np.float32]:
        """The largest |w|: the clip of minmax ranges; shape [channels] or []."""
        others = None if self.axis is None else tuple(i for i in range(self.values.ndim) if i != self.axis)
        return np.asarray(np.abs(self.values).max(axis=others), dtype=np.float32)

    def clipped(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weights limited to [-clip, clip]."""
        limit = clip if self.axis is None else np.expand_dims(clip, tuple(range(1, self.values.ndim - self.axis)))
        return np.clip(self.values, -limit, limit)


def weight_tensors(model: onnx.ModelProto, granularity: str) -> tuple[list[WeightTensor], list[str]]:
    """Return the weights whose ranges can be chosen, and the names of those that keep minmax ranges.

    The channels are those of onnxruntime's quantizer: axis 0 of Conv and of Gemm with `transB`, else axis 1. Ranges are
    chosen for float32 tensors that only serve as right operands of Conv, Gemm and MatMul, with the same channels: to
    clip any other would change what its other readers compute.

    Args:
        model: a prepared float model without control flow.
        granularity: `channel` or `tensor`.

    Raises:
        ModelError: if such a weight is empty or not finite.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name in tensors:
                readers[name].append((node, slot))
    chosen, left = [], []
    for name, uses in readers.items():
        if not any(slot in _WEIGHT_SLOTS.get(node.op_type, ()) for node, slot in uses):
            continue
        tensor = tensors[name]
        axes = {_axis(node, slot, len(tensor.dims)) for node, slot in uses}
        if tensor.data_type != onnx.TensorProto.FLOAT or name in fixed or -1 in axes or len(axes) > 1:
            left.append(name)
        else:
            axis = axes.pop() if granularity == "channel" else None
            chosen.append(WeightTensor(name=name, axis=axis, values=_finite(tensor)))
    return chosen, left


def check_channels(model: onnx.ModelProto, scheme: Scheme) -> None:
    """Check that a form can hold a scale per channel: QLinearMatMul knows channels of matrices only.

    Raises:
        ModelError: naming the weight that has none.
    """
    if scheme.format != "qoperator" or scheme.granularity != "channel":
        return
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and ranks.get(node.input[1], 2) != 2:
            raise ModelError(
                f"the MatMul weights {node.input[1]!r} are no matrix, and have no channels in the qoperator form: "
                "give --granularity tensor or --format qdq"
            )


def clip_weights(model: onnx.ModelProto, weights: Sequence[WeightTensor], clips: Clips) -> onnx.ModelProto:
    """Return a copy of a model with its weights limited to [-clip, clip].

    The quantizer given a narrower range than the weights have saturates at -128, which is no code of the grid.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for weight in weights:
        tensors[weight.name].CopyFrom(numpy_helper.from_array(weight.clipped(clips[weight.name]), weight.name))
    return copy


def range_overrides(weights: Sequence[WeightTensor], clips: Clips) -> dict[str, list[dict[str, Any]]]:
    """Return the ranges as the quantizer's `TensorQuantOverrides`: a dict a channel, the first with the axis."""
    overrides = {}
    for weight in weights:
        ranges: list[dict[str, Any]] = [{"rmin": -clip, "rmax": clip} for clip in clips[weight.name].reshape(-1)]
        if weight.axis is not None:
            ranges[0]["axis"] = weight.axis
        overrides[weight.name] = ranges
    return overrides


def step(clip: NDArray[np.float32], code_max: int = CODE_MAX) -> NDArray[np.float32]:
    """Return the float32 step of the grid up to each clip: `clip / code_max`, or 1.0 where that is no normal number."""
    return weight_scale(clip.reshape(-1, 1), code_max=code_max).reshape(clip.shape)


def _axis(node: onnx.NodeProto, slot: int, rank: int) -> int | None:
    """Return the axis of channels, None for a tensor without, -1 if this use is none whose range can be chosen."""
    if slot != 1 or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return -1
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else 1
    return axis if axis < rank else None


def _finite(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    values: NDArray[np.float32] = numpy_helper.to_array(tensor)
    if values.size == 0 or not np.isfinite(values).all():
        raise ModelError(
            f"the weights {tensor.name!r} are empty or not finite, so they cannot be int8: retrain, or check the file"
        )
    return values
