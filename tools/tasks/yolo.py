"""A detector of the size of YOLOv8n with random weights: what a campaign costs on it is what it costs on a real one.

Layers, channels and head are those of the published architecture (Jocher, Chaurasia and Qiu, "Ultralytics YOLOv8",
2023): 3.2 million weights, [N, 3, 640, 640] to [N, 84, 8400], boxes decoded in the file.
"""

import math
import pathlib
import tempfile
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.inputs import Inputs
from resq_deploy.quantization.calibrate import activation_ranges
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.tail import float_tail
from resq_deploy.quantization.write import write_int8

CLASSES = 80
_BINS = 16  # of the distribution of each side of a box
_STRIDES = (8, 16, 32)
_OPSET = 18
_GAIN = 26.0  # of the last weights of the scores, so that some of them are high


class _Builder:
    """Nodes and tensors of a graph, made layer by layer; every method returns the name of what it makes."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def stored(self, values: NDArray[Any]) -> str:
        self._count += 1
        name = f"t{self._count}"
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        self._count += 1
        names = [f"v{self._count}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, f"{operator}_{self._count}", **attributes))
        return names

    def convolve(
        self,
        given: str,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        bias: float = 0.0,
        gain: float = 1.0,
    ) -> str:
        fan = inputs * kernel * kernel
        weights = self._rng.normal(size=(outputs, inputs, kernel, kernel)) * gain * math.sqrt(2.0 / fan)
        added = self._rng.normal(size=outputs) * 0.1 + bias
        names = [self.stored(values.astype(np.float32)) for values in (weights, added)]
        return self.node("Conv", given, *names, strides=[stride] * 2, pads=[kernel // 2] * 4)[0]

    def layer(self, given: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> str:
        found = self.convolve(given, inputs, outputs, kernel, stride)
        return self.node("Mul", found, *self.node("Sigmoid", found))[0]

    def join(self, *given: str, axis: int = 1) -> str:
        return self.node("Concat", *given, axis=axis)[0]

    def halves(self, given: str, channels: int) -> list[str]:
        return self.node("Split", given, self.stored(np.array([channels, channels])), outputs=2, axis=1)

    def c2f(self, given: str, inputs: int, outputs: int, repeats: int, *, shortcut: bool) -> str:
        """Cross-stage partial layers with all that is between them joined."""
        hidden = outputs // 2
        parts = self.halves(self.layer(given, inputs, 2 * hidden), hidden)
        for _ in range(repeats):
            inner = self.layer(self.layer(parts[-1], hidden, hidden, 3), hidden, hidden, 3)
            parts.append(self.node("Add", parts[-1], inner)[0] if shortcut else inner)
        return self.layer(self.join(*parts), (2 + repeats) * hidden, outputs)

    def pooled(self, given: str, channels: int) -> str:
        """Spatial pyramid pooling, each pool on what the one before gave."""
        parts = [self.layer(given, channels, channels // 2)]
        for _ in range(3):
            parts += self.node("MaxPool", parts[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4)
        return self.layer(self.join(*parts), 2 * channels, channels)

    def twice(self, given: str) -> str:
        scales = self.stored(np.array([1, 1, 2, 2], np.float32))
        return self.node("Resize", given, "", scales, mode="nearest", nearest_mode="floor")[0]


def yolo(size: int = 640, seed: int = 0) -> onnx.ModelProto:
    """Return the float network.

    Args:
        size: height and width of the pictures in pixels, a multiple of 32.
        seed: of the weights.
    """
    build = _Builder(seed)
    x = build.layer("images", 3, 16, 3, 2)
    x = build.c2f(build.layer(x, 16, 32, 3, 2), 32, 32, 1, shortcut=True)
    third = build.c2f(build.layer(x, 32, 64, 3, 2), 64, 64, 2, shortcut=True)
    fourth = build.c2f(build.layer(third, 64, 128, 3, 2), 128, 128, 2, shortcut=True)
    fifth = build.c2f(build.layer(fourth, 128, 256, 3, 2), 256, 256, 1, shortcut=True)
    fifth = build.pooled(fifth, 256)
    up = build.c2f(build.join(build.twice(fifth), fourth), 384, 128, 1, shortcut=False)
    small = build.c2f(build.join(build.twice(up), third), 192, 64, 1, shortcut=False)
    middle = build.c2f(build.join(build.layer(small, 64, 64, 3, 2), up), 192, 128, 1, shortcut=False)
    large = build.c2f(build.join(build.layer(middle, 128, 128, 3, 2), fifth), 384, 256, 1, shortcut=False)
    sides, scores = zip(
        *(_head(build, given, channels) for given, channels in ((small, 64), (middle, 128), (large, 256))), strict=True
    )
    found = _decoded(build, build.join(*sides, axis=2), build.join(*scores, axis=2), size)
    places = sum((size // stride) ** 2 for stride in _STRIDES)
    build.nodes[-1].output[0] = "found"
    graph = helper.make_graph(
        build.nodes,
        "yolo",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", 4 + CLASSES, places])],
        build.tensors,
    )
    assert found  # the last node makes it
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def _head(build: _Builder, given: str, channels: int) -> tuple[str, str]:
    """Return distributions of the sides, and scores, at each place of one grid: [N, 4 bins, A], [N, classes, A]."""
    ends = []
    for hidden, outputs, bias, gain in ((64, 4 * _BINS, 1.0, 1.0), (CLASSES, CLASSES, -9.0, _GAIN)):
        inner = build.layer(build.layer(given, channels, hidden, 3), hidden, hidden, 3)
        last = build.convolve(inner, hidden, outputs, bias=bias, gain=gain)
        ends += build.node("Reshape", last, build.stored(np.array([0, outputs, -1])))
    return ends[0], ends[1]


def _decoded(build: _Builder, sides: str, scores: str, size: int) -> str:
    """Return centre, width and height in pixels, and probabilities, from distances to the sides of a box."""
    shaped = build.node("Reshape", sides, build.stored(np.array([0, 4, _BINS, -1])))[0]
    shares = build.node("Softmax", shaped, axis=2)[0]
    steps = build.stored(np.arange(_BINS, dtype=np.float32).reshape(1, 1, _BINS, 1))
    weighed = build.node("Mul", shares, steps)[0]
    far = build.node("ReduceSum", weighed, build.stored(np.array([2])), keepdims=0)[0]
    near, beyond = build.halves(far, 2)
    places, strides = [], []
    for stride in _STRIDES:
        line = np.arange(size // stride) + 0.5
        rows, columns = np.meshgrid(line, line, indexing="ij")
        places.append(np.stack([columns.ravel(), rows.ravel()]))
        strides.append(np.full(rows.size, stride))
    grid = build.stored(np.concatenate(places, axis=1)[None].astype(np.float32))
    scale = build.stored(np.concatenate(strides)[None, None].astype(np.float32))
    low, high = build.node("Sub", grid, near)[0], build.node("Add", grid, beyond)[0]
    half = build.stored(np.array(0.5, np.float32))
    centre = build.node("Mul", build.node("Add", low, high)[0], half)[0]
    extent = build.node("Sub", high, low)[0]
    boxes = build.node("Mul", build.join(centre, extent), scale)[0]
    return build.join(boxes, build.node("Sigmoid", scores)[0])


def yolo_int8(path: pathlib.Path, size: int = 640, seed: int = 0) -> None:
    """Write the int8 file, calibrated on two pictures of noise.

    Args:
        path: the file.
        size: as of `yolo`.
        seed: as of `yolo`.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "float.onnx"
        onnx.save(yolo(size, seed), str(source))
        model = prepare_float_model(source)
    pictures = np.random.default_rng(seed).random((2, 3, size, size), np.float32)
    ranges = activation_ranges(model, Inputs(arrays={"images": pictures}), None)
    path.write_bytes(write_int8(model, ranges, Scheme(float_nodes=float_tail(model))))
