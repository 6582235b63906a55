"""The rows a layer's weights are multiplied by give what onnxruntime computes, for every kind of layer."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.quantization import layer_inputs
from resq_deploy.quantization.layer_inputs import Layout, Moments

RNG = np.random.default_rng(3)
IMAGE = (5, 4, 9, 8)
LAYERS = {
    "convolution": ("Conv", IMAGE, (6, 4, 3, 3), {}),
    "padded": ("Conv", IMAGE, (6, 4, 3, 2), {"pads": [1, 0, 2, 1]}),
    "strided": ("Conv", IMAGE, (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 3]}),
    "dilated": ("Conv", IMAGE, (6, 4, 3, 3), {"dilations": [2, 1], "pads": [2, 2, 2, 2]}),
    "depthwise": ("Conv", IMAGE, (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "grouped": ("Conv", IMAGE, (6, 2, 3, 3), {"group": 2}),
    "pointwise": ("Conv", IMAGE, (6, 4, 1, 1), {"strides": [2, 2]}),
    "same upper": ("Conv", IMAGE, (6, 4, 4, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ("Conv", IMAGE, (6, 4, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
    "valid": ("Conv", IMAGE, (6, 4, 3, 3), {"auto_pad": "VALID"}),
    "one axis": ("Conv", (5, 4, 9), (6, 4, 3), {"pads": [1, 0]}),
    "three axes": ("Conv", (2, 2, 4, 5, 6), (3, 2, 2, 3, 2), {}),
    "gemm": ("Gemm", (5, 7), (7, 3), {}),
    "gemm transposed": ("Gemm", (5, 7), (3, 7), {"transB": 1, "alpha": 0.5}),
    "matmul": ("MatMul", (5, 7), (7, 3), {}),
    "matmul of tokens": ("MatMul", (5, 6, 7), (7, 3), {}),
}


def layer(name):
    """A layer: its layout, its weights, and what onnxruntime answers to an input."""
    operator, size, shape, attributes = LAYERS[name]
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    weights = RNG.normal(size=shape).astype(np.float32)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = RNG.normal(size=size).astype(np.float32)
    (outputs,) = session.run(None, {"x": values})
    axis = 1 if operator == "Conv" else -1
    return Layout(node, shape), weights, values, np.moveaxis(outputs, axis, -1).reshape(-1, outputs.shape[axis])


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_matrices_are_the_outputs(name, monkeypatch):
    layout, weights, values, outputs = layer(name)
    matrices = layout.matrices(weights)
    np.testing.assert_array_equal(layout.weights(matrices), weights)
    monkeypatch.setattr(layer_inputs, "_HELD", 2 * 8 * values[:1].size)  # so that images come in several portions
    rows = np.concatenate(list(layout.rows(values)), axis=1)
    assert len(list(layout.rows(values))) > 1
    products = layout.factor * rows @ matrices.transpose(0, 2, 1)  # [groups, rows, channels of a group]
    np.testing.assert_allclose(products.transpose(1, 0, 2).reshape(outputs.shape), outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["grouped", "gemm", "matmul of tokens"])
def test_moments_are_sums_over_all_rows(name):
    layout, weights, values, _ = layer(name)
    matrices = layout.matrices(weights)
    changed = values + RNG.normal(size=values.shape).astype(np.float32)
    moments = Moments(layout, matrices)
    moments.add(changed[:2], values[:2])
    moments.add(changed[2:], values[2:])
    x, given = (np.concatenate(list(layout.rows(each)), axis=1) for each in (changed, values))
    y = np.einsum("gri,gci->grc", given, matrices)
    assert moments.count == x.shape[1]
    np.testing.assert_allclose(moments.second, np.einsum("gri,grj->gij", x, x))
    np.testing.assert_allclose(moments.cross, np.einsum("grc,gri->gci", y, x))
    np.testing.assert_allclose(moments.inputs, x.sum(axis=1))
    np.testing.assert_allclose(moments.outputs, y.sum(axis=1))
    np.testing.assert_allclose(moments.energy, np.square(y).sum(axis=1))
