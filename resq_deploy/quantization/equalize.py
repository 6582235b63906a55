"""Cross-layer equalization: sharing the range of weights out between two layers with a ReLU between them.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019, section 4.1). ReLU
commutes with a positive factor, so channel i between two layers may be divided by s_i in the first and multiplied by
it in the second. With `s_i = sqrt(r1_i r2_i) / r2_i`, r1_i and r2_i the largest weights that make and that read the
channel, both become `sqrt(r1_i r2_i)`: no channel is left with a few steps of a scale that others set.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from resq_deploy.deployed.graph import in_order, node_label
from resq_deploy.grid import CODE_MAX
from resq_deploy.quantization.ranges import ROUNDING_ERROR, best_clip
from resq_deploy.quantization.weights import WeightTensor, weight_tensors

_SWEEPS = 100
_CONVERGED = 1e-4
"""Largest relative change of a channel in a sweep over all pairs that counts as none."""

MOST = 64.0
"""Largest factor of a channel. Beyond it a channel is dead or nearly so, and has nothing to share: what its weights
gain its bias loses, which is as large as any other's and would set the range of all activations beside it."""

_POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
_RESHAPES = ("Flatten", "Reshape", "Squeeze")

Arrays = dict[str, NDArray[np.float64]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two layers whose channels between them can be scaled.

    Attributes:
        layers: what they are called.
        weights: their weights.
        bias: the stored bias of the first, if it has one.
        axis: the axis of output channels of the first's weights.
        groups: of the second, where it is a convolution.
        incoming: the axis of input channels of the second's weights.
        block: how many of these inputs each channel is, one after the other.
    """

    layers: tuple[str, str]
    weights: tuple[str, str]
    bias: str | None
    axis: int
    groups: int
    incoming: int
    block: int

    def made(self, arrays: Arrays) -> NDArray[np.float64]:
        """Return a view of the first's weights, [channels, ...]."""
        return np.moveaxis(arrays[self.weights[0]], self.axis, 0)

    def read(self, arrays: Arrays) -> NDArray[np.float64]:
        """Return a view of the second's weights, [groups, channels of a group, ...]."""
        weights = arrays[self.weights[1]]
        if self.incoming == 0:
            return weights.reshape(1, weights.shape[0] // self.block, self.block, -1)
        outputs, inputs, *window = weights.shape
        split = (self.groups, outputs // self.groups, inputs // self.block, self.block * math.prod(window))
        return np.moveaxis(weights.reshape(split), 1, 2)

    def equalize(self, arrays: Arrays, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale both layers in place; return the factors s, shape [channels], 1 where a layer has only zeros.

        Args:
            arrays: the weights and biases.
            total: the product of earlier factors, shape [channels] or []; together they stay within 1 / MOST ... MOST.
        """
        made, read = self.made(arrays), self.read(arrays)
        first = np.abs(made).max(axis=tuple(range(1, made.ndim)))
        second = np.abs(read).max(axis=(2, 3)).reshape(-1)
        used = (first > 0) & (second > 0)
        factor = np.sqrt(np.where(used, first, 1.0) / np.where(used, second, 1.0))
        factor = np.clip(total * factor, 1 / MOST, MOST) / total
        made /= factor.reshape(-1, *[1] * (made.ndim - 1))
        read *= factor.reshape(*read.shape[:2], 1, 1)
        if self.bias is not None:
            arrays[self.bias] /= factor  # along its last axis
        return factor


def equalize(
    model: onnx.ModelProto, granularity: str, code_max: int = CODE_MAX
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a model that computes the same, up to rounding, with the weights of ReLU chains equalized.

    A chain is Conv or Gemm, ReLU (or Clip from 0 without an upper bound) and, before or after it, pooling and
    flattening, then Conv or Gemm; nothing else reads what lies between. Pairs that share a layer are equalized in turn
    until nothing changes. Layers whose weights or bias have other readers are left alone.

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        granularity: `channel` or `tensor`: of the ranges that the record's errors are for.
        code_max: the largest weight code, likewise.

    Returns:
        The model, and what was done: the number of sweeps, the largest factor a channel was multiplied or divided by,
        and of each pair the expected squared error of a channel's weights at their best range, as a share of their mean
        square, averaged over channels, before and after: of the weights that make the channels, and of those that read
        them.

    Raises:
        ModelError: if a weight is empty or not finite.
    """
    pairs = find_pairs(model)
    before = _shares(pairs, model, granularity, code_max)
    touched = {name for pair in pairs for name in (*pair.weights, pair.bias)}
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in touched}
    arrays = {name: numpy_helper.to_array(tensor).astype(np.float64) for name, tensor in stored.items()}
    sweeps, largest = _settle(pairs, arrays)
    equalized = onnx.ModelProto()
    equalized.CopyFrom(model)
    for tensor in equalized.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    after = _shares(pairs, equalized, granularity, code_max)
    return equalized, {
        "sweeps": sweeps,
        "largest_factor": largest,
        "pairs": [
            {"layers": list(pair.layers), "relative_error": {"before": given, "after": got}}
            for pair, given, got in zip(pairs, before, after, strict=True)
        ],
    }


def _settle(pairs: Sequence[Pair], arrays: Arrays) -> tuple[int, float]:
    """Equalize pairs in turn, in place, until nothing changes; return the sweeps it took and the largest factor."""
    totals: list[NDArray[np.float64]] = [np.ones(1)] * len(pairs)
    sweeps, change = 0, math.inf if pairs else 0.0
    while change > _CONVERGED and sweeps < _SWEEPS:
        factors = [pair.equalize(arrays, total) for pair, total in zip(pairs, totals, strict=True)]
        totals = [total * factor for total, factor in zip(totals, factors, strict=True)]
        change = max(float(np.abs(np.log(factor)).max()) for factor in factors)
        sweeps += 1
    return sweeps, math.exp(max((float(np.abs(np.log(total)).max()) for total in totals), default=0.0))


def find_pairs(model: onnx.ModelProto) -> list[Pair]:
    """Return the pairs of layers that can be equalized, in the order of the graph."""
    graph = _Graph(model)
    pairs = []
    for node in in_order(model.graph):
        if graph.is_layer(node) and graph.owns_bias(node):
            pair = graph.pair(node)
            if pair is not None:
                pairs.append(pair)
    return pairs


class _Graph:
    """A float graph: who reads a value, what is stored, what shapes are known."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._fixed = {value.name for value in (*graph.input, *graph.output)}
        self._readers: dict[str, list[onnx.NodeProto]] = collections.defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._shapes = {
            value.name: [
                size.dim_value if size.HasField("dim_value") else 0 for size in value.type.tensor_type.shape.dim
            ]
            for value in (*graph.input, *graph.output, *graph.value_info)
            if value.type.tensor_type.HasField("shape")
        }

    def is_layer(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is a Conv or Gemm with finite float32 weights that it alone reads."""
        if node.op_type not in ("Conv", "Gemm") or not self._own(node.input[1]):
            return False
        tensor = self._stored[node.input[1]]
        return len(tensor.dims) >= 2 and math.prod(tensor.dims) > 0

    def owns_bias(self, node: onnx.NodeProto) -> bool:
        """Return whether a layer has no bias, or a value a channel that it alone reads."""
        name = _bias(node)
        if name is None:
            return True
        if not self._own(name):
            return False
        dims = self._stored[name].dims
        channels = self._stored[node.input[1]].dims[_outgoing(node)]
        return len(dims) > 0 and dims[-1] == channels == math.prod(dims)

    def pair(self, first: onnx.NodeProto) -> Pair | None:
        """Return the pair that begins with a layer, if there is one."""
        value, block, rectified = first.output[0], 1, False
        while True:
            readers = self._readers[value]
            if len(readers) != 1 or value in self._fixed:
                return None
            node = readers[0]
            if self.is_layer(node) and node.input[0] == value:
                return self._pair(first, node, block) if rectified else None
            if node.op_type in _RESHAPES and node.input[0] == value:
                block *= self._flattens(node)
            elif not self._commutes(node) or len([output for output in node.output if output]) != 1:
                return None
            if block == 0:
                return None
            rectified |= node.op_type in ("Relu", "Clip")
            value = node.output[0]

    def _pair(self, first: onnx.NodeProto, second: onnx.NodeProto, block: int) -> Pair | None:
        """Return two layers as a pair, unless the second does not read channels as the first makes them."""
        incoming = 1 if second.op_type == "Conv" or _attribute(second, "transB", 0) else 0
        groups = _attribute(second, "group", 1) if second.op_type == "Conv" else 1
        made = self._stored[first.input[1]].dims[_outgoing(first)]
        read = self._stored[second.input[1]].dims[incoming] * groups
        if made * block != read or (second.op_type == "Conv" and block > 1) or _attribute(second, "transA", 0):
            return None
        return Pair(
            layers=(node_label(first), node_label(second)),
            weights=(first.input[1], second.input[1]),
            bias=_bias(first),
            axis=_outgoing(first),
            groups=groups,
            incoming=incoming,
            block=block,
        )

    def _own(self, name: str) -> bool:
        """Return whether a value is a stored float32 tensor with a single reader."""
        if name not in self._stored or name in self._fixed:
            return False
        return len(self._readers[name]) == 1 and self._stored[name].data_type == onnx.TensorProto.FLOAT

    def _commutes(self, node: onnx.NodeProto) -> bool:
        """Return whether a node gives the same channels, scaled, when its input's channels are scaled."""
        if node.op_type == "Clip":
            low, high = self._number(node, 1, "min"), self._number(node, 2, "max")
            return low == 0 and (high is None or high >= float(np.finfo(np.float32).max))
        if node.op_type == "ReduceMean":
            rank = len(self._shapes.get(node.input[0], ()))
            axes = _attribute(node, "axes", ()) if len(node.input) < 2 else self._integers(node.input[1])
            return bool(axes) and rank > 2 and all(axis % rank >= 2 for axis in axes)
        return node.op_type == "Relu" or node.op_type in _POOLS

    def _flattens(self, node: onnx.NodeProto) -> int:
        """Return how many values of a row each channel becomes; 0 where images do not become rows of channels."""
        before, after = (self._shapes.get(name, ()) for name in (node.input[0], node.output[0]))
        rows = len(before) >= 2 and len(after) == 2 and all(before[1:]) and math.prod(before[1:]) == after[1]
        return math.prod(before[2:]) if rows else 0

    def _number(self, node: onnx.NodeProto, slot: int, name: str) -> float | None:
        """Return a stored number that a node reads, or has as an attribute; None if it has none, NaN if unknown."""
        if len(node.input) <= slot or not node.input[slot]:
            value: float | None = _attribute(node, name, None)
            return value
        tensor = self._stored.get(node.input[slot])
        return float(numpy_helper.to_array(tensor).reshape(-1)[0]) if tensor is not None else math.nan

    def _integers(self, name: str) -> Sequence[int]:
        """Return stored whole numbers; none if they are not stored."""
        tensor = self._stored.get(name)
        return [int(axis) for axis in numpy_helper.to_array(tensor).reshape(-1)] if tensor is not None else []


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _bias(node: onnx.NodeProto) -> str | None:
    return (node.input[2] if len(node.input) > 2 else "") or None


def _outgoing(node: onnx.NodeProto) -> int:
    """Return the axis of output channels of a layer's weights."""
    return 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1


def _shares(pairs: Sequence[Pair], model: onnx.ModelProto, granularity: str, code_max: int) -> list[list[float]]:
    """Return for each pair what share of its channels' squares is lost, where they are made and where they are read.

    Raises:
        ModelError: if a weight is empty or not finite.
    """
    weights = {weight.name: weight for weight in weight_tensors(model, granularity)[0]}
    squares = {name: np.square(weight.values, dtype=np.float64) for name, weight in weights.items()}
    errors = {name: _errors(weights[name], code_max) for pair in pairs for name in pair.weights}
    shares = []
    for pair in pairs:
        made = _means(pair.made(errors)), _means(pair.made(squares))
        read = _means(pair.read(errors), 2), _means(pair.read(squares), 2)
        found = [lost[kept > 0] / kept[kept > 0] for lost, kept in (made, read)]
        shares.append([float(share.mean()) if share.size else 0.0 for share in found])  # none where all weights are 0
    return shares


def _means(view: NDArray[np.float64], axes: int = 1) -> NDArray[np.float64]:
    """Return the means over all but the first axes, in one row."""
    means: NDArray[np.float64] = view.mean(axis=tuple(range(axes, view.ndim))).reshape(-1)
    return means


def _errors(weight: WeightTensor, code_max: int) -> NDArray[np.float64]:
    """Return the expected squared error of each weight at the range of least squares; as `expected_error` adds up."""
    clip = best_clip(weight.values, axis=weight.axis, ber=0.0, code_max=code_max).astype(np.float64)
    if weight.axis is not None:
        clip = np.expand_dims(clip, tuple(i for i in range(weight.values.ndim) if i != weight.axis))
    over = np.maximum(np.abs(weight.values) - clip, 0.0)
    return np.asarray(np.square(over) + ROUNDING_ERROR * np.square(clip / code_max), dtype=np.float64)
