#!/usr/bin/env python3
r"""Measure what a protected file costs beside the plain one: bytes, peak memory and time to create a session, run time.

Networks have the shapes of ResNet-20 (CIFAR-10), ResNet-18 and VGG-16 (ImageNet), random weights, QDQ, a scale a
channel; nothing is fetched. Each session is created in a process of its own, plain and protected by turns, on one
thread; time is the processor's, memory the highest resident size less that before. Figures are the least of all
repeats, ratios those of the least.

Example:
  python tools/bench_protection.py --networks resnet20 resnet18 --codes secded --out bench.json
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from bench_report import begin, told
from command_line import with_one_line_errors
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.protection.protect import protect
from resq_deploy.records import write_json

SCHEMA = 1
CODES = {known_code(*kind).name: known_code(*kind) for kind in KNOWN}
RATIOS = ("bytes", "creation", "run")

_MEASURE = """
import json, sys, time
import numpy as np, onnxruntime as ort

def highest():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

options = ort.SessionOptions()
options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 4, 1, 1
ort.InferenceSession(sys.argv[1], options)  # what the first session of a process costs is no file's
open("/proc/self/clear_refs", "w").write("5")
before, begin = highest(), time.process_time()
session = ort.InferenceSession(sys.argv[2], options)
created, memory = time.process_time() - begin, highest() - before
size = session.get_inputs()[0].shape[2]
images = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
runs = []
for _ in range(int(sys.argv[3]) + 1):
    begin = time.process_time()
    session.run(None, {"x": images})
    runs.append(time.process_time() - begin)
print(json.dumps({"creation_s": created, "memory_mb": memory, "run_s": min(runs[1:])}))
"""


class Builder:
    """A quantised network in the making.

    Args:
        weight_bits: bits of its weights.
        seed: of its values.

    Attributes:
        weights: names of its weights.
    """

    def __init__(self, weight_bits: int, seed: int = 0) -> None:
        self.weights: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)
        self._largest = 1 << (weight_bits - 1)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of what it makes."""
        made = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [made], **attributes))
        return made

    def quantised(self, value: str) -> str:
        """Return a value as int8 holds it."""
        scale, zero = self._store(np.array(0.05, np.float32)), self._store(np.array(0, np.int8))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", value, scale, zero), scale, zero)

    def conv(self, value: str, shape: tuple[int, int, int, int], stride: int = 1) -> str:
        """Add a convolution with weights of some shape."""
        parameters = self._parameters(shape)
        pads = [shape[-1] // 2] * 4
        return self.quantised(self.node("Conv", value, *parameters, strides=[stride] * 2, pads=pads))

    def dense(self, value: str, shape: tuple[int, int]) -> str:
        """Add a dense layer with weights of some shape."""
        return self.quantised(self.node("Gemm", value, *self._parameters(shape), transB=1))

    def residual(self, value: str, inputs: int, blocks: int, widths: Sequence[int]) -> str:
        """Add stages of residual blocks, the first convolution of all but the first stage with stride 2."""
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                first = self.node("Relu", self.conv(value, (width, inputs, 3, 3), stride))
                second = self.conv(first, (width, width, 3, 3))
                same = inputs == width and stride == 1
                beside = value if same else self.conv(value, (width, inputs, 1, 1), stride)
                value, inputs = self.node("Relu", self.quantised(self.node("Add", second, beside))), width
        return value

    def model(self, value: str, size: int, opset: int) -> onnx.ModelProto:
        """Return the network with a value as its output."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, size, size])
        graph = helper.make_graph(
            self._nodes, "network", [x], [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)], self._stored
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    def _store(self, values: NDArray[Any]) -> str:
        name = f"s{len(self._stored)}"
        self._stored.append(numpy_helper.from_array(values, name))
        return name

    def _parameters(self, shape: tuple[int, ...]) -> tuple[str, str]:
        outputs = shape[0]
        weights = self._store(self._random.integers(-self._largest, self._largest, shape, dtype=np.int8))
        self.weights.append(weights)
        scales = self._random.uniform(0.5, 1.5, outputs) * 0.02 / np.sqrt(np.prod(shape[1:]))
        bias = self._store(self._random.integers(-1000, 1000, outputs).astype(np.int32))
        zeros = [self._store(np.zeros(outputs, kind)) for kind in (np.int8, np.int32)]
        scaled = [self._store(each.astype(np.float32)) for each in (scales, scales / 20)]
        return (
            self.node("DequantizeLinear", weights, scaled[0], zeros[0], axis=0),
            self.node("DequantizeLinear", bias, scaled[1], zeros[1], axis=0),
        )


def resnet20(builder: Builder) -> tuple[str, int]:
    """Build ResNet-20 for images of 32 x 32; return its output and the size of its images."""
    value = builder.node("Relu", builder.conv(builder.quantised("x"), (16, 3, 3, 3)))
    pooled = builder.node("GlobalAveragePool", builder.residual(value, 16, 3, (16, 32, 64)))
    return builder.dense(builder.node("Flatten", builder.quantised(pooled)), (10, 64)), 32


def resnet18(builder: Builder) -> tuple[str, int]:
    """Build ResNet-18 for images of 224 x 224; return its output and the size of its images."""
    value = builder.node("Relu", builder.conv(builder.quantised("x"), (64, 3, 7, 7), 2))
    value = builder.node("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    pooled = builder.node("GlobalAveragePool", builder.residual(value, 64, 2, (64, 128, 256, 512)))
    return builder.dense(builder.node("Flatten", builder.quantised(pooled)), (1000, 512)), 224


def vgg16(builder: Builder) -> tuple[str, int]:
    """Build VGG-16 for images of 224 x 224; return its output and the size of its images."""
    value, inputs = builder.quantised("x"), 3
    for width, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            value, inputs = builder.node("Relu", builder.conv(value, (width, inputs, 3, 3))), width
        value = builder.node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = builder.node("Flatten", value)
    for shape in ((4096, 25088), (4096, 4096)):
        value = builder.node("Relu", builder.dense(value, shape))
    return builder.dense(value, (1000, 4096)), 224


NETWORKS = {"resnet20": resnet20, "resnet18": resnet18, "vgg16": vgg16}


def _measured(warm: pathlib.Path, path: pathlib.Path, runs: int) -> dict[str, float]:
    """Return what one fresh process measures of a file."""
    words = [sys.executable, "-c", _MEASURE, str(warm), str(path), str(runs)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _beside(plain: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Return a protected file's figures beside those of the plain one."""
    return {
        **other,
        "memory_beyond_mb": other["memory_mb"] - plain["memory_mb"],
        "ratio_bytes": other["bytes"] / plain["bytes"],
        "ratio_creation": other["creation_s"] / plain["creation_s"],
        "ratio_run": other["run_s"] / plain["run_s"],
    }


def measure(network: str, codes: Sequence[str], opset: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a network, plain and under some codes."""
    with tempfile.TemporaryDirectory(prefix="resq-") as folder:
        paths = {name: pathlib.Path(folder, f"{name}.onnx") for name in ("plain", *codes)}
        for name in codes:
            builder = Builder(CODES[name].weight_bits)
            model = builder.model(*NETWORKS[network](builder), opset)
            onnx.save(model, paths["plain"])  # with weights of the last code's bits, which makes no difference
            onnx.save(protect(model, builder.weights, CODES[name], health=given.health), paths[name])
        warm = pathlib.Path(folder, "warm.onnx")
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "warm", ends[:1], ends[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), warm)
        best: dict[str, dict[str, float]] = {}
        for _ in range(given.repeats):
            for variant, path in paths.items():
                found = _measured(warm, path, given.runs)
                kept = best.get(variant, found)
                best[variant] = {key: min(value, kept[key]) for key, value in found.items()}
        for variant, path in paths.items():
            best[variant]["bytes"] = path.stat().st_size
    plain = best.pop("plain")
    return {"plain": plain, "protected": {name: _beside(plain, figures) for name, figures in best.items()}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which shapes")
    parser.add_argument("--codes", nargs="+", choices=CODES, default=["secded", "dected"], help="which codes")
    parser.add_argument("--opsets", nargs="+", type=int, default=[18, 13], help="opsets of the files")
    parser.add_argument("--health", action="store_true", help="files that tell their own health")
    parser.add_argument("--repeats", type=int, default=3, help="how often all is measured (default: 3)")
    parser.add_argument("--runs", type=int, default=3, help="inferences of one image each a process (default: 3)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where to write the report, JSON")
    return parser


def _line(network: str, opset: int, code: str, figures: dict[str, float]) -> str:
    ratios = ", ".join(f"{name} x{figures[f'ratio_{name}']:.3g}" for name in RATIOS)
    return f"{network}, opset {opset}, {code}: {ratios}, {figures['memory_beyond_mb']:+.0f} MB at the peak"


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    given, report = begin("bench_protection.py", _parser(), argv, SCHEMA)
    print(told(report["machine"]))
    networks: dict[str, dict[str, Any]] = {}
    for network in given.networks:
        for opset in given.opsets:
            found = measure(network, given.codes, opset, given)
            networks.setdefault(network, {})[str(opset)] = found
            for code, figures in found["protected"].items():
                print(_line(network, opset, code, figures), flush=True)
    write_json(given.out, {**report, "complete": True, "networks": networks})
    return 0


if __name__ == "__main__":
    sys.exit(main())
