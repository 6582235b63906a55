"""Small int8 files of other kinds than a classifier of one image, made by onnx.helper and onnxruntime's quantizer."""

import contextlib
import io
import logging
import pathlib
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

STATES = tuple(f"s{number}" for number in range(5))
VOCABULARY = 11


def stored(name, *shape, dtype=np.float32):
    """A random initializer; integers over their whole range."""
    rng = np.random.default_rng(sum(map(ord, name)))
    values = rng.integers(-100, 100, shape) if np.issubdtype(dtype, np.integer) else rng.standard_normal(shape) * 0.3
    return numpy_helper.from_array(values.astype(dtype), name)


def constant(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], name=f"{output}_node", **attributes)


def _value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def _model(nodes, inputs, outputs, initializers):
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _quantised(model, quantise):
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        source, target = pathlib.Path(folder, "float.onnx"), pathlib.Path(folder, "int8.onnx")
        onnx.save(model, source)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)
        try:
            quantise(source, target)
        finally:
            root.setLevel(level)
        return onnx.load(target)


def _dynamic(model, *kinds):
    return _quantised(
        model,
        lambda source, target: quantize_dynamic(source, target, op_types_to_quantize=list(kinds) or None),
    )


class _Reader(CalibrationDataReader):
    def __init__(self, feeds):
        self._feeds = iter(feeds)

    def get_next(self):
        return next(self._feeds, None)


def five_states():
    """A chain of five cells, [1, 6] a step, each with a state of its own."""
    nodes, carried = [], "x"
    inputs, outputs = [_value("x", TensorProto.FLOAT, [1, 6])], [_value("y", TensorProto.FLOAT, [1, 3])]
    for name in STATES:
        inputs.append(_value(name, TensorProto.FLOAT, [1, 6]))
        outputs.append(_value(f"{name}_out", TensorProto.FLOAT, [1, 6]))
        nodes += [
            node("MatMul", f"{carried} w_{name}", f"m_{name}"),
            node("Add", f"m_{name} {name}", f"a_{name}"),
            node("Tanh", f"a_{name}", f"{name}_out"),
        ]
        carried = f"{name}_out"
    nodes.append(node("MatMul", f"{carried} w", "y"))
    return _dynamic(
        _model(nodes, inputs, outputs, [stored("w", 6, 3), *(stored(f"w_{name}", 6, 6) for name in STATES)]), "MatMul"
    )


def tagger():
    """Tokens and a mask, int64 [N, T] -> scores of four tags a token, by DynamicQuantizeLSTM."""
    hidden, width = 4, 5
    nodes = [
        node("Gather", "table tokens", "embedded"),
        node("Cast", "mask", "weights", to=TensorProto.FLOAT),
        node("Unsqueeze", "weights last", "column"),
        node("Mul", "embedded column", "masked"),
        node("Transpose", "masked", "in_time", perm=[1, 0, 2]),
        node("LSTM", "in_time w r b", "run", hidden_size=hidden),
        node("Squeeze", "run first", "steps"),
        node("Transpose", "steps", "by_sample", perm=[1, 0, 2]),
        node("MatMul", "by_sample head", "y"),
    ]
    initializers = [
        stored("table", VOCABULARY, width),
        stored("w", 1, 4 * hidden, width),
        stored("r", 1, 4 * hidden, hidden),
        stored("b", 1, 8 * hidden),
        stored("head", hidden, 4),
        constant("last", [2], np.int64),
        constant("first", [1], np.int64),
    ]
    inputs = [_value(name, TensorProto.INT64, ["batch", "time"]) for name in ("tokens", "mask")]
    outputs = [_value("y", TensorProto.FLOAT, ["batch", "time", 4])]
    return _dynamic(_model(nodes, inputs, outputs, initializers), "LSTM", "MatMul", "Gather")


def scaled_boxes():
    """An image and its size in pixels, float32 [N, 3, H, W] and int64 [N, 2] -> boxes in pixels and scores."""
    nodes = [
        node("Conv", "image w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f wb bb", "relative", transB=1),
        node("Cast", "size", "pixels", to=TensorProto.FLOAT),
        node("Concat", "pixels pixels", "corners", axis=1),
        node("Mul", "relative corners", "boxes"),
        node("Gemm", "f ws bs", "scores", transB=1),
    ]
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "wb": (4, 4), "bb": (4,), "ws": (5, 4), "bs": (5,)}
    inputs = [
        _value("image", TensorProto.FLOAT, ["N", 3, "H", "W"]),
        _value("size", TensorProto.INT64, ["N", 2]),
    ]
    outputs = [_value("boxes", TensorProto.FLOAT, ["N", 4]), _value("scores", TensorProto.FLOAT, ["N", 5])]
    model = _model(nodes, inputs, outputs, [stored(name, *shape) for name, shape in shapes.items()])
    rng = np.random.default_rng(0)
    feeds = [
        {"image": rng.random((2, 3, 8, 8), dtype=np.float32), "size": np.full((2, 2), 8, np.int64)} for _ in range(2)
    ]
    return _quantised(
        model,
        lambda source, target: quantize_static(
            source, target, _Reader(feeds), weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Gemm"]
        ),
    )


def nhwc_levels():
    """Levels, uint8 [1, 8, 8, 3] -> three outputs: scores, a map of levels (uint8), the best class (int64)."""
    nodes = [
        node("DequantizeLinear", "x sx zx", "pixels"),
        node("Transpose", "pixels", "planes", perm=[0, 3, 1, 2]),
        node("QuantizeLinear", "planes sx zx", "codes"),
        node("DequantizeLinear", "codes sx zx", "again"),
        node("DequantizeLinear", "w sw zw", "wf"),
        node("Conv", "again wf", "c", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", "c sc zc", "map"),
        node("DequantizeLinear", "map sc zc", "cf"),
        node("GlobalAveragePool", "cf", "p"),
        node("Flatten", "p", "scores"),
        node("ArgMax", "scores", "best", axis=1, keepdims=0),
    ]
    initializers = [
        stored("w", 5, 3, 3, 3, dtype=np.int8),
        *(constant(name, value) for name, value in (("sx", 1 / 255), ("sw", 0.01), ("sc", 0.05))),
        *(constant(name, value, np.uint8) for name, value in (("zx", 0), ("zc", 128))),
        constant("zw", 0, np.int8),
    ]
    outputs = [
        _value("scores", TensorProto.FLOAT, [1, 5]),
        _value("map", TensorProto.UINT8, [1, 5, 8, 8]),
        _value("best", TensorProto.INT64, [1]),
    ]
    return _model(nodes, [_value("x", TensorProto.UINT8, [1, 8, 8, 3])], outputs, initializers)


def twice_quantised():
    """A weight stored as floats behind two pairs of QuantizeLinear and DequantizeLinear, [N, 3, 8, 8] -> [N, 5]."""
    pairs, weight = [], "w"
    for number in (1, 2):
        pairs += [
            node("QuantizeLinear", f"{weight} sw zw", f"q{number}"),
            node("DequantizeLinear", f"q{number} sw zw", f"d{number}"),
        ]
        weight = f"d{number}"
    nodes = [
        node("QuantizeLinear", "x sx zx", "xq"),
        node("DequantizeLinear", "xq sx zx", "xd"),
        *pairs,
        node("Conv", f"xd {weight}", "c"),
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "y"),
    ]
    initializers = [
        stored("w", 5, 3, 3, 3),
        constant("sx", 1 / 255),
        constant("sw", 0.01),
        constant("zx", 0, np.uint8),
        constant("zw", 0, np.int8),
    ]
    return _model(
        nodes,
        [_value("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [_value("y", TensorProto.FLOAT, ["N", 5])],
        initializers,
    )


KINDS = {build.__name__: build for build in (five_states, tagger, scaled_boxes, nhwc_levels, twice_quantised)}
