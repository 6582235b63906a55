"""Weights of fewer bits: near the original ones, and all that goes with their codes changed alike, in any file."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.protection.follow import two_ways
from resq_deploy.protection.gather import gathered
from resq_deploy.protection.narrow import code_range, narrow
from resq_deploy.protection.plain import unvoted
from resq_deploy.protection.rounding import round_keeping_sums

DEPLOYMENT = Deployment(batch=4)
NARROWED = {  # kinds of files with 8-bit weights, and how many of them are narrowed
    "attention-dynamic-channel-u8-saved": 4,
    "attention-qdq-channel-s8": 6,
    "attention-qdq-tensor-u8": 6,
    "attention-qoperator-tensor-s8-pre": 5,
    "attention-qoperator-tensor-s8-pre-shifted": 5,
    "cnn-dynamic-tensor-u8": 3,
    "cnn-qdq-channel-s8": 3,
    "cnn-qdq-channel-s8-shifted": 3,
    "cnn-qdq-tensor-s8-a16": 3,
    "cnn-qdq-tensor-u8": 3,
    "cnn-qoperator-channel-s8": 3,
    "cnn-qoperator-channel-s8-savedall": 3,
    "cnn-qoperator-tensor-u8": 3,
    "constants": 1,
    "guarded": 1,
    "indices": 1,
    "integer_bias": 1,
    "shared": 1,
}


def weights(proto):
    found = (s for s in find_surfaces(proto) if s.role is Role.WEIGHT and s.dtype in ("int8", "uint8"))
    return [surface.tensor for surface in found]


def logits(proto, images):
    return Session(proto.SerializeToString(), DEPLOYMENT).run(images)


def tensors(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def assert_all_readers_follow(proto, images):
    """The same weights in half as many codes give the same logits to the bit: no reader was forgotten."""
    wide, small, found = two_ways(proto, weights(proto))
    assert small.SerializeToString() != wide.SerializeToString()
    assert logits(small, images).tobytes() == logits(wide, images).tobytes()
    return found


@pytest.mark.parametrize("kind", NARROWED)
def test_every_reader_of_a_weight_follows_its_codes(kind, model_file, models):
    proto = gathered(unvoted(read_model(model_file(kind))[0]))
    found = assert_all_readers_follow(proto, models.images(8, kind))
    assert [each.fits for each in found] == [True] * NARROWED[kind]


@pytest.mark.parametrize("bits", [7, 6])
def test_outputs_stay_near_in_every_kind_of_file(file_kind, bits, model_file, models):
    proto = gathered(unvoted(read_model(model_file(file_kind))[0]))
    before, images = proto.SerializeToString(), models.images(8, file_kind)
    small, found = narrow(proto, weights(proto), bits)
    assert proto.SerializeToString() == before
    wide, now = logits(proto, images), logits(small, images)
    assert np.abs(now - wide).max() <= 0.05 * np.ptp(wide) * 2 ** (7 - bits)
    for each in found:
        low, high = code_range(TensorProto.UINT8 if tensors(proto)[each.weight].dtype == np.uint8 else 3, bits)
        codes = tensors(small)[each.weight]
        assert not each.fits or (codes.min() >= low and codes.max() <= high)
        assert each.fits == (not each.reason)
    assert {each.weight for each in found} == set(weights(proto))
    if file_kind == "matmul_nbits":
        assert not any(each.fits for each in found)
        assert all("left as it is: MatMulNBits" in each.reason for each in found)


def layer(nodes, stored, *, opset=21, size=("N", 3)):
    """A graph of x, float of some size, to y."""
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(operator, inputs, output, domain="", **attributes):
    return helper.make_node(operator, inputs.split(), [output], name=output, domain=domain, **attributes)


def some(*shape, dtype=np.int8, seed=0):
    low, high = (0, 256) if dtype == np.uint8 else (-128, 128)
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


F = np.float32
X = {"xs": F(0.02), "xz": np.uint8(7), "ys": F(0.9), "yz": np.uint8(120)}
ENTER = [node("QuantizeLinear", "x xs xz", "xq"), node("DequantizeLinear", "xq xs xz", "xd")]
LEAVE = [node("QuantizeLinear", "m ys yz", "yq"), node("DequantizeLinear", "yq ys yz", "y")]


def with_shared_scale():
    """One scale for two weights and an activation, one zero point for all of them."""
    nodes = [node("DequantizeLinear", "w xs z", "wf"), node("DequantizeLinear", "v xs z", "vf")]
    nodes += [*ENTER, node("MatMul", "xd wf", "h"), node("MatMul", "h vf", "m"), node("Mul", "m xs", "y")]
    return layer(nodes, {**X, "z": np.int8(0), "w": some(3, 4), "v": some(4, 5, seed=1)})


def with_bias_of_one_scale():
    """Scales of the weight by channel, of its bias for all."""
    nodes = [*ENTER, node("DequantizeLinear", "w ws", "wf", axis=0), node("DequantizeLinear", "b bs", "bf")]
    nodes += [node("Gemm", "xd wf bf", "m", transB=1), *LEAVE]
    stored = {"w": some(4, 3), "ws": np.array([1, 2, 3, 4], F), "b": np.array([9, -8, 7, 60], np.int32), "bs": F(0.02)}
    return layer(nodes, {**X, **stored})


def with_added_bias():
    """A dequantized int32 bias that Add adds: some fuse it into the product."""
    nodes = [*ENTER, node("DequantizeLinear", "w ws", "wf", axis=1), node("DequantizeLinear", "b bs", "bf", axis=0)]
    nodes += [node("MatMul", "xd wf", "p"), node("Add", "bf p", "m"), *LEAVE]
    scale = np.array([1, 2, 3, 4], F)
    return layer(nodes, {**X, "w": some(3, 4), "ws": scale, "b": np.array([9, -8, 7, 60], np.int32), "bs": scale / 50})


def with_transposed_codes():
    """Codes, and dequantized weights, behind Transpose; tied to two layers."""
    nodes = [*ENTER, node("Transpose", "w", "wt", perm=[1, 0]), node("DequantizeLinear", "wt ws", "wf", axis=1)]
    nodes += [node("DequantizeLinear", "w ws", "vf", axis=0), node("MatMul", "xd wf", "h"), node("MatMul", "h vf", "m")]
    return layer([*nodes, *LEAVE], {**X, "ys": F(999), "w": some(4, 3), "ws": np.array([1, 2, 3, 4], F)})


def with_zero_points_by_channel():
    nodes = [*ENTER, node("DequantizeLinear", "w ws wz", "wf", axis=0), node("Gemm", "xd wf", "m", transB=1), *LEAVE]
    stored = {"w": some(4, 3, dtype=np.uint8), "ws": np.array([1, 2, 3, 4], F), "wz": np.array([0, 30, 128, 255], "B")}
    return layer(nodes, {**X, "ys": F(6), **stored})


def q_operator(operator, weight, scale, zero, bias, **attributes):
    inputs = "xq xs xz w ws wz" + (" b ys yz" if operator == "QGemm" else " ys yz")
    stored = {**X, "w": weight, "ws": scale, "wz": zero, **({"b": bias} if bias is not None else {})}
    domain = "com.microsoft" if operator == "QGemm" else ""
    nodes = [ENTER[0], node(operator, inputs, "yq", domain, **attributes), LEAVE[1]]
    return layer(nodes, stored)


def q_gemm():
    bias = np.array([900, -800, 70, 60000], np.int32)
    return q_operator("QGemm", some(3, 4), np.array([1, 2, 3, 4], F), np.zeros(4, np.int8), bias)


def q_gemm_of_unsigned_weights():
    return q_operator("QGemm", some(4, 3, dtype=np.uint8), F(3), np.uint8(101), np.array([9, -8, 7, 6], "i4"), transB=1)


def q_matmul():
    return q_operator("QLinearMatMul", some(3, 4), np.array([1, 2, 3, 4], F), np.zeros(4, np.int8), None)


def integer_matmul():
    """A scale for each channel, the product of that of the input and a stored one."""
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    nodes += [node("MatMulInteger", "q w z wz", "p"), node("Cast", "p", "f", to=TensorProto.FLOAT)]
    nodes += [node("Mul", "s ws", "both"), node("Mul", "f both", "y")]
    return layer(nodes, {"w": some(3, 4), "wz": np.zeros(4, np.int8), "ws": np.array([1, 2, 3, 4], F)})


def attention():
    nodes = [ENTER[0], node("Reshape", "xq three", "xt")]
    nodes += [node("QAttention", "xt w b xs ws  xz wz".replace("  ", " mask "), "a", "com.microsoft", num_heads=1)]
    nodes[-1].input[5] = ""
    nodes += [node("Reshape", "a two", "y")]
    stored = {"w": some(3, 9), "b": np.ones(9, F), "ws": F(0.01), "wz": np.int8(0)}
    shapes = {"three": np.array([-1, 1, 3]), "two": np.array([-1, 3])}
    return layer(nodes, {**X, **stored, **shapes})


HAND_MADE = {
    build.__name__: build
    for build in (
        with_shared_scale,
        with_bias_of_one_scale,
        with_added_bias,
        with_transposed_codes,
        with_zero_points_by_channel,
        q_gemm,
        q_gemm_of_unsigned_weights,
        q_matmul,
        integer_matmul,
        attention,
    )
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_odd_ways_to_read_a_weight(name):
    proto = HAND_MADE[name]()
    images = np.random.default_rng(3).normal(size=(64, 3)).astype(F)
    found = assert_all_readers_follow(proto, images)
    assert all(each.fits for each in found), found
    small, _ = narrow(proto, weights(proto), 7)
    wide, now = logits(proto, images), logits(small, images)
    assert 0 < np.abs(now - wide).max() <= 0.05 * np.ptp(wide)


def test_a_scale_that_others_read_is_copied_and_one_of_the_weight_alone_is_not():
    proto = with_shared_scale()
    small, _ = narrow(proto, ["w"], 7)
    before, after = tensors(proto), tensors(small)
    (new,) = after.keys() - before.keys()
    np.testing.assert_allclose(after[new], before["xs"] * max(before["w"].max() / 63, before["w"].min() / -64))
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {"w"}
    small, _ = narrow(q_gemm(), ["w"], 7)
    assert tensors(small).keys() == tensors(q_gemm()).keys()


def test_channels_that_fit_are_kept():
    proto = q_gemm()
    codes = some(3, 4)
    codes[:, 1] = [63, -64, 1]
    proto.graph.initializer[4].CopyFrom(numpy_helper.from_array(codes, "w"))
    small, (found,) = narrow(proto, ["w"], 7)
    before, after = tensors(proto), tensors(small)
    assert (after["w"][:, 1] == codes[:, 1]).all()
    assert after["ws"][1] == before["ws"][1]
    assert after["b"][1] == before["b"][1]
    assert found.channels == 3
    assert (after["ws"][[0, 2, 3]] > before["ws"][[0, 2, 3]]).all()


def test_a_file_that_fits_is_the_same_to_the_byte():
    proto = q_gemm()
    proto.graph.initializer[4].CopyFrom(numpy_helper.from_array(some(3, 4) >> 1, "w"))
    small, (found,) = narrow(proto, ["w"], 7)
    assert small.SerializeToString() == proto.SerializeToString()
    assert (found.fits, found.factor, found.channels, found.error) == (True, 1.0, 0, 0.0)


def _altered(build, **changes):
    """A graph with some stored tensors replaced, or with nodes appended."""
    proto = build()
    for tensor in proto.graph.initializer:
        if tensor.name in changes:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(changes[tensor.name]), tensor.name))
    proto.graph.node.extend(changes.get("nodes", ()))
    if "given" in changes:
        proto.graph.input.append(helper.make_tensor_value_info(changes["given"], TensorProto.FLOAT, [4]))
    if "returned" in changes:
        proto.graph.output.append(helper.make_tensor_value_info(changes["returned"], TensorProto.INT8, None))
    return proto


def _with_computed_scale():
    proto = q_gemm()
    proto.graph.node.insert(0, node("Mul", "ws one", "ws2"))
    proto.graph.initializer.append(numpy_helper.from_array(F(1), "one"))
    next(each for each in proto.graph.node if each.op_type == "QGemm").input[4] = "ws2"
    return proto


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        pytest.param(
            lambda: _altered(q_gemm, nodes=[node("Cast", "w", "c", to=TensorProto.FLOAT)]),
            "Cast 'c' reads it",
            id="cast",
        ),
        pytest.param(lambda: _altered(q_gemm, given="ws"), "its scale at 'yq' is no plain stored tensor", id="given"),
        pytest.param(
            lambda: _altered(q_gemm, given="b"), "its bias at 'yq' is no plain stored tensor", id="given-bias"
        ),
        pytest.param(_with_computed_scale, "its scale at 'yq' is no plain stored tensor", id="computed"),
        pytest.param(lambda: _altered(q_gemm, returned="w"), "'w' is handed on as an output", id="returned"),
        pytest.param(
            lambda: _altered(with_bias_of_one_scale, nodes=[node("Relu", "bf", "r")]), "has several readers", id="bias"
        ),
        pytest.param(
            lambda: _altered(with_transposed_codes, nodes=[node("DequantizeLinear", "w ws z", "d", axis=0)]),
            "its zero point at 'd' is no plain stored tensor",
            id="missing",
        ),
    ],
)
def test_what_is_left_as_it_is(proto, reason):
    before = proto()
    small, (found,) = narrow(before, ["w"], 7)
    assert not found.fits
    assert found.reason.startswith("left as it is: ")
    assert reason in found.reason
    assert small.SerializeToString() == before.SerializeToString()


def test_a_weight_of_a_file_whose_other_weights_are_left_alone():
    proto = _altered(with_shared_scale, nodes=[node("Cast", "v", "c", to=TensorProto.FLOAT)])
    small, found = narrow(proto, ["w", "v"], 7)
    assert [each.fits for each in found] == [True, False]
    images = np.random.default_rng(3).normal(size=(8, 3)).astype(F)
    assert np.abs(logits(small, images) - logits(proto, images)).max() <= 0.05 * np.ptp(logits(proto, images))


SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=6)
CODES = {"int8": (np.int8, st.integers(-128, 127)), "uint8": (np.uint8, st.integers(0, 255))}


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("by_channel", [True, False], ids=["by-channel", "by-tensor"])
@hypothesis.given(data=st.data())
def test_no_weight_moves_by_a_step(dtype, by_channel, data):
    kind, values = CODES[dtype]
    codes = data.draw(arrays.arrays(kind, SHAPES, elements=values))
    zero = data.draw(values)
    bits = data.draw(st.sampled_from([7, 6]))
    scale = np.linspace(1, 2, codes.shape[0]).astype(F) if by_channel else F(1)
    inputs = "w s z" if zero else "w s"
    stored = {"w": codes, "s": scale, **({"z": np.full(scale.shape, zero, kind)} if zero else {})}
    proto = layer([node("DequantizeLinear", inputs, "y", axis=0)], stored)
    small, (found,) = narrow(proto, ["w"], bits)
    after, ndim = tensors(small), codes.ndim
    low, high = code_range(proto.graph.initializer[0].data_type, bits)
    assert found.fits
    assert low <= after["w"].min() <= after["w"].max() <= high
    step = np.asarray(after["s"], np.float64).reshape([-1] + [1] * (ndim - 1)) if by_channel else float(after["s"])
    new_zero = np.asarray(after.get("z", zero), np.int64)
    new_zero = new_zero.reshape([-1] + [1] * (ndim - 1)) if by_channel and zero else new_zero
    wide = (codes.astype(int) - zero) * (scale.reshape([-1] + [1] * (ndim - 1)) if by_channel else scale)
    now = (after["w"].astype(int) - new_zero) * step
    assert (np.abs(now - wide) <= step * (1 + 1e-6)).all()


FLOATS = st.floats(-100, 100, width=32)


@hypothesis.given(arrays.arrays(np.float64, arrays.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=FLOATS))
def test_rounding_keeps_integers_bounds_and_sums(values):
    rounded = round_keeping_sums(values)
    assert (np.abs(rounded - values) < 1).all()
    assert (rounded >= np.floor(values)).all()
    assert (rounded <= np.ceil(values)).all()
    assert (np.abs((rounded - values).sum(axis=(1, 2))) <= 0.5 + 1e-9).all()
    whole = np.rint(values)
    assert (round_keeping_sums(whole) == whole).all()


def test_rounding_keeps_the_sums_of_kernels_but_for_one_weight():
    values = np.random.default_rng(0).normal(size=(20, 16, 9)) * 10
    rounded = round_keeping_sums(values)
    assert np.abs((rounded - values).sum(axis=2)).max() < 1.5
    nearest = np.rint(values)
    assert np.abs((nearest - values).sum(axis=2)).max() > 1.5
    assert ((rounded - values) ** 2).mean() < 1.3 * ((nearest - values) ** 2).mean()


def test_votes_are_undone_and_mended(model_file, models):
    proto = read_model(model_file("guarded"))[0]
    images = models.images(5)
    next(tensor for tensor in proto.graph.initializer if tensor.name == "w2").raw_data = bytes(15)
    plain = unvoted(proto)
    assert {tensor.name for tensor in plain.graph.initializer} == {"w", "w_s", "b", "b_s"}
    assert {each.op_type for each in plain.graph.node}.isdisjoint({"Equal", "Where"})
    assert logits(plain, images).tobytes() == logits(proto, images).tobytes()


def test_the_range_of_codes():
    assert code_range(TensorProto.INT8, 7) == (-64, 63)
    assert code_range(TensorProto.UINT8, 6) == (0, 63)
