"""Small float files of other tasks than to classify, made without torch: a detector, and a file of several inputs."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

PLACES = 64


def model_of(nodes, stored, inputs, outputs, opset=18):
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


def detector():
    """A head as YOLOv8's: boxes in pixels of 64, and scores in [0, 1], in one output [N, 4 + 3, 64]."""
    rng = np.random.default_rng(0)

    def weights(*shape):
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    bias = np.concatenate([rng.normal(size=4), np.full(3, -9.0)]).astype(np.float32)  # a few detections each
    stored = {
        "w1": weights(8, 1, 3, 3) * 2,
        "b1": rng.normal(size=8).astype(np.float32) / 4,
        "w2": weights(7, 8, 3, 3) * 6,
        "b2": bias,
        "flat": np.array([0, 7, -1]),
        "sizes": np.array([4, 3]),
        "pixels": np.float32(64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w1", "b1"], ["c1"], "conv1", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1] * 4),
        helper.make_node("Reshape", ["c2", "flat"], ["rows"], "reshape"),
        helper.make_node("Sigmoid", ["rows"], ["shares"], "sigmoid"),
        helper.make_node("Split", ["shares", "sizes"], ["boxes", "scores"], "split", axis=1),
        helper.make_node("Mul", ["boxes", "pixels"], ["large"], "mul"),
        helper.make_node("Concat", ["large", "scores"], ["found"], "concat", axis=1),
    ]
    given = value("images", TensorProto.FLOAT, "n", 1, 16, 16)
    return model_of(nodes, stored, [given], [value("found", TensorProto.FLOAT, "n", 7, PLACES)])


def words():
    """Two inputs, int64 words and floats, and two outputs."""
    rng = np.random.default_rng(1)
    stored = {
        "table": rng.normal(size=(20, 8)).astype(np.float32),
        "w": rng.normal(size=(8, 6)).astype(np.float32),
        "b": rng.normal(size=6).astype(np.float32),
        "v": rng.normal(size=(4, 6)).astype(np.float32),
        "u": rng.normal(size=(6, 2)).astype(np.float32),
        "first": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["read"], "read"),
        helper.make_node("MatMul", ["read", "w"], ["m"], "words_in"),
        helper.make_node("Add", ["m", "b"], ["biased"], "bias"),
        helper.make_node("MatMul", ["more", "v"], ["k"], "more_in"),
        helper.make_node("Add", ["biased", "k"], ["both"], "add"),
        helper.make_node("Relu", ["both"], ["hidden"], "relu"),
        helper.make_node("MatMul", ["hidden", "u"], ["pair"], "out"),
        helper.make_node("ReduceSum", ["hidden", "first"], ["total"], "total"),
    ]
    inputs = [value("words", TensorProto.INT64, "n"), value("more", TensorProto.FLOAT, "n", 4)]
    outputs = [value("pair", TensorProto.FLOAT, "n", 2), value("total", TensorProto.FLOAT, "n", 1)]
    return model_of(nodes, stored, inputs, outputs)
