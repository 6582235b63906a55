"""Sound models for `fuzz_models.py` to mutate: every way of storing parameters once."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 4
EXTERNAL = "weights.bin"


def _stored(rng: np.random.Generator, name: str, dtype: type, *shape: int) -> onnx.TensorProto:
    if dtype is np.float32:
        return numpy_helper.from_array(np.abs(rng.standard_normal(shape) * 0.1).astype(np.float32), name)
    return numpy_helper.from_array(rng.integers(0, 100, shape).astype(dtype), name)


def _model(nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto]) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, "g", [image], [scores], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def qdq_model() -> onnx.ModelProto:
    """Return a quantized convolution and Gemm in QDQ form, a weight in a typed field, a Constant and an If."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    flag = numpy_helper.from_array(np.array(True), "flag")
    branches = []
    for name in ("then", "else"):
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        inner = [node("Gemm", ["flat", f"w_{name}"], [f"{name}_y"])]
        branches.append(helper.make_graph(inner, name, [], [out], [_stored(rng, f"w_{name}", np.float32, 4, CLASSES)]))
    scale = helper.make_node("Constant", [], ["w_s"], value=_stored(rng, "", np.float32, 4))
    nodes = [
        scale,
        node("QuantizeLinear", ["x", "x_s", "x_z"], ["x_q"]),
        node("DequantizeLinear", ["x_q", "x_s", "x_z"], ["x_d"]),
        node("DequantizeLinear", ["w", "w_s"], ["w_d"], axis=0),
        node("DequantizeLinear", ["b", "b_s"], ["b_d"]),
        node("Conv", ["x_d", "w_d", "b_d"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Reshape", ["p", "shape"], ["flat"]),
        node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    typed = helper.make_tensor("w", TensorProto.INT8, [4, 3, 3, 3], rng.integers(-100, 100, 108))
    shape = numpy_helper.from_array(np.array([0, 4]), "shape")
    scales = [_stored(rng, name, np.float32) for name in ("x_s", "b_s")]
    return _model(nodes, [typed, *scales, _stored(rng, "x_z", np.uint8), _stored(rng, "b", np.int32, 4), shape, flag])


def qoperator_model() -> onnx.ModelProto:
    """Return a QLinearConv classifier."""
    rng = np.random.default_rng(1)
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "x_s", "x_z"], ["q"]),
        node("QLinearConv", ["q", "x_s", "x_z", "w", "w_s", "w_z", "y_s", "y_z", "b"], ["c"], kernel_shape=[3, 3]),
        node("DequantizeLinear", ["c", "y_s", "y_z"], ["d"]),
        node("ReduceMean", ["d", "axes"], ["y"], keepdims=0),
    ]
    stored = [_stored(rng, name, np.float32) for name in ("x_s", "w_s", "y_s")]
    stored += [_stored(rng, name, np.uint8) for name in ("x_z", "y_z")]
    stored += [_stored(rng, "w_z", np.int8), _stored(rng, "w", np.int8, CLASSES, 3, 3, 3)]
    stored += [_stored(rng, "b", np.int32, CLASSES), numpy_helper.from_array(np.array([2, 3]), "axes")]
    return _model(nodes, stored)


def external_model() -> onnx.ModelProto:
    """Return a float Gemm classifier with its weight in an external file (zeros), and its bias added."""
    rng = np.random.default_rng(2)
    node = helper.make_node
    nodes = [
        node("Flatten", ["x"], ["flat"]),
        node("MatMul", ["flat", "w"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[192, CLASSES], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": EXTERNAL, "offset": "0", "length": str(192 * CLASSES * 4)}.items():
        weight.external_data.add(key=key, value=value)
    return _model(nodes, [weight, _stored(rng, "b", np.float32, CLASSES)])


def function_model() -> onnx.ModelProto:
    """Return a function with a weight and numbers in attributes, called twice, and a table of integers."""
    rng = np.random.default_rng(3)
    node = helper.make_node
    body = [
        helper.make_node("Constant", [], ["w"], value=_stored(rng, "", np.float32, 3, 3, 3, 3)),
        node("Conv", ["a", "w"], ["m"], pads=[1, 1, 1, 1]),
        node("LeakyRelu", ["m"], ["b"], alpha=0.1),
    ]
    block = helper.make_function("local", "Block", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    nodes = [
        node("Block", ["x"], ["b1"], domain="local"),
        node("Block", ["b1"], ["b2"], domain="local"),
        node("Cast", ["table"], ["t"], to=TensorProto.FLOAT),
        node("Mul", ["b2", "t"], ["scaled"]),
        node("GlobalAveragePool", ["scaled"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "fc"], ["y"], alpha=0.5),
    ]
    table = numpy_helper.from_array(np.arange(1, 4).reshape(1, 3, 1, 1), "table")
    model = _model(nodes, [table, _stored(rng, "fc", np.float32, 3, CLASSES)])
    model.functions.append(block)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


SOUND = (qdq_model, qoperator_model, external_model, function_model)
