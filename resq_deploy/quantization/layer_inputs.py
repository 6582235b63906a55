"""What the weights of a layer are multiplied by: the inputs of each channel, row by row, and their moments."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper

_HELD = 32 * 2**20
"""Bytes of rows made at a time."""


class Layout:
    """How the stored weights of a Conv, Gemm or MatMul become a matrix for each group of channels, and back.

    Args:
        node: a Conv, a Gemm whose first operand is not transposed, or a MatMul.
        shape: of its weights; a matrix but for Conv.

    Attributes:
        groups: of a Conv, else 1.
        inputs: how many weights a channel has.
    """

    def __init__(self, node: onnx.NodeProto, shape: Sequence[int]) -> None:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        self._attributes = attributes
        self._shape = tuple(shape)
        self._convolves = node.op_type == "Conv"
        self._transposed = not self._convolves and not attributes.get("transB", 0)
        self.groups = int(attributes.get("group", 1)) if self._convolves else 1
        self.inputs = int(np.prod(shape[1:])) if self._convolves or not self._transposed else int(shape[0])
        self.factor = float(attributes.get("alpha", 1.0)) if node.op_type == "Gemm" else 1.0
        """What the products are multiplied by, before a bias is added."""

    def matrices(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return weights as shape [groups, channels of a group, inputs of a channel]."""
        rows = (weights.T if self._transposed else weights).astype(np.float64)
        return rows.reshape(self.groups, -1, self.inputs)

    def weights(self, matrices: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return weights as they are stored: the inverse of `matrices`."""
        rows = matrices.reshape(-1, self.inputs)
        return np.ascontiguousarray(rows.T if self._transposed else rows, dtype=np.float32).reshape(self._shape)

    def rows(self, values: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
        """Yield the rows that the weights are multiplied by, some at a time: shape [groups, rows, inputs].

        Args:
            values: what the layer reads, images (or rows) first.
        """
        factor = int(np.prod(self._shape[2:])) if self._convolves else 1
        portion = max(1, _HELD // max(1, values[:1].size * factor * 8))
        for start in range(0, len(values), portion):
            yield self._rows(values[start : start + portion])

    def _rows(self, values: NDArray[Any]) -> NDArray[np.float64]:
        if not self._convolves:
            return values.reshape(1, -1, self.inputs).astype(np.float64)
        kernel = self._shape[2:]
        axes = len(kernel)
        strides = self._attributes.get("strides", [1] * axes)
        dilations = self._attributes.get("dilations", [1] * axes)
        extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        padded = np.pad(values, [(0, 0), (0, 0), *self._padding(values.shape[2:], extents, strides)])
        windows = sliding_window_view(padded, extents, axis=tuple(range(2, 2 + axes)))
        steps = [slice(None, None, step) for step in (*strides, *dilations)]
        windows = windows[(slice(None), slice(None), *steps)]
        places = tuple(range(2, 2 + axes))
        patches = windows.transpose(0, *places, 1, *(place + axes for place in places))
        rows = patches.reshape(-1, self.groups, self.inputs).astype(np.float64)
        return np.ascontiguousarray(rows.transpose(1, 0, 2))

    def _padding(self, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
        """Return what is padded before and after, by axis."""
        automatic = self._attributes.get("auto_pad", b"NOTSET")
        if automatic == b"NOTSET":
            pads = self._attributes.get("pads", [0] * 2 * len(sizes))
            return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
        if automatic == b"VALID":
            return [(0, 0)] * len(sizes)
        padding = []
        for size, extent, stride in zip(sizes, extents, strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            less = total // 2
            padding.append((less, total - less) if automatic == b"SAME_UPPER" else (total - less, less))
        return padding


class Moments:
    """Moments of what a layer reads in a changed model (x), and with what it gave in the model as it was (y).

    Args:
        layout: of the layer.
        weights: of the model as it was, as matrices; y is what these give.

    Attributes:
        count: rows added.
        second: sum of x x, shape [groups, inputs, inputs].
        cross: sum of y x, shape [groups, channels of a group, inputs].
        inputs: sum of x, shape [groups, inputs].
        outputs: sum of y, shape [groups, channels of a group].
        energy: sum of y y, likewise.
    """

    def __init__(self, layout: Layout, weights: NDArray[np.float64]) -> None:
        groups, channels, inputs = weights.shape
        self._layout = layout
        self._weights = weights
        self.count = 0
        self.second = np.zeros((groups, inputs, inputs))
        self.cross = np.zeros((groups, channels, inputs))
        self.inputs = np.zeros((groups, inputs))
        self.outputs = np.zeros((groups, channels))
        self.energy = np.zeros((groups, channels))

    def add(self, values: NDArray[Any], given: NDArray[Any]) -> None:
        """Add what the layer reads in the changed model, and in the model as it was."""
        for rows, originals in zip(self._layout.rows(values), self._layout.rows(given), strict=True):
            answers = originals @ self._weights.transpose(0, 2, 1)
            self.count += rows.shape[1]
            for total, matrix in zip(self.second, rows, strict=True):
                total += matrix.T @ matrix
            self.cross += answers.transpose(0, 2, 1) @ rows
            self.inputs += rows.sum(axis=1)
            self.outputs += answers.sum(axis=1)
            self.energy += np.square(answers).sum(axis=1)
