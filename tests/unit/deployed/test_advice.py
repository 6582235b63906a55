import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.advice import notes_for, warnings_for
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.runtime_graph import optimise
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
    model = DeployedModel.load(path)
    return " ".join([*warnings_for(model), *notes_for(model)])


def test_a_float_model_is_named_as_one(digits_float):
    (line,) = warnings_for(DeployedModel.load(digits_float))
    assert "no quantized weights" in line


def test_codes_that_never_use_the_lowest_value(warned):
    assert "2 of 2 quantized weight tensors never use the code -128" in warned()
    assert "1 of 2" in warned(lambda codes: codes.reshape(-1).__setitem__(0, -128), "conv.weight_quantized")


def test_uint8_codes_that_never_use_the_lowest_value(shifted):
    assert "2 of 2 quantized weight tensors never use the code 0: that is as it should be" in shifted()
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


# Float weights that are deployed as int8.


def quantized_around(models):
    """QDQ around the activations of a convolution, its weights and those of a Gemm left float."""
    scale, zero = models.constant("s", 0.02), models.constant("z", 3, np.uint8)
    nodes = [
        models.node("QuantizeLinear", "x s z", "x_q"),
        models.node("DequantizeLinear", "x_q s z", "x_d"),
        models.node("Conv", "x_d w b", "c"),
        models.node("QuantizeLinear", "c s z", "c_q"),
        models.node("DequantizeLinear", "c_q s z", "c_d"),
        models.node("GlobalAveragePool", "c_d", "mean"),
        models.node("Flatten", "mean", "flat"),
        models.node("Gemm", "flat fc", "y"),
    ]
    stored = [models.stored("w", 4, 3, 3, 3), models.stored("b", 4), models.stored("fc", 4, models.CLASSES)]
    return models.model(nodes, [scale, zero, *stored])


def test_float_weights_that_onnxruntime_quantizes_when_it_loads_the_file(models, tmp_path):
    """One flip that makes a value huge leaves the others no codes; exponent bits do not simply dominate."""
    path = models.save(quantized_around(models), tmp_path / "m.onnx")
    line = " ".join(warnings_for(DeployedModel.load(path)))

    assert "1 of 2 weight tensors are stored as floats that onnxruntime rounds to 8 bits when it loads" in line
    graph = optimise(path.read_bytes(), Deployment(optimization="basic")).graph
    codes = next(t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)
    assert len(np.unique(numpy_helper.to_array(codes))) > 50
    huge = onnx.load(path)
    weights = numpy_helper.to_array(huge.graph.initializer[2]).copy()
    weights[0, 0, 0, 0] = 1e30
    huge.graph.initializer[2].CopyFrom(numpy_helper.from_array(weights, "w"))
    graph = optimise(huge.SerializeToString(), Deployment(optimization="basic")).graph
    codes = next(t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)
    assert len(np.unique(numpy_helper.to_array(codes))) <= 2


def test_float_weights_that_the_file_quantizes_when_it_is_loaded(models, tmp_path):
    proto = quantized_around(models)
    proto.graph.node[2].input[1] = "w_d"
    for node in (models.node("DequantizeLinear", "w_q w_s", "w_d"), models.node("QuantizeLinear", "w w_s w_z", "w_q")):
        proto.graph.node.insert(0, node)
    proto.graph.initializer.extend([models.constant("w_s", 0.01), models.constant("w_z", 0, np.int8)])
    line = " ".join(warnings_for(DeployedModel.load(models.save(proto, tmp_path / "m.onnx"))))

    assert "1 of 2 weight tensors are stored as floats that the file rounds to 8 bits" in line
    assert "ends at the largest code" in line


def test_a_file_with_quantized_inputs_alone_is_a_float_model(models, tmp_path):
    """The convolution reads floats that were quantized once, but what it gives stays float: it runs in float."""
    proto = quantized_around(models)
    del proto.graph.node[3:5]
    proto.graph.node[3].input[0] = "c"
    line = " ".join(warnings_for(DeployedModel.load(models.save(proto, tmp_path / "m.onnx"))))
    graph = optimise(proto.SerializeToString(), Deployment(optimization="basic")).graph

    runs_in_float = not any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)
    assert ("exponent bits will dominate" in line) == runs_in_float


def test_a_file_that_onnxruntime_refuses_is_advised_on_all_the_same(models, tmp_path):
    proto = quantized_around(models)
    proto.graph.node[6].op_type = "Nonsense"
    line = " ".join(warnings_for(DeployedModel.load(models.save(proto, tmp_path / "m.onnx"))))
    assert "no quantized weights" in line
