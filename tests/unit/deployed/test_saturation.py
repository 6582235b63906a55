import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.saturation import saturating_layers


def layers(model, **deployment):
    return saturating_layers(model, Deployment(**deployment))


def product(codes, *, left=TensorProto.UINT8, op="MatMulInteger", **attributes):
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "w"], ["y"], "fc", **attributes)],
        "g",
        [helper.make_tensor_value_info("a", left, None)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(codes, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def test_two_codes_of_one_output_decide():
    """|w1| + |w2| above 128, times 255, is above 32,767; 128 is not."""
    codes = np.zeros((6, 4), np.int8)
    codes[[0, 3], 0] = (64, -64)
    codes[[1, 5], 1] = (65, 64)
    codes[2] = (0, 0, 127, -128)
    codes[4, 3] = 1
    (found,) = layers(product(codes))
    assert (found.layer, found.operator, found.outputs, found.of) == ("fc", "MatMulInteger", 2, 4)


@pytest.mark.parametrize(
    "model",
    [
        product(np.full((4, 4), 64, np.int8)),
        product(np.full((4, 4), 127, np.uint8)),
        product(np.full((4, 4), 127, np.int8), left=TensorProto.INT8),
        product(np.full((4, 4, 3, 3), 127, np.int8), op="ConvInteger"),
    ],
    ids=["7 bits", "uint8", "int8 activations", "ConvInteger"],
)
def test_forms_that_cannot(model):
    assert layers(model) == []


def test_a_convolution_of_int8_activations_and_uint8_weights_can():
    model = product(np.full((4, 4, 3, 3), 255, np.uint8), left=TensorProto.INT8, op="ConvInteger")
    assert [(layer.operator, layer.outputs) for layer in layers(model)] == [("ConvInteger", None)]


def test_layers_in_branches_are_seen_with_weights_of_their_own_and_from_outside():
    codes, branches = np.full((4, 6), 127, np.int8), {}
    for name, own in (("then", [numpy_helper.from_array(codes, "w then")]), ("else", [])):
        made = helper.make_node("MatMulInteger", ["a", f"w {name}"], [f"y {name}"], f"fc {name}")
        branches[f"{name}_branch"] = helper.make_graph([made], name, [], [onnx.ValueInfoProto(name=f"y {name}")], own)
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], **branches)],
        "g",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, None),
            helper.make_tensor_value_info("c", TensorProto.BOOL, None),
        ],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(codes, "w else")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    found = {layer.layer: (layer.outputs, layer.of) for layer in layers(model)}
    assert found == {"fc then": (6, 6), "fc else": (6, 6)}


def test_dynamic_quantization_is_seen(model_file):
    """No uint8 zero point is stored there: the operators tell."""
    found = layers(model_file("attention-dynamic-tensor-s8").read_bytes())
    assert {layer.operator for layer in found} == {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    assert layers(model_file("attention-dynamic-channel-u8-saved").read_bytes()) == []
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"], "dynamic"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.full((64, 8), 127, np.int8), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (found,) = layers(model.SerializeToString())
    assert (found.operator, found.outputs) == ("MatMulInteger", 8)


def test_a_static_file(digits_int8):
    found = layers(digits_int8.read_bytes())
    assert [layer.layer for layer in found] == ["conv", "fc"]
    assert all(0 < layer.outputs <= layer.of for layer in found)
    assert layers(digits_int8.read_bytes(), optimization="basic") == []  # QDQ runs in float there
