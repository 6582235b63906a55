"""The quantizer's names never meet those of the file: the values of the float file decide, whatever it calls things."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data.dataset import Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.names import fresh, names_of
from resq_deploy.quantization.scheme import Scheme

IMAGES = np.random.default_rng(3).random((64, 3, 8, 8), dtype=np.float32)
NAMES = {"image": "x", "factor": "k", "scaled": "xs", "w": "w", "b": "b", "conv": "c", "relu": "r", "flat": "f"}
NAMES |= {"fc": "fc", "scores": "y", "first": "conv", "last": "gemm"}


def network(**names):
    """A small network that calls its values, stored tensors and nodes as it is told."""
    n = NAMES | names
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("Mul", [n["image"], n["factor"]], [n["scaled"]], n.get("mul", "")),
        helper.make_node("Conv", [n["scaled"], n["w"], n["b"]], [n["conv"]], n["first"]),
        helper.make_node("Relu", [n["conv"]], [n["relu"]], n.get("act", "")),
        helper.make_node("Flatten", [n["relu"]], [n["flat"]], n.get("flatten", "")),
        helper.make_node("Gemm", [n["flat"], n["fc"]], [n["scores"]], n["last"]),
    ]
    tensors = {
        n["factor"]: np.float32(2),
        n["w"]: rng.normal(size=(4, 3, 3, 3)),
        n["b"]: rng.normal(size=4),
        n["fc"]: rng.normal(size=(144, 5)) / 10,
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n["image"], TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(n["scores"], TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def exported(tmp_path):
    """Export a network: the int8 file, and its logits."""

    def run(model, **scheme):
        path = tmp_path / "float.onnx"
        onnx.save(model, path)
        prepared = prepare_float_model(path)
        spec = Session(prepared.SerializeToString(), Deployment()).input
        split = Split(images=IMAGES, labels=np.zeros(len(IMAGES), np.int64))
        int8, _ = write_adjusted(prepared, split, spec, Scheme(**scheme))
        written = onnx.ModelProto.FromString(int8)
        onnx.checker.check_model(written)
        return written, Session(int8, Deployment()).run(IMAGES)

    return run


TAKEN = {
    "a scale": {"factor": "x_scale"},
    "a zero point": {"factor": "x_zero_point"},
    "codes of a weight": {"factor": "w_quantized"},
    "scale of a weight": {"factor": "w_scale"},
    "scale of a bias": {"factor": "b_quantized_scale"},
    "codes of the image": {"scaled": "x_quantized"},
    "an activation called like a scale": {"relu": "xs_scale"},
    "the output of a QuantizeLinear": {"relu": "x_QuantizeLinear_Output"},
    "the input of a QuantizeLinear": {"flat": "y_QuantizeLinear_Input"},
    "the output of a DequantizeLinear": {"conv": "w_DequantizeLinear_Output"},
    "what calibration adds": {"conv": "xs_ReduceMax", "relu": "xs_ReduceMin_Reshape"},
    "nodes": {"first": "x_QuantizeLinear", "last": "conv_quant", "mul": "w_DequantizeLinear"},
    "a chain": {"factor": "x_scale", "scaled": "x_scale_scale", "w": "x", "image": "i"},
    "the input": {"image": "k_scale", "factor": "k"},
    "the output": {"scores": "x_scale"},
    "input and output": {"image": "i", "scores": "i_scale", "factor": "i_zero_point"},
}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("kind", TAKEN)
def test_names_that_the_quantizer_gives_may_be_taken(exported, kind, form):
    names = TAKEN[kind]
    _, expected = exported(network(), format=form)
    written, found = exported(network(**names), format=form)
    np.testing.assert_array_equal(found, expected)
    assert [value.name for value in written.graph.input] == [names.get("image", "x")]
    assert [value.name for value in written.graph.output] == [names.get("scores", "y")]


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_nodes_may_have_no_name_or_one_for_all(exported, form):
    _, expected = exported(network(), format=form)
    for label in ("", "node"):
        _, found = exported(network(first=label, last=label, mul=label, act=label, flatten=label), format=form)
        np.testing.assert_array_equal(found, expected)


def test_names_that_cannot_meet_are_kept(tmp_path):
    model = network(factor="layer_scale", relu="block.1_0", fc="fc.weight")
    onnx.save(model, tmp_path / "float.onnx")
    prepared = prepare_float_model(tmp_path / "float.onnx")
    assert {"layer_scale", "block.1_0", "fc.weight", "conv", "gemm"} <= names_of(prepared)
    assert not any("name" in entry.key for entry in prepared.metadata_props)


def test_fresh_names_are_numbered():
    assert fresh("a", []) == "a"
    assert fresh("a", ["a", "a_1"]) == "a_2"
