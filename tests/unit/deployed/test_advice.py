import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.advice import warnings_for
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Deployment
from resq_deploy.quantization.unsigned import store_as_uint8


@pytest.fixture
def warned(digits_int8, tmp_path):
    """Change one stored tensor of the digits file; return the warnings about the result."""

    def warned(change=None, suffix=""):
        (tmp_path / "changed.onnx").write_bytes(digits_int8.read_bytes())
        return warned_about(tmp_path / "changed.onnx", change, suffix)

    return warned


@pytest.fixture
def shifted(digits_int8, tmp_path):
    """Store the weights of the digits file as uint8, change one tensor; return the warnings about the result."""

    def shifted(change=None, suffix=""):
        model = onnx.load(digits_int8)
        store_as_uint8(model)
        onnx.save(model, tmp_path / "shifted.onnx")
        return warned_about(tmp_path / "shifted.onnx", change, suffix)

    return shifted


def warned_about(path, change, suffix):
    """Change stored tensors of a file, in place; return the warnings about the result."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if change is not None and tensor.name.endswith(suffix):
            values = numpy_helper.to_array(tensor).copy()
            change(values)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return " ".join(warnings_for(DeployedModel.load(path)))


def test_a_float_model_is_named_as_one(digits_float):
    (line,) = warnings_for(DeployedModel.load(digits_float))
    assert "no quantized weights" in line


def test_codes_that_never_use_the_lowest_value(warned):
    assert "2 of 2 quantized weight tensors never use the code -128" in warned()
    assert "1 of 2" in warned(lambda codes: codes.reshape(-1).__setitem__(0, -128), "conv.weight_quantized")


def test_uint8_codes_that_never_use_the_lowest_value(shifted):
    assert "2 of 2 quantized weight tensors never use the code 0: a reader" in shifted()
    assert "1 of 2" in shifted(lambda codes: codes.reshape(-1).__setitem__(0, 0), "conv.weight_quantized")


def test_an_asymmetric_grid_has_no_code_to_spare(shifted):
    said = shifted(lambda points: points.fill(117), "weight_zero_point")
    assert "never use the code" not in said


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_scales_that_are_not_positive_and_finite(warned, value):
    said = warned(lambda scales: scales.reshape(-1).__setitem__(0, value), "conv.weight_scale")
    assert "1 scales are not positive and finite, the first is 'conv.weight_scale'" in said


def test_scales_near_zero(warned):
    said = warned(lambda scales: scales.reshape(-1).__setitem__(0, 1e-20), "conv.weight_scale")
    assert "1 scales lie below 1e-12, the first is 'conv.weight_scale'" in said


def test_layers_that_saturate_without_vnni_are_named_on_every_cpu(warned):
    said = warned()
    assert "2 layers, the first is 'conv', could saturate sums of products in 16 bits on CPUs without VNNI" in said
    assert ("unlike this one" in said) != Deployment().saturates
    assert "saturate" not in warned(lambda codes: np.clip(codes, -64, 64, out=codes), "weight_quantized")


def test_uint8_weights_saturate_nowhere(shifted):
    assert "saturate" not in shifted()


def test_a_file_that_quantizes_as_it_runs_is_warned_about(tmp_path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.full((64, 8), 127, np.int8), "w")],
    )
    path = tmp_path / "dynamic.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    assert "1 layers, the first is" in " ".join(warnings_for(DeployedModel.load(path)))


def test_a_file_that_onnxruntime_refuses_is_still_described(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"], domain="nobody")],
        "refused",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["n", 8])],
        [numpy_helper.from_array(np.full((64, 8), 127, np.int8), "w")],
    )
    path = tmp_path / "refused.onnx"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    assert "saturate" not in " ".join(warnings_for(DeployedModel.load(path)))
