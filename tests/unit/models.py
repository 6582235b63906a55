"""Small classifiers, [N, 3, 8, 8] -> [N, 5], with random parameters: what matters is how they are stored."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]


def images(count=3, name=None):
    """Random images as the models take them, float32 [count, 3, 8, 8] in [0, 1]; `nhwc_uint8` takes its own kind."""
    found = np.random.default_rng(1).random((count, 3, 8, 8), dtype=np.float32)
    return np.ascontiguousarray((found * 255).astype(np.uint8).transpose(0, 2, 3, 1)) if name == "nhwc_uint8" else found


def stored(name, *shape, dtype=np.float32, scale=0.3):
    """A random initializer; integers over their whole range."""
    rng = np.random.default_rng(sum(map(ord, name)))
    if np.issubdtype(dtype, np.integer):
        return numpy_helper.from_array(rng.integers(-100, 100, shape).astype(dtype), name)
    return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(dtype), name)


def constant(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def node(op, inputs, outputs, **attributes):
    """A node named after its first output."""
    outputs = outputs.split()
    return helper.make_node(op, inputs.split(), outputs, name=f"{outputs[0]}_node", **attributes)


def model(nodes, initializers, *, batch="N", size=("N", 3, 8, 8), dtype=TensorProto.FLOAT, outputs=("y",), **graph):
    """Put a model together; its image input is `x`."""
    inputs = [helper.make_tensor_value_info("x", dtype, [batch, *size[1:]])]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, made, initializers, **graph), opset_imports=OPSETS, ir_version=10
    )


def save(proto, path):
    path.write_bytes(proto.SerializeToString())
    return path


def float_cnn():
    """Convolutions, a residual addition, pooling, Gemm."""
    return model(
        [
            node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
            node("Relu", "c1", "r1"),
            node("Conv", "r1 w2 b2", "c2", pads=[1, 1, 1, 1]),
            node("Add", "c2 r1", "sum"),
            node("MaxPool", "sum", "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("GlobalAveragePool", "pool", "mean"),
            node("Flatten", "mean", "flat"),
            node("Gemm", "flat w3 b3", "y", transB=1),
        ],
        [
            stored("w1", 4, 3, 3, 3),
            stored("b1", 4),
            stored("w2", 4, 4, 3, 3),
            stored("b2", 4),
            stored("w3", CLASSES, 4, scale=2.0),
            stored("b3", CLASSES),
        ],
    )


def float_attention():
    """MatMuls with added biases, layer normalisation, softmax attention, a position table, transposes."""
    return model(
        [
            node("Reshape", "x shape", "tokens"),
            node("MatMul", "tokens w_in", "m_in"),
            node("Add", "b_in m_in", "a_in"),
            node("Relu", "a_in", "relu"),
            node("Add", "relu table", "placed"),
            node("LayerNormalization", "placed gain shift", "norm"),
            node("MatMul", "norm w_q", "m_q"),
            node("Add", "m_q b_q", "q"),
            node("MatMul", "norm w_k", "k"),
            node("Transpose", "k", "k_t", perm=[0, 2, 1]),
            node("MatMul", "q k_t", "scores"),
            node("Mul", "scores factor", "scaled"),
            node("Softmax", "scaled", "share", axis=-1),
            node("MatMul", "share norm", "mixed"),
            node("ReduceMean", "mixed axes", "pooled", keepdims=0),
            node("MatMul", "pooled w_out", "m_out"),
            node("Add", "m_out b_out", "y"),
        ],
        [
            constant("shape", [0, 8, 24], np.int64),
            *(stored(name, *shape) for name, shape in {"w_in": (24, 16), "b_in": (16,), "table": (8, 16)}.items()),
            *(stored(name, 16) for name in ("gain", "shift", "b_q")),
            *(stored(name, 16, 16) for name in ("w_q", "w_k")),
            constant("factor", 0.25),
            constant("axes", [1], np.int64),
            stored("w_out", 16, CLASSES),
            stored("b_out", CLASSES),
        ],
    )


FLOATS = {"cnn": float_cnn, "attention": float_attention}

HEAD = [node("GlobalAveragePool", "x", "mean"), node("Flatten", "mean", "flat")]
"""[N, 3, 8, 8] -> [N, 3], before a Gemm."""


def _head(nodes, initializers, **kwargs):
    return model([*HEAD, *nodes], initializers, **kwargs)


def _typed(name, data_type, dims, values):
    """A tensor in its typed field: float_data or int32_data."""
    return helper.make_tensor(name, data_type, dims, values)


def typed_storage():
    return _head(
        [
            node("DequantizeLinear", "w w_s w_z", "w_f"),
            node("DequantizeLinear", "b b_s", "b_f"),
            node("Gemm", "flat w_f b_f", "y", transB=1),
        ],
        [
            _typed("w", TensorProto.INT8, [CLASSES, 3], range(-7, 8)),
            _typed("w_s", TensorProto.FLOAT, [], [0.1]),
            _typed("w_z", TensorProto.INT8, [], [0]),
            _typed("b", TensorProto.INT32, [CLASSES], [5, -4, 3, -2, 100000]),
            _typed("b_s", TensorProto.FLOAT, [], [0.01]),
        ],
    )


def shared():
    """One scale for a weight and an activation, one weight for two nodes, a tensor that is weight and addend."""
    return _head(
        [
            node("QuantizeLinear", "flat s z", "flat_q"),
            node("DequantizeLinear", "flat_q s z", "flat_d"),
            node("DequantizeLinear", "w s", "w_f"),
            node("Transpose", "w_f", "w_t"),
            node("MatMul", "flat_d w_t", "first"),
            node("MatMul", "first w_f", "second"),
            node("Add", "second extra", "third"),
            node("MatMul", "third extra_t", "fourth"),
            node("Transpose", "extra", "extra_t"),
            node("Mul", "fourth gains", "y"),
        ],
        [
            constant("s", 0.02),
            constant("z", 7, np.uint8),
            stored("w", CLASSES, 3, dtype=np.int8),
            stored("extra", 1, 3),
            stored("gains", CLASSES),
            stored("unused", 9),
        ],
    )


def constants():
    """Parameters in Constant nodes, as PyTorch's exporters write them."""

    def const(name, tensor):
        return helper.make_node("Constant", [], [name], value=tensor)

    return _head(
        [
            const("w", stored("", CLASSES, 3, dtype=np.int8)),
            const("w_s", constant("", 0.02)),
            helper.make_node("Constant", [], ["act_s"], value_float=0.01),
            helper.make_node("Constant", [], ["bias"], value_floats=[0.1, 0.2, 0.3, 0.4, 0.5]),
            helper.make_node("Constant", [], ["shape"], value_ints=[0, 3]),
            const("act_z", constant("", 3, np.uint8)),
            node("Reshape", "flat shape", "flat_r"),
            node("QuantizeLinear", "flat_r act_s act_z", "flat_q"),
            node("DequantizeLinear", "flat_q act_s act_z", "flat_d"),
            node("DequantizeLinear", "w w_s", "w_f"),
            node("Gemm", "flat_d w_f bias", "y", transB=1),
        ],
        [],
    )


def passed_on():
    """A weight behind Cast, Reshape and Transpose, and one computed from two stored tensors."""
    return _head(
        [
            node("Cast", "w", "w_c", to=TensorProto.FLOAT),
            node("Reshape", "w_c w_shape", "w_r"),
            node("Transpose", "w_r", "w_t"),
            node("MatMul", "flat w_t", "m"),
            node("Mul", "v g", "v_g"),
            node("MatMul", "m v_g", "y"),
        ],
        [
            stored("w", CLASSES * 3, dtype=np.float16),
            constant("w_shape", [CLASSES, 3], np.int64),
            stored("v", CLASSES, CLASSES),
            stored("g", CLASSES),
        ],
    )


def four_bits(data_type=TensorProto.INT4):
    """Packed weights with an odd number of elements, and their packed zero point."""
    low = -8 if data_type == TensorProto.INT4 else 0
    values = (np.arange(CLASSES * 3) * 5) % 16 + low
    return _head(
        [node("DequantizeLinear", "w w_s w_z", "w_f", axis=0), node("Gemm", "flat w_f", "y", transB=1)],
        [
            helper.make_tensor("w", data_type, [CLASSES, 3], values),
            stored("w_s", CLASSES),
            helper.make_tensor("w_z", data_type, [CLASSES], [0, 1, 2, 3, 4]),
        ],
    )


def uint4():
    return four_bits(TensorProto.UINT4)


def guarded():
    """Three copies and a vote, over an int8 weight, its scale and an int32 bias."""
    nodes, initializers = [], []
    for name, tensor in (
        ("w", stored("w", CLASSES, 3, dtype=np.int8)),
        ("w_s", constant("w_s", 0.02)),
        ("b", stored("b", CLASSES, dtype=np.int32)),
        ("b_s", constant("b_s", 0.02)),
    ):
        for copy in "123":
            initializers.append(onnx.TensorProto())
            initializers[-1].CopyFrom(tensor)
            initializers[-1].name = f"{name}{copy}"
        nodes += [
            node("Equal", f"{name}1 {name}2", f"{name}_same"),
            node("Where", f"{name}_same {name}1 {name}3", name),
        ]
    nodes += [node("DequantizeLinear", "w w_s", "w_f"), node("DequantizeLinear", "b b_s", "b_f")]
    return _head([*nodes, node("Gemm", "flat w_f b_f", "y", transB=1)], initializers)


def subgraphs():
    """Weights inside the branches of an If, one of them read from outside; a second If within the first."""

    def branch(name, nodes, initializers):
        made = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [made], initializers)

    inner = branch("inner", [node("MatMul", "flat w_inner", "inner_out")], [stored("w_inner", 3, CLASSES)])
    other = branch("other", [node("MatMul", "flat w_outer", "other_out")], [])
    nested = helper.make_node("If", ["flag"], ["then_made"], name="nested", then_branch=inner, else_branch=other)
    then = branch("then", [nested, node("Add", "then_made table", "then_out")], [stored("table", CLASSES)])
    weight = helper.make_node("Constant", [], ["w_else"], value=stored("", 3, CLASSES))
    otherwise = branch("else", [weight, node("Gemm", "flat w_else", "else_out")], [])
    return _head(
        [
            node("ReduceMax", "x", "peak", keepdims=0),
            node("Less", "peak limit", "flag"),
            helper.make_node("If", ["flag"], ["y"], name="outer", then_branch=then, else_branch=otherwise),
        ],
        [stored("w_outer", 3, CLASSES), constant("limit", 2.0)],
    )


def indices():
    """Integers and floats that steer shapes are no parameters; a quantized embedding table is."""
    return model(
        [
            node("Resize", "x roi scales", "big", mode="nearest"),
            node("Gather", "big picked", "part", axis=1),
            node("Slice", "part starts ends slice_axes", "sliced"),
            node("GlobalAveragePool", "sliced", "mean"),
            node("Flatten", "mean", "flat"),
            node("DequantizeLinear", "table t_s", "table_f"),
            node("Gather", "table_f rows", "chosen"),
            node("Clip", "flat low high", "clipped"),
            node("MatMul", "clipped chosen", "y"),
        ],
        [
            constant("roi", []),
            constant("scales", [1.0, 1.0, 2.0, 2.0]),
            constant("picked", [2, 0], np.int32),
            constant("starts", [0], np.int32),
            constant("ends", [8], np.int32),
            constant("slice_axes", [2], np.int32),
            stored("table", 4, CLASSES, dtype=np.int8),
            constant("t_s", 0.02),
            constant("rows", [1, 3], np.int32),
            constant("low", -1.0),
            constant("high", 1.0),
        ],
    )


def sparse():
    """A weight stored as its non-zero values."""
    values = stored("w", 4)
    where = constant("w_indices", [0, 4, 8, 12], np.int64)
    return _head(
        [node("MatMul", "flat w", "y")],
        [],
        sparse_initializer=[helper.make_sparse_tensor(values, where, [3, CLASSES])],
    )


def functions():
    """A model function around a product with a weight handed in and a bias of its own."""
    opsets = [helper.make_opsetid("", 21)]
    bias = helper.make_node("Constant", [], ["fb"], value=stored("", CLASSES))
    body = [bias, helper.make_node("MatMul", ["fx", "fw"], ["fm"]), helper.make_node("Add", ["fm", "fb"], ["fy"])]
    function = helper.make_function("local", "Dense", ["fx", "fw"], ["fy"], body, opsets)
    proto = _head([helper.make_node("Dense", ["flat", "w"], ["y"], domain="local")], [stored("w", 3, CLASSES)])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    return proto


def overridable():
    """Initializers that are graph inputs as well, as files before IR version 4 have them; several outputs; no order."""
    proto = _head(
        [node("Gemm", "flat w b", "y", transB=1), node("Softmax", "y", "probabilities"), node("ArgMax", "y", "winner")],
        [stored("w", CLASSES, 3), stored("b", CLASSES)],
        outputs=("y", "probabilities"),
    )
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [CLASSES, 3]))
    proto.graph.output.append(helper.make_tensor_value_info("winner", TensorProto.INT64, None))
    proto.graph.node.append(proto.graph.node.pop(0))
    return proto


def fixed_batch():
    return _head([node("Gemm", "flat w", "y", transB=1)], [stored("w", CLASSES, 3)], batch=2)


def nhwc_uint8():
    """Takes uint8 [N, 8, 8, 3]."""
    return model(
        [
            node("Cast", "x", "x_f", to=TensorProto.FLOAT),
            node("Div", "x_f white", "unit"),
            node("ReduceMean", "unit axes", "flat", keepdims=0),
            node("Gemm", "flat w", "y", transB=1),
        ],
        [constant("white", 255.0), constant("axes", [1, 2], np.int64), stored("w", CLASSES, 3)],
        size=("N", 8, 8, 3),
        dtype=TensorProto.UINT8,
    )


def integer_bias():
    """An int32 bias added to the integer product, and scaled together with it."""
    return _head(
        [
            node("DynamicQuantizeLinear", "flat", "q q_s q_z"),
            node("MatMulInteger", "q w q_z w_z", "product"),
            node("Add", "product b", "sum"),
            node("Cast", "sum", "sum_f", to=TensorProto.FLOAT),
            node("Mul", "sum_f s", "y"),
        ],
        [
            stored("w", 3, CLASSES, dtype=np.int8),
            constant("w_z", 0, np.int8),
            stored("b", CLASSES, dtype=np.int32),
            constant("s", 0.001),
        ],
    )


HAND_MADE = {
    build.__name__: build
    for build in (
        typed_storage,
        shared,
        constants,
        passed_on,
        four_bits,
        uint4,
        guarded,
        subgraphs,
        indices,
        sparse,
        functions,
        overridable,
        fixed_batch,
        nhwc_uint8,
        integer_bias,
    )
}
