"""A bias of any shape that broadcasts to a layer's output is exported like one with a value a channel."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data.dataset import Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.scheme import Scheme

IMAGES = np.random.default_rng(3).random((60, 3, 8, 8), dtype=np.float32)
WEIGHTS = np.random.default_rng(4).normal(size=(192, 10)).astype(np.float32) / 10
BIAS = np.random.default_rng(5).normal(size=10).astype(np.float32)
FLATTEN = helper.make_node("Flatten", ["x"], ["f"])


def gemm(*inputs, **attributes):
    return helper.make_node("Gemm", ["f", "w", *inputs], ["y"], "fc", **attributes)


def network(nodes, tensors, batch="N"):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def exported(tmp_path):
    """Export a network: its float and its int8 logits, and what is stored."""

    def run(model, **scheme):
        path = tmp_path / "float.onnx"
        onnx.save(model, path)
        prepared = prepare_float_model(path)
        spec = Session(prepared.SerializeToString(), Deployment()).input
        split = Split(images=IMAGES, labels=np.zeros(len(IMAGES), np.int64))
        int8, _ = write_adjusted(prepared, split, spec, Scheme(**scheme))
        float_logits = Session(model.SerializeToString(), Deployment()).run(IMAGES)
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.ModelProto.FromString(int8).graph.initializer}
        return float_logits, Session(int8, Deployment()).run(IMAGES), stored

    return run


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("shape", [(1, 10), (1,), (), (1, 1)], ids=str)
def test_a_gemms_bias_is_exported_like_a_vector(exported, shape, transposed, granularity, form):
    weights = WEIGHTS.T if transposed else WEIGHTS
    bias = BIAS.reshape(shape) if shape == (1, 10) else np.full(shape, 0.7, np.float32)
    vector = np.broadcast_to(bias.reshape(-1), (10,))
    made = [
        exported(
            network([FLATTEN, gemm("b", transB=transposed)], {"w": weights, "b": values}),
            granularity=granularity,
            format=form,
        )
        for values in (bias, vector)
    ]
    np.testing.assert_array_equal(made[0][1], made[1][1])
    assert np.abs(made[0][1] - made[0][0]).max() < 0.05 * np.abs(made[0][0]).max()
    codes = next(value for name, value in made[0][2].items() if name.endswith("_quantized") and value.dtype == np.int32)
    assert codes.shape == (10,)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("shape", [(4, 10), (4, 1)], ids=str)
def test_what_a_gemm_adds_to_each_row_is_an_addition(exported, shape, form):
    rows = np.random.default_rng(6).normal(size=shape).astype(np.float32)
    model = network([FLATTEN, gemm("b", beta=2.0)], {"w": WEIGHTS, "b": rows}, batch=4)
    expected, found, _ = exported(model, format=form)
    np.testing.assert_allclose(expected[:4], IMAGES[:4].reshape(4, -1) @ WEIGHTS + 2 * rows, rtol=1e-4, atol=1e-4)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("shape", [(10,), (1, 10), (1,), ()], ids=str)
def test_a_bias_added_after_a_product(exported, shape, form):
    bias = BIAS.reshape(shape) if 10 in shape else np.full(shape, 0.7, np.float32)
    product = helper.make_node("MatMul", ["f", "w"], ["p"])
    added = helper.make_node("Add", ["b", "p"], ["y"])
    expected, found, _ = exported(network([FLATTEN, product, added], {"w": WEIGHTS, "b": bias}), format=form)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
