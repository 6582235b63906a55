"""Equalized models compute the same, and their layers share the ranges of the channels between them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.quantization.equalize import equalize, find_pairs
from resq_deploy.quantization.float_model import prepare_float_model

RNG = np.random.default_rng(3)
IMAGES = RNG.uniform(-1, 1, size=(7, 4, 8, 8)).astype(np.float32)


def uneven(*shape, axis=0):
    """Weights whose channels differ by orders of magnitude."""
    scale = np.exp(RNG.normal(scale=2, size=shape[axis]))
    return RNG.normal(size=shape) * np.expand_dims(scale, tuple(i for i in range(len(shape)) if i != axis))


def conv(source, target, weights, bias=None, **attributes):
    names = [source, weights] + ([bias] if bias else [])
    return helper.make_node("Conv", names, [target], f"conv {target}", **attributes)


def relu(source, target):
    return helper.make_node("Relu", [source], [target])


def build(nodes, tensors, outputs=("y",), integers=None):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()]
        + [numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in (integers or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def run(model, images=IMAGES):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def stored(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def plain():
    return build(
        [conv("x", "a", "w", "b"), relu("a", "r"), conv("r", "y", "v", "c")],
        {"w": uneven(6, 4, 3, 3), "b": RNG.normal(size=6), "v": uneven(5, 6, 3, 3, axis=1), "c": RNG.normal(size=5)},
    )


def flattened(*between, block, transposed=False, integers=None):
    """A convolution with 6 channels, then something that ends in rows, then a Gemm."""
    shape = (5, 6 * block) if transposed else (6 * block, 5)
    gemm = helper.make_node("Gemm", ["f", "v"], ["y"], "gemm", transB=int(transposed))
    weights = {"w": uneven(6, 4, 3, 3), "b": RNG.normal(size=6), "v": uneven(*shape, axis=int(transposed))}
    return build([conv("x", "a", "w", "b", pads=[1, 1, 1, 1]), *between, gemm], weights, integers=integers)


FLATTEN = helper.make_node("Flatten", ["p"], ["f"])
POOL = helper.make_node("AveragePool", ["r"], ["p"], kernel_shape=[4, 4], strides=[4, 4], pads=[2, 2, 2, 2])
MEAN = helper.make_node("ReduceMean", ["r", "axes"], ["p"], keepdims=0)
MEAN_KEPT = helper.make_node("ReduceMean", ["r", "axes"], ["p"], keepdims=1)
CLIP = helper.make_node("Clip", ["a", "zero"], ["r"])

PAIRED = {
    "plain": plain(),
    "without biases": build(
        [conv("x", "a", "w"), relu("a", "r"), conv("r", "y", "v")],
        {"w": uneven(6, 4, 3, 3), "v": uneven(5, 6, 1, 1, axis=1)},
    ),
    "depthwise": build(
        [conv("x", "a", "w", "b"), relu("a", "r"), conv("r", "y", "v", group=6)],
        {"w": uneven(6, 4, 3, 3), "b": RNG.normal(size=6), "v": uneven(6, 1, 3, 3)},
    ),
    "twice depthwise": build(
        [conv("x", "a", "w", "b"), relu("a", "r"), conv("r", "y", "v", group=6)],
        {"w": uneven(6, 4, 3, 3), "b": RNG.normal(size=6), "v": uneven(12, 1, 3, 3)},
    ),
    "grouped": build(
        [conv("x", "a", "w", "b"), relu("a", "r"), conv("r", "y", "v", group=2)],
        {"w": uneven(6, 4, 3, 3), "b": RNG.normal(size=6), "v": uneven(4, 3, 3, 3)},
    ),
    "clip": build(
        [conv("x", "a", "w", "b"), CLIP, conv("r", "y", "v")],
        {"w": uneven(6, 4, 3, 3), "b": RNG.normal(size=6), "zero": 0.0, "v": uneven(5, 6, 3, 3, axis=1)},
    ),
    "max pool": flattened(
        relu("a", "r"),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        FLATTEN,
        block=16,
    ),
    "max pool before": flattened(
        helper.make_node("MaxPool", ["a"], ["r"], kernel_shape=[2, 2], strides=[2, 2]),
        relu("r", "p"),
        FLATTEN,
        block=16,
        transposed=True,
    ),
    "padded average pool": flattened(relu("a", "r"), POOL, FLATTEN, block=9),
    "global average pool": flattened(
        relu("a", "r"), helper.make_node("GlobalAveragePool", ["r"], ["p"]), FLATTEN, block=1, transposed=True
    ),
    "reduce mean": flattened(
        relu("a", "r"),
        MEAN,
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        block=1,
        integers={"axes": [2, 3], "shape": [-1, 6]},
    ),
    "reduce mean over one axis": flattened(
        relu("a", "r"), MEAN_KEPT, FLATTEN, block=8, integers={"axes": [-1]}, transposed=True
    ),
    "reshape": flattened(
        relu("a", "p"),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        block=64,
        integers={"shape": [-1, 6 * 64]},
    ),
    "relu after flattening": flattened(
        helper.make_node("Flatten", ["a"], ["p"]), relu("p", "f"), block=64, transposed=True
    ),
}


@pytest.mark.parametrize("name", PAIRED)
def test_the_function_stays_and_the_ranges_become_equal(name):
    model = PAIRED[name]
    given = model.SerializeToString(deterministic=True)
    equalized, said = equalize(model, "channel")
    assert model.SerializeToString(deterministic=True) == given
    assert len(said["pairs"]) == 1
    expected, got = run(model), run(equalized)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    (pair,) = find_pairs(equalized)
    arrays = {name: value.astype(np.float64) for name, value in stored(equalized).items()}
    made = np.abs(pair.made(arrays)).reshape(6, -1).max(axis=1)
    read = np.abs(pair.read(arrays)).max(axis=(2, 3)).reshape(-1)
    np.testing.assert_allclose(made, read, rtol=1e-6)
    assert said["largest_factor"] > 2


def test_the_factors_are_those_of_the_paper():
    model = plain()
    before = stored(model)
    after = stored(equalize(model, "channel")[0])
    first = np.abs(before["w"]).max(axis=(1, 2, 3)).astype(np.float64)
    second = np.abs(before["v"]).max(axis=(0, 2, 3)).astype(np.float64)
    factor = np.sqrt(first * second) / second
    np.testing.assert_allclose(after["w"], before["w"] / factor[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(after["b"], before["b"] / factor, rtol=1e-6)
    np.testing.assert_allclose(after["v"], before["v"] * factor[None, :, None, None], rtol=1e-6)
    np.testing.assert_array_equal(after["c"], before["c"])


def chain():
    nodes = [conv("x", "a", "w", "b"), relu("a", "r"), conv("r", "d", "v", "c", group=6), relu("d", "s")]
    weights = {"w": uneven(6, 4, 3, 3), "v": uneven(6, 1, 3, 3), "u": uneven(5, 6, 1, 1, axis=1)}
    return build([*nodes, conv("s", "y", "u")], {**weights, "b": RNG.normal(size=6), "c": RNG.normal(size=6)})


def test_pairs_that_share_a_layer_are_settled_together():
    model = chain()
    equalized, said = equalize(model, "tensor")
    assert [pair["layers"] for pair in said["pairs"]] == [["conv a", "conv d"], ["conv d", "conv y"]]
    assert said["sweeps"] > 2
    again, repeated = equalize(equalized, "tensor")
    assert repeated["largest_factor"] < 1.001
    expected, got = run(model), run(again)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    for pair in said["pairs"]:
        assert all(np.less(pair["relative_error"]["after"], pair["relative_error"]["before"]))


def test_channels_of_zeros_are_left_alone():
    model = plain()
    weights = stored(model)
    dead, unread = weights["w"].copy(), weights["v"].copy()
    dead[2] = 0
    unread[:, 4] = 0
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "v"):
            tensor.CopyFrom(numpy_helper.from_array(dead if tensor.name == "w" else unread, tensor.name))
    after = stored(equalize(model, "channel")[0])
    np.testing.assert_array_equal(after["w"][[2, 4]], dead[[2, 4]])
    np.testing.assert_array_equal(after["v"][:, [2, 4]], unread[:, [2, 4]])
    np.testing.assert_array_equal(after["b"][[2, 4]], weights["b"][[2, 4]])
    assert not np.array_equal(after["w"][0], dead[0])


def with_tensors(nodes, outputs=("y",), **more):
    tensors = {"w": uneven(6, 4, 1, 1), "b": RNG.normal(size=6), "v": uneven(6, 6, 1, 1, axis=1)}
    return build(nodes, tensors | more, outputs)


FIRST, SECOND = conv("x", "a", "w", "b"), conv("r", "y", "v")
UNPAIRED = {
    "no relu": with_tensors([FIRST, helper.make_node("MaxPool", ["a"], ["r"], kernel_shape=[2, 2]), SECOND]),
    "relu6": with_tensors([FIRST, helper.make_node("Clip", ["a", "low", "high"], ["r"]), SECOND], low=0.0, high=6.0),
    "clip from below zero": with_tensors([FIRST, helper.make_node("Clip", ["a", "low"], ["r"]), SECOND], low=-1.0),
    "sigmoid": with_tensors([FIRST, helper.make_node("Sigmoid", ["a"], ["r"]), SECOND]),
    "read by others": with_tensors(
        [FIRST, relu("a", "r"), conv("r", "z", "v"), helper.make_node("Add", ["z", "r"], ["y"])]
    ),
    "an output": with_tensors([FIRST, relu("a", "r"), SECOND], ("y", "r")),
    "shared weights": with_tensors(
        [conv("x", "a", "k"), relu("a", "r"), conv("r", "s", "k"), relu("s", "t"), conv("t", "y", "k")],
        k=uneven(4, 4, 1, 1),
    ),
    "shared bias": with_tensors([FIRST, relu("a", "r"), conv("r", "y", "v", "b")]),
    "pooled over channels": with_tensors(
        [FIRST, relu("a", "r"), helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]), conv("t", "y", "u")],
        u=uneven(5, 8, 1, 1),
    ),
    "rows of several images": flattened(
        relu("a", "p"),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        block=128,
        integers={"shape": [-1, 6 * 128]},
    ),
}


@pytest.mark.parametrize("name", UNPAIRED)
def test_what_is_no_relu_chain_of_its_own_is_left_alone(name):
    model = UNPAIRED[name]
    equalized, said = equalize(model, "channel")
    assert said == {"sweeps": 0, "largest_factor": 1.0, "pairs": []}
    assert equalized.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_the_digits_classifier(digits_float):
    model = prepare_float_model(digits_float)
    equalized, said = equalize(model, "channel")
    (pair,) = said["pairs"]
    assert pair["layers"] == ["conv", "fc"]
    images = to_model_input(load_dataset("digits").evaluation(200).images)
    expected, got = run(model, images), run(equalized, images)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    made, read = ([pair["relative_error"][when][place] for when in ("before", "after")] for place in (0, 1))
    assert made[0] == pytest.approx(made[1], rel=1e-3)  # a range of its own for each channel, whatever its scale
    assert read[1] < read[0]
