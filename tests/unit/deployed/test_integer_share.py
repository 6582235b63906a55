import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.integer_share import integer_share

PLAIN = Deployment()
DIGITS = {"conv": 12 * 8 * 8 * 27, "fc": 768 * 10}
CNN = 4 * 64 * 27 + 4 * 64 * 36 + 4 * 5
ATTENTION = 8 * 24 * 16 + 2 * 8 * 16 * 16 + 2 * 8 * 8 * 16 + 16 * 5
IMAGES = np.full((1, 3, 8, 8), 0.5, np.float32)


def counted(path, images=IMAGES, **deployment):
    return integer_share(path.read_bytes(), Deployment(**deployment), images)


def test_the_digits_file_computes_in_integers(digits_int8, digits_float):
    images = np.zeros((2, 3, 32, 32), np.float32)
    int8, floats = (counted(path, images) for path in (digits_int8, digits_float))
    assert (int8.macs, int8.integer, int8.share) == (sum(DIGITS.values()), sum(DIGITS.values()), 1.0)
    assert {name: found["macs"] for name, found in int8.by_operator.items()} == {
        "QLinearConv": DIGITS["conv"],
        "QGemm": DIGITS["fc"],
    }
    assert (floats.macs, floats.integer, floats.share) == (sum(DIGITS.values()), 0, 0.0)
    assert json.loads(json.dumps(int8.as_dict()))["share"] == 1.0


def test_a_level_that_fuses_nothing_computes_in_floats(digits_int8):
    found = counted(digits_int8, np.zeros((1, 3, 32, 32), np.float32), optimization="none")
    assert (found.macs, found.share) == (sum(DIGITS.values()), 0.0)


@pytest.mark.parametrize(
    ("kind", "macs", "share"),
    [
        ("cnn", CNN, 0),
        ("cnn-qdq-channel-s8", CNN, 1),
        ("cnn-qoperator-tensor-u8", CNN, 1),
        ("cnn-qoperator-channel-s8-savedall", CNN, 1),
        ("cnn-dynamic-tensor-u8", CNN, 1),
        ("attention", ATTENTION, 0),
        ("attention-qdq-tensor-u8", ATTENTION, 1),
        ("attention-qoperator-tensor-s8-pre", ATTENTION, 1),
        ("matmul_nbits", ATTENTION, 0),
    ],
)
def test_files_of_every_form_have_the_macs_of_their_network(model_file, kind, macs, share):
    found = counted(model_file(kind))
    assert found.macs == macs
    assert found.share == pytest.approx(share, abs=0.02)
    assert found.integer == sum(entry["integer"] for entry in found.by_operator.values())
    assert found.not_counted == ()


def test_dynamic_quantization_leaves_products_of_activations_in_floats(model_file):
    found = counted(model_file("attention-dynamic-channel-u8-saved"))
    assert found.macs == ATTENTION
    assert found.integer == ATTENTION - 2 * 8 * 8 * 16


def test_sixteen_bit_activations_are_no_eight_bit_integers(model_file):
    assert counted(model_file("cnn-qdq-tensor-s8-a16")).share == 0


def test_a_fixed_batch_counts_one_image(model_file):
    assert counted(model_file("fixed_batch")).macs == 3 * 5


def test_what_is_in_subgraphs_is_named(model_file):
    assert counted(model_file("subgraphs")).not_counted == ("If",)


def one_node(op, *shapes, image=(3, 8, 8), before=(), **attributes):
    """A model of one product of the image with a stored tensor."""
    value = "x" if not before else before[-1].output[0]
    graph = helper.make_graph(
        [*before, helper.make_node(op, [value, "w"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *image])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(shape, np.float32), "w") for shape in shapes],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


TRANSPOSED = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2])]
PRODUCTS = {
    "convolution": (one_node("Conv", (8, 3, 3, 3), strides=[2, 2]), 8 * 9 * 27),
    "blocked layout": (one_node("Conv", (32, 3, 3, 3)), 32 * 36 * 27),
    "grouped": (one_node("Conv", (6, 1, 3, 3), group=3), 6 * 36 * 9),
    "transposed convolution": (one_node("ConvTranspose", (3, 5, 2, 2), strides=[2, 2]), 3 * 64 * 5 * 4),
    "matrices": (one_node("MatMul", (8, 5)), 3 * 8 * 8 * 5),
    "vector": (one_node("MatMul", (8,)), 3 * 8 * 8),
    "transposed and fused": (one_node("MatMul", (8, 5), before=TRANSPOSED, image=(3, 8, 4)), 3 * 4 * 8 * 5),
}


@pytest.mark.parametrize("level", ["all", "none"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_products_are_counted_whatever_the_layout(product, level):
    model, macs = PRODUCTS[product]
    size = [value.dim_value or 1 for value in model.graph.input[0].type.tensor_type.shape.dim]
    found = integer_share(model.SerializeToString(), Deployment(optimization=level), np.ones(size, np.float32))
    assert found.macs == macs


def test_more_images_count_as_one(digits_int8):
    one, many = (counted(digits_int8, np.zeros((count, 3, 32, 32), np.float32)) for count in (1, 9))
    assert one == many


def test_a_graph_without_products():
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    found = integer_share(onnx.ModelProto.SerializeToString(model), PLAIN, IMAGES)
    assert (found.macs, found.share, found.by_operator) == (0, 0.0, {})
