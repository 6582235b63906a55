"""Float files of others: exported, or refused in one line; nothing of onnxruntime's reaches the terminal as it is."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)
STEPS = ("preparing", "calibrating", "comparing", "measuring", "equalizing", "fitting", "correcting", "gate")
UNTRAINED = ("warning: an accuracy of",)  # the weights are random


def normal(*shape):
    return (RNG.normal(size=shape) / 5).astype(np.float32)


TENSORS = {"w": normal(8, 3, 3, 3), "b": normal(8), "fc": normal(512, 10), "fb": normal(10)}
CONV = helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", strides=[4, 4])
RELU, FLATTEN = helper.make_node("Relu", ["c"], ["r"]), helper.make_node("Flatten", ["r"], ["f"])
GEMM = helper.make_node("Gemm", ["f", "fc", "fb"], ["y"], "fc")


def network(nodes=(CONV, RELU, FLATTEN, GEMM), opset=17, inputs=(), **tensors):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32]), *inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in {**TENSORS, **tensors}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if inputs else 9)


def transposed_gemm():
    turned = helper.make_node("Transpose", ["f"], ["ft"], perm=[1, 0])
    return network([CONV, RELU, FLATTEN, turned, helper.make_node("Gemm", ["ft", "fc", "fb"], ["y"], transA=1)])


def one_dimensional():
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["t"]),
        helper.make_node("Conv", ["t", "w", "b"], ["c"], strides=[4]),
        *(RELU, FLATTEN, GEMM),
    ]
    return network(nodes, s=np.array([-1, 3, 1024]), w=normal(8, 3, 5), fc=normal(8 * 255, 10))


def upsampling():
    nodes = [
        CONV,
        helper.make_node("ConvTranspose", ["c", "up", "ub"], ["d"], strides=[2, 2]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        GEMM,
    ]
    return network(nodes, up=normal(8, 6, 3, 3), ub=normal(6), fc=normal(6, 10))


def grouped():
    nodes = [
        CONV,
        RELU,
        helper.make_node("Conv", ["r", "v", "vb"], ["d"], group=4),
        helper.make_node("Flatten", ["d"], ["f"]),
        GEMM,
    ]
    return network(nodes, v=normal(16, 2, 3, 3), vb=normal(16), fc=normal(16 * 36, 10))


def half_weights():
    widened = helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT)
    conv = helper.make_node("Conv", ["x", "wide", "b"], ["c"], strides=[4, 4])
    return network([widened, conv, RELU, FLATTEN, GEMM], half=normal(8, 3, 3, 3).astype(np.float16))


def old():
    return network(
        opset=9,
        inputs=[helper.make_tensor_value_info(name, TensorProto.FLOAT, t.shape) for name, t in TENSORS.items()],
    )


def empty_names():
    nodes = [
        helper.make_node("Conv", ["x", "w", ""], ["c"], strides=[4, 4]),
        helper.make_node("Clip", ["c", "", "high"], ["r"]),
        FLATTEN,
        helper.make_node("Gemm", ["f", "fc", ""], ["y"]),
    ]
    return network(nodes, high=np.float32(6))


def dead():
    """No weight of the first layer is anything but zero."""
    return network(w=np.zeros((8, 3, 3, 3), np.float32))


GOOD = [transposed_gemm, one_dimensional, upsampling, grouped, half_weights, old, empty_names, dead]
FORMS = {
    "plain": (),
    "all": ("--format", "qoperator", "--equalize", "--bias-correction", "--ranges", "fault-aware"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", GOOD, ids=lambda make: make.__name__)
def test_it_is_exported(resq, tmp_path, make, form):
    onnx.save(make(), tmp_path / "float.onnx")
    small = (
        "--calibration-images",
        40,
        "--test-images",
        40,
        "--no-gate",
        "--gate",
        "square=off",
        "--gate",
        "faults=off",
    )
    out = tmp_path / "net.onnx"
    status, _, said = resq(
        "export-int8", tmp_path / "float.onnx", "--out", out, "--dataset", "digits", *small, *FORMS[form]
    )
    assert status == 0, said
    assert all(line.startswith(STEPS + UNTRAINED) for line in said.splitlines()), said
    ratio = json.loads(out.with_suffix(".json").read_text())["resemblance"]["output"]["sqnr_db"]
    assert ratio is None or ratio > 0


def other_inputs():
    return network(fc=normal(77, 10))


def unknown_operator():
    return network([*network().graph.node[:-1], helper.make_node("Blurp", ["f"], ["y"], domain="mine")])


def scores_transposed():
    gemm = helper.make_node("Gemm", ["f", "fc", "fb"], ["z"])
    return network([CONV, RELU, FLATTEN, gemm, helper.make_node("Transpose", ["z"], ["y"], perm=[1, 0])])


def one_image():
    shaped = helper.make_node("Reshape", ["r", "s"], ["f"], "to one row")
    return network([CONV, RELU, shaped, GEMM], s=np.array([1, 512]))


def flat_bias():
    return network(b=normal(1, 8, 1, 1))


BAD = [
    (other_inputs, r"Gemm.*between 77 and 512"),
    (unknown_operator, "cannot be prepared for quantization: .*Blurp"),
    (scores_transposed, r"has shape \[10, 2\] for 2 samples, which must be the first axis"),
    (one_image, r"Reshape node 'to one row': .*cannot be reshaped.*requested shape:\{1,512\}"),
    (flat_bias, "Conv node '[^']+': .*bias must be a 1D tensor"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[make.__name__ for make, _ in BAD])
def test_or_refused_in_one_line(tmp_path, make, message):
    """In a process of its own: onnxruntime writes to standard error from C++, and its tools through Python's log."""
    onnx.save(make(), tmp_path / "float.onnx")
    call = [
        sys.executable,
        "-m",
        "resq_deploy",
        "export-int8",
        "float.onnx",
        "--out",
        "net.onnx",
        "--dataset",
        "digits",
    ]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(STEPS)]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("resq-deploy: ")
    assert "ONNXRuntimeError" not in lines[0]
    assert "/onnxruntime" not in lines[0]
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "net.onnx").exists()
