"""Sessions in exact arithmetic against integer layers written in plain numpy, on whatever CPU this is.

With the re-encoding forced the same must hold: that is what a CPU takes whose kernels saturate.
"""

import itertools

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed import kernels
from resq_deploy.deployed.deployment import OPTIMIZATIONS, Deployment, create

TYPES = {np.int8: TensorProto.INT8, np.uint8: TensorProto.UINT8}
MICROSOFT = ("QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
SCALES = {"a_scale": np.float32(0.0123), "b_scale": np.float32(0.0371), "y_scale": np.float32(0.91)}


def sums(a, b, a_zero, b_zero):
    """The int32 sums of a matrix product; `b_zero` is one number or one a column."""
    return (a.astype(np.int64) - np.int64(a_zero)) @ (b.astype(np.int64) - np.asarray(b_zero, np.int64))


def convolution(x, w, x_zero, w_zero, *, groups, strides, pads):
    """The int32 sums of a convolution, [N, C, H, W] with [M, C / groups, kh, kw]; padded with the zero point."""
    moved = np.pad(x.astype(np.int64) - np.int64(x_zero), ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    weights = w.astype(np.int64) - np.asarray(w_zero, np.int64).reshape(-1, 1, 1, 1)
    windows = sliding_window_view(moved, w.shape[2:], axis=(2, 3))[:, :, ::strides, ::strides]
    inner, outer = w.shape[1], len(w) // groups
    parts = [
        np.einsum(
            "nchwij,mcij->nmhw",
            windows[:, group * inner : (group + 1) * inner],
            weights[group * outer : (group + 1) * outer],
        )
        for group in range(groups)
    ]
    return np.concatenate(parts, axis=1)


def requantized(total, zero, b_scale=None):
    """What QLinearConv, QLinearMatMul and QGemm make of sums, in float32 and half to even; channels second, or last."""
    scale = SCALES["a_scale"] * (SCALES["b_scale"] if b_scale is None else b_scale) / SCALES["y_scale"]
    limits = np.iinfo(np.asarray(zero).dtype)
    rounded = np.rint(total.astype(np.float32) * scale).astype(np.int64)
    return np.clip(rounded + np.int64(zero), limits.min, limits.max).astype(np.asarray(zero).dtype)


def operands(kind, dtype, shape, seed):
    limits, source = np.iinfo(dtype), np.random.default_rng(seed)
    if kind == "largest":
        return np.full(shape, limits.max, dtype)
    if kind == "ends":
        return source.choice(np.array([limits.min, limits.max], dtype), shape)
    return source.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def run(op, inputs, feeds, stored, *, optimization="all", **attributes):
    domain = "com.microsoft" if op in MICROSOFT else ""
    given = {np.dtype(np.float32): TensorProto.FLOAT} | {np.dtype(kind): number for kind, number in TYPES.items()}
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], "layer", domain=domain, **attributes)],
        "g",
        [helper.make_tensor_value_info(name, given[value.dtype], None) for name, value in feeds.items()],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return create(model.SerializeToString(), Deployment(optimization=optimization)).run(None, feeds)[0]


@pytest.fixture(params=["as this CPU needs", "re-encoded"], autouse=True)
def forced(request, monkeypatch):
    monkeypatch.setenv(kernels.FORCE, "1" if request.param == "re-encoded" else "0")


MIXED = [(np.uint8, np.int8), (np.int8, np.uint8), (np.uint8, np.uint8), (np.int8, np.int8)]
LINEAR = [pair for pair in MIXED if pair != (np.int8, np.uint8)]  # the others have no such kernel
KINDS = ("largest", "ends", "random")


def named(pairs):
    return pytest.mark.parametrize(("left", "right"), pairs, ids=[f"{a.__name__}-{b.__name__}" for a, b in pairs])


@pytest.mark.parametrize("rows", [1, 2, 45])
@pytest.mark.parametrize("kind", KINDS)
@named(MIXED)
def test_matmul_integer(left, right, kind, rows):
    a, b = operands(kind, left, (rows, 51), 1), operands(kind, right, (51, 19), 2)
    a_zero, b_zero = left(7), operands("random", right, (19,), 3)
    for zeros in ({}, {"az": a_zero}, {"az": a_zero, "bz": right(3)}, {"az": a_zero, "bz": b_zero}):
        found = run("MatMulInteger", ["a", "b", *zeros], {"a": a}, {"b": b, **zeros})
        np.testing.assert_array_equal(found, sums(a, b, zeros.get("az", 0), zeros.get("bz", 0)))


@pytest.mark.parametrize(("groups", "channels"), [(1, 5), (2, 6), (8, 8)], ids=["plain", "grouped", "depthwise"])
@pytest.mark.parametrize("kind", KINDS)
@named(MIXED)
def test_conv_integer(left, right, kind, groups, channels):
    x, w = operands(kind, left, (2, channels, 7, 6), 1), operands(kind, right, (8, channels // groups, 3, 3), 2)
    stored = {"w": w, "xz": left(5), "wz": right(2)}
    found = run("ConvInteger", ["x", "w", "xz", "wz"], {"x": x}, stored, group=groups, pads=[1] * 4, strides=[2, 2])
    np.testing.assert_array_equal(found, convolution(x, w, 5, 2, groups=groups, strides=2, pads=1))
    plain = run("ConvInteger", ["x", "w"], {"x": x}, {"w": w}, group=groups)
    np.testing.assert_array_equal(plain, convolution(x, w, 0, 0, groups=groups, strides=1, pads=0))


@pytest.mark.parametrize(("groups", "channels"), [(1, 5), (2, 6), (8, 8)], ids=["plain", "grouped", "depthwise"])
@pytest.mark.parametrize(("kind", "size"), [*itertools.product(KINDS, [7]), ("largest", 3)])
@named(LINEAR)
def test_qlinear_conv(left, right, kind, size, groups, channels):
    x, w = operands(kind, left, (2, channels, size, size), 1), operands(kind, right, (8, channels // groups, 3, 3), 2)
    zero = left(-9) if left is np.int8 else left(131)
    scales = np.linspace(0.01, 0.05, 8, dtype=np.float32)
    wz = 128 if right is np.uint8 else 0
    bias = np.arange(8, dtype=np.int32) * 1000 - 3000
    stored = {"w": w, "xs": SCALES["a_scale"], "xz": left(6), "ws": scales, "wz": np.full(8, wz, right)}
    stored |= {"ys": SCALES["y_scale"], "yz": zero, "bias": bias}
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "bias"]
    found = run("QLinearConv", inputs, {"x": x}, stored, group=groups)
    total = convolution(x, w, 6, np.full(8, wz), groups=groups, strides=1, pads=0) + bias.reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(found, requantized(total, zero, scales.reshape(1, -1, 1, 1)))


@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("kind", KINDS)
@named(LINEAR)
def test_qlinear_matmul(left, right, kind, rows):
    a, b = operands(kind, left, (rows, 40), 1), operands(kind, right, (40, 12), 2)
    stored = {"b": b, "az": left(3), "bz": right(1), "yz": left(10), **SCALES}
    inputs = ["a", "a_scale", "az", "b", "b_scale", "bz", "y_scale", "yz"]
    found = run("QLinearMatMul", inputs, {"a": a}, stored)
    np.testing.assert_array_equal(found, requantized(sums(a, b, 3, 1), left(10)))


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("kind", "rows"), [*itertools.product(KINDS, [33]), ("ends", 1)])
@named(LINEAR)
def test_qgemm(left, right, kind, rows, transposed):
    a, b = operands(kind, left, (rows, 40), 1), operands(kind, right, (40, 12), 2)
    bias = np.arange(12, dtype=np.int32) * 500
    stored = {"b": b.T if transposed else b, "az": left(3), "bz": right(1), "yz": left(10), "c": bias, **SCALES}
    inputs = ["a", "a_scale", "az", "b", "b_scale", "bz", "c", "y_scale", "yz"]
    found = run("QGemm", inputs, {"a": a}, stored, transB=transposed)
    np.testing.assert_array_equal(found, requantized(sums(a, b, 3, 1) + bias, left(10)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("right", [np.int8, np.uint8])
def test_products_that_end_in_floats(right, kind):
    """Scales of 1 leave the sums themselves, and activations from 0 to 255 are their own codes."""
    a, b = operands(kind, np.uint8, (9, 30), 1), operands(kind, right, (30, 12), 2)
    a[0, :2] = (0, 255)
    one, want = np.float32(1), sums(a, b, 0, 5)
    stored = {"b": b, "one": one, "az": np.uint8(0), "bz": right(5)}
    found = run("MatMulIntegerToFloat", ["a", "b", "one", "one", "az", "bz"], {"a": a}, stored)
    np.testing.assert_array_equal(found, want)
    stored = {"b": b, "one": one, "bz": right(5)}
    found = run("DynamicQuantizeMatMul", ["a", "b", "one", "bz"], {"a": a.astype(np.float32)}, stored)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_every_level_of_optimisation(optimization):
    a, b = operands("largest", np.uint8, (3, 40), 1), operands("largest", np.int8, (40, 12), 2)
    found = run("MatMulInteger", ["a", "b"], {"a": a}, {"b": b}, optimization=optimization)
    np.testing.assert_array_equal(found, sums(a, b, 0, 0))


def test_weights_that_are_fed():
    a, b = operands("ends", np.uint8, (3, 40), 1), operands("ends", np.int8, (40, 12), 2)
    np.testing.assert_array_equal(run("MatMulInteger", ["a", "b"], {"a": a, "b": b}, {}), sums(a, b, 0, 0))
