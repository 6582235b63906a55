"""Small classifiers, [n, 3, 8, 8] -> [n, c], that store values in every place a file has for them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = (3, 8, 8)
node = helper.make_node


def init(name, values, dtype=None):
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def normal(name, *shape, seed=0):
    return init(name, np.random.default_rng([seed, *map(ord, name)]).normal(size=shape), np.float32)


def images(count=4):
    return np.random.default_rng(1).random((count, *SIZE), dtype=np.float32)


def model(nodes, initializers, *, outputs=("y",), domains=(), functions=(), kinds=None):
    made = [helper.make_tensor_value_info(name, (kinds or {}).get(name, TensorProto.FLOAT), None) for name in outputs]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SIZE])], made, initializers
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 3) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


TAIL = [node("GlobalAveragePool", ["c"], ["p"]), node("Flatten", ["p"], ["f"]), node("MatMul", ["f", "fc"], ["y"])]
CONV = node("Conv", ["x", "W"], ["c0"])
FC = normal("fc", 4, 5)
W = normal("W", 4, 3, 3, 3)


def _branch(name, tensor, stored):
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(tensor.dims))]
    constant = [] if stored else [node("Constant", [], [name], value=tensor)]
    return helper.make_graph(constant, f"{name}_graph", [], out, [tensor] if stored else [])


def _if(first, second, names=("wt", "we")):
    branches = [
        _branch(name, normal(name, 4, 3, 3, 3, seed=at), first if at == 0 else second) for at, name in enumerate(names)
    ]
    return model(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Greater", ["s", "limit"], ["cd"]),
            node("If", ["cd"], ["w"], name="choice", then_branch=branches[0], else_branch=branches[1]),
            node("Conv", ["x", "w"], ["c"]),
            *TAIL,
        ],
        [FC, init("limit", 384.0, np.float32)],
    )


def if_initializers(*names):
    """Weights that the branches of an If return."""
    return _if(True, True, names or ("wt", "we"))


def if_constants():
    """The same as Constant nodes."""
    return _if(False, False)


def if_same_name():
    """Sibling branches that call their weights alike."""
    return _if(True, False, ("w0", "w0"))


def returned_by_graph():
    """Stored values that the graph itself returns, beside its scores."""
    given = [normal("anchors", 2, 3), init("temperature", 0.5, np.float32), init("labels", [7, 8, 9], np.int64)]
    proto = model([CONV, node("Identity", ["c0"], ["c"]), *TAIL], [W, FC, *given])
    for tensor in given:
        proto.graph.output.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return proto


def constant_of_shape():
    """A value that fills a tensor."""
    filled = node("ConstantOfShape", ["shape"], ["k"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.37]))
    return model([CONV, filled, node("Mul", ["c0", "k"], ["c"]), *TAIL], [W, FC, init("shape", [1, 4, 1, 1], np.int64)])


def int64_table():
    """An integer table behind a Cast."""
    nodes = [CONV, node("Cast", ["tab"], ["t"], to=TensorProto.FLOAT), node("Mul", ["c0", "t"], ["c"]), *TAIL]
    return model(nodes, [W, FC, init("tab", [[[[3]], [[1]], [[2]], [[2]]]], np.int64)])


def int32_table():
    """The same in a typed field, as a Constant of integers, and in int32."""
    nodes = [
        CONV,
        node("Constant", [], ["ints"], value_ints=[4, 1, 2, 3]),
        node("Reshape", ["ints", "as"], ["tab"]),
        node("Cast", ["tab"], ["t"], to=TensorProto.FLOAT),
        node("Cast", ["small"], ["u"], to=TensorProto.FLOAT),
        node("Mul", ["c0", "t"], ["c1"]),
        node("Add", ["c1", "u"], ["c"]),
        *TAIL,
    ]
    small = helper.make_tensor("small", TensorProto.INT32, [1, 4, 1, 1], [1, -2, 3, 4])
    return model(nodes, [W, FC, small, helper.make_tensor("as", TensorProto.INT64, [4], [1, 4, 1, 1])])


def bool_mask():
    """A stored mask and what stands where it is false."""
    nodes = [CONV, node("Where", ["mask", "c0", "lo"], ["c"]), *TAIL]
    mask = init("mask", np.array([1, 0, 1, 1], bool).reshape(1, 4, 1, 1))
    return model(nodes, [W, FC, mask, init("lo", -3.0, np.float32)])


def ml_attributes():
    """A scaler and a linear regressor of ai.onnx.ml, their parameters in attributes."""
    rng = np.random.default_rng(3)
    regressor = {"coefficients": rng.normal(size=960).tolist(), "intercepts": [0.5] * 5, "targets": 5}
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("Scaler", ["f"], ["g"], domain="ai.onnx.ml", offset=[0.1] * 192, scale=rng.random(192).tolist()),
        node("LinearRegressor", ["g"], ["y"], domain="ai.onnx.ml", **regressor),
    ]
    return model(nodes, [], domains=["ai.onnx.ml"])


def trees():
    """Regression trees: thresholds, leaves and hit rates are numbers, the rest of their attributes is no number."""
    attributes = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [200, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 1],
        "target_weights": [1.5, -2.5],
        "n_targets": 2,
    }
    attributes["nodes_featureids"][0] = 100
    trees_ = node("TreeEnsembleRegressor", ["f"], ["y"], name="forest", domain="ai.onnx.ml", **attributes)
    return model([node("Flatten", ["x"], ["f"]), trees_], [], domains=["ai.onnx.ml"])


def standard_attributes():
    """Numbers in attributes of standard operators."""
    nodes = [
        CONV,
        node("LeakyRelu", ["c0"], ["c"], name="leaky", alpha=0.3),
        TAIL[0],
        TAIL[1],
        node("Gemm", ["f", "fc", "b"], ["y"], name="last", alpha=1.0, beta=0.5, transB=0),
    ]
    return model(nodes, [W, FC, normal("b", 5)])


def counted_twice():
    """A function with a stored weight and a number in an attribute, called twice."""
    stored = normal("w", 3, 3, 3, 3)
    body = [
        node("Constant", [], ["w"], value=stored),
        node("Conv", ["a", "w"], ["b0"], pads=[1, 1, 1, 1]),
        node("LeakyRelu", ["b0"], ["b"], name="leaky", alpha=0.25),
    ]
    block = helper.make_function("local", "Block", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    calls = [node("Block", ["x"], ["a1"], domain="local"), node("Block", ["a1"], ["a2"], domain="local")]
    return model([*calls, node("Conv", ["a2", "W"], ["c"]), *TAIL], [W, FC], domains=["local"], functions=[block])


def _integer_block(weights, before=()):
    """A function around a QLinearConv of integers stored in it, called twice."""
    scale, zero = init("", 0.02, np.float32), init("", 3, np.uint8)
    weights_scale, weights_zero = init("", 0.01, np.float32), init("", 0, np.int8)
    stored = {**weights, "s": scale, "z": zero, "ws": weights_scale, "wz": weights_zero}
    body = [node("Constant", [], [name], value=tensor) for name, tensor in stored.items()]
    inputs = ["a", "s", "z", "w", "ws", "wz", "s", "z"]
    body += [*before, node("QLinearConv", inputs, ["b"], name="convolution", pads=[1, 1, 1, 1])]
    block = helper.make_function("local", "Block", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        node("Block", ["q"], ["a1"], domain="local"),
        node("Block", ["a1"], ["a2"], domain="local"),
        node("DequantizeLinear", ["a2", "scale", "zero"], ["d"]),
        node("Conv", ["d", "W"], ["c"]),
        *TAIL,
    ]
    given = [init("scale", 0.02, np.float32), init("zero", 3, np.uint8)]
    return model(nodes, [W, FC, *given], domains=["local"], functions=[block])


def _integers(name):
    return init("", np.random.default_rng([5, *map(ord, name)]).integers(-60, 60, (3, 3, 3, 3)), np.int8)


def integers_twice():
    """Integer weights of a function that is called twice."""
    return _integer_block({"w": _integers("w")})


def votes_twice():
    """The same, stored three times in the function and voted there."""
    vote = [node("Equal", ["w1", "w2"], ["same"]), node("Where", ["same", "w1", "w3"], ["w"])]
    return _integer_block({f"w{copy}": _integers("w") for copy in "123"}, vote)


def function_defaults():
    """A function with numbers in attributes: one call leaves both to their defaults, one gives one of them."""
    leaky = [node("LeakyRelu", [a], [b]) for a, b in (("a", "b"), ("b", "d"))]
    for made, name in zip(leaky, ("first", "second"), strict=True):
        made.attribute.add(name="alpha", ref_attr_name=name, type=onnx.AttributeProto.FLOAT)
    made = [node("Constant", [], ["k"]), node("Mul", ["d", "k"], ["e"])]
    made[0].attribute.add(name="value_float", ref_attr_name="second", type=onnx.AttributeProto.FLOAT)
    opsets = [helper.make_opsetid("", 18)]
    defaults = [helper.make_attribute("first", 0.6), helper.make_attribute("second", 0.7)]
    block = helper.make_function("local", "Leak", ["a"], ["e"], [*leaky, *made], opsets, [], defaults)
    calls = [
        node("Leak", ["c0"], ["l1"], name="one", domain="local"),
        node("Leak", ["l1"], ["c"], name="two", domain="local", second=0.2),
    ]
    return model([CONV, *calls, *TAIL], [W, FC], domains=["local"], functions=[block])


def integer_table_of_shapes():
    """Integers that steer: shapes computed from the input's, axes, an index, a switch, and what only training uses."""
    nodes = [
        CONV,
        node("Shape", ["c0"], ["sh"]),
        node("Gather", ["sh", "first"], ["n"]),
        node("Mul", ["n", "one"], ["n1"]),
        node("Concat", ["n1", "rest"], ["to"], axis=0),
        node("Reshape", ["c0", "to"], ["r"]),
        node("ReduceMax", ["r", "axes"], ["m"], keepdims=0),
        node("Dropout", ["m", "ratio", "training"], ["d"]),
        node("MatMul", ["d", "fc"], ["y"]),
    ]
    integers = {"first": [0], "one": [1], "rest": [4, -1], "axes": [2]}
    stored = [init(name, values, np.int64) for name, values in integers.items()]
    return model(nodes, [W, FC, *stored, init("ratio", 0.5, np.float32), init("training", False, bool)])


def loop():
    """A weight that a loop begins with, a stored value that its body returns, one it computes with, and its limits."""
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["on"]),
            node("Mul", ["state", "factor"], ["next"]),
            node("Identity", ["extra"], ["out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [5]),
        ],
        [normal("factor", 4, 3, 3, 3), normal("extra", 5)],
    )
    nodes = [
        node("Loop", ["turns", "start", "W"], ["w", "outs"], name="turning", body=body),
        node("Conv", ["x", "w"], ["c"]),
        TAIL[0],
        TAIL[1],
        node("MatMul", ["f", "fc"], ["m"]),
        node("ReduceSum", ["outs", "axis"], ["o"], keepdims=0),
        node("Add", ["m", "o"], ["y"]),
    ]
    limits = [init("turns", 2, np.int64), init("start", True, bool), init("axis", [0], np.int64)]
    return model(nodes, [W, FC, *limits])


ALL = {
    build.__name__: build
    for build in (
        if_initializers,
        if_constants,
        if_same_name,
        returned_by_graph,
        constant_of_shape,
        int64_table,
        int32_table,
        bool_mask,
        ml_attributes,
        trees,
        standard_attributes,
        counted_twice,
        integers_twice,
        votes_twice,
        function_defaults,
        integer_table_of_shapes,
        loop,
    )
}
