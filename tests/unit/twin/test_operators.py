"""Every operator, alone, against onnxruntime: integer kernels bit for bit, floats to their last bits."""

import numpy as np
import pytest

IMAGES = (4, 3, 8, 8)  # codes behind the quantized input, x_q

FLOATS = {  # operator, inputs, attributes, constants by name
    "abs": ("Abs", "c", {}),
    "clip": ("Clip", "c low high", {}),
    "clip-low": ("Clip", "c low", {}),
    "div": ("Div", "c four", {}),
    "elu": ("Elu", "c", {"alpha": 0.7}),
    "erf": ("Erf", "c", {}),
    "exp": ("Exp", "c", {}),
    "gelu": ("Gelu", "c", {}),
    "gelu-tanh": ("Gelu", "c", {"approximate": "tanh"}),
    "hard-sigmoid": ("HardSigmoid", "c", {"alpha": 0.3}),
    "hard-swish": ("HardSwish", "c", {}),
    "leaky-relu": ("LeakyRelu", "c", {"alpha": 0.2}),
    "max": ("Max", "c low", {}),
    "min": ("Min", "c low four", {}),
    "mul": ("Mul", "c four", {}),
    "neg": ("Neg", "c", {}),
    "pow": ("Pow", "x four", {}),
    "reciprocal": ("Reciprocal", "shifted", {}),
    "relu": ("Relu", "c", {}),
    "sigmoid": ("Sigmoid", "c", {}),
    "softmax": ("Softmax", "c", {"axis": 1}),
    "softplus": ("Softplus", "c", {}),
    "sqrt": ("Sqrt", "shifted", {}),
    "sub": ("Sub", "c four", {}),
    "tanh": ("Tanh", "c", {}),
    "batch-norm": ("BatchNormalization", "c three three half_three shifted_three", {}),
    "layer-norm": ("LayerNormalization", "c eight eight", {"epsilon": 1e-3}),
    "layer-norm-axis": ("LayerNormalization", "c image image", {"axis": 1}),
    "max-pool": ("MaxPool", "c", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    "max-pool-uneven": ("MaxPool", "c", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
    "average-pool": ("AveragePool", "c", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "average-pool-pads": (
        "AveragePool",
        "c",
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "average-pool-uneven": ("AveragePool", "c", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    "average-pool-same": ("AveragePool", "c", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "global-max-pool": ("GlobalMaxPool", "c", {}),
    "reduce-max": ("ReduceMax", "c axes", {"keepdims": 0}),
    "reduce-mean": ("ReduceMean", "c axes", {}),
    "reduce-mean-all": ("ReduceMean", "c", {"noop_with_empty_axes": 1}),
    "reduce-sum": ("ReduceSum", "c axes", {"keepdims": 0}),
    "conv-grouped": ("Conv", "c grouped", {"group": 3, "dilations": [2, 2], "pads": [2, 1, 2, 1]}),
    "conv-same": ("Conv", "c kernel bias", {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "fused-matmul": ("FusedMatMul", "c c", {"transB": 1, "alpha": 0.5, "domain": "com.microsoft"}),
    "quick-gelu": ("QuickGelu", "c", {"alpha": 1.1, "domain": "com.microsoft"}),
    "expand": ("Expand", "half expand_shape", {}),
    "flatten": ("Flatten", "c", {"axis": -3}),
    "gather": ("Gather", "c picked", {"axis": 1}),
    "pad": ("Pad", "c pads low", {}),
    "pad-reflect": ("Pad", "c pads_inner", {"mode": "reflect"}),
    "pad-edge": ("Pad", "c pads_inner", {"mode": "edge"}),
    "slice": ("Slice", "c starts ends slice_axes steps", {}),
    "squeeze": ("Squeeze", "mean mean_axes", {}),
    "transpose": ("Transpose", "c", {"perm": [0, 3, 1, 2]}),
    "unsqueeze": ("Unsqueeze", "c unsqueeze_axes", {}),
    "where": ("Where", "above c four", {}),
}

CODES = {  # on x_q, with scale s and zero point z; the result's t and y
    "add": ("QLinearAdd", "x_q s z r_q r_s r_z t y_z", {}),
    "add-scalar": ("QLinearAdd", "x_q s z one_q r_s r_z t y_z", {}),
    "add-channels": ("QLinearAdd", "channels_q r_s r_z x_q s z t y_z", {}),
    "mul": ("QLinearMul", "x_q s z r_q r_s r_z t y_z", {}),
    "concat": ("QLinearConcat", "t y_z x_q s z x_q r_s r_z", {"axis": 1}),
    "sigmoid": ("QLinearSigmoid", "x_q s z u y_z", {}),
    "leaky-relu": ("QLinearLeakyRelu", "x_q s z t y_z", {"alpha": 0.3}),
    "softmax": ("QLinearSoftmax", "x_q s z u zero", {"axis": -1, "opset": 13}),
    "softmax-axis": ("QLinearSoftmax", "x_q s z u zero", {"axis": 1, "opset": 13}),
    "softmax-12": ("QLinearSoftmax", "x_q s z u zero", {"axis": 2, "opset": 12}),
    "average-pool": (
        "QLinearAveragePool",
        "x_q s z t y_z",
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "global-average-pool": ("QLinearGlobalAveragePool", "x_q s z t y_z", {}),
    "conv-asymmetric": ("QLinearConv", "x_q s z ku_q r_s r_z t y_z bias_q", {"pads": [1, 1, 1, 1]}),
    "conv-channel": ("QLinearConv", "x_q s z ks_q k_s k_z t y_z", {"strides": [2, 2]}),
    "conv-uneven": ("QLinearConv", "x_q s z ks_q k_s k_z t y_z bias_q", {"pads": [0, 1, 1, 0], "dilations": [2, 1]}),
    "conv-depthwise": ("QLinearConv", "x_q s z d_q r_s zero t y_z", {"group": 3, "auto_pad": "SAME_UPPER"}),
    "matmul": ("QLinearMatMul", "x_q s z m_q m_s m_z t y_z", {}),
    "matmul-activations": ("QLinearMatMul", "x_q s z x_q s z t y_z", {}),
}
STANDARD = ("QLinearConv", "QLinearMatMul")


def constants(models):
    rng = np.random.default_rng(3)
    draw = rng.standard_normal
    values = {
        "low": np.float32(-0.2), "high": np.float32(0.3), "four": np.float32(4), "half": np.float32(0.5),
        "one": np.float32(1), "three": draw(3), "half_three": draw(3) / 2, "shifted_three": rng.random(3) + 0.5,
        "eight": draw(8), "image": draw((3, 8, 8)), "grouped": draw((6, 1, 3, 3)), "kernel": draw((4, 3, 3, 3)),
        "bias": draw(4),
    }  # fmt: skip
    found = [models.constant(name, value) for name, value in values.items()]
    whole = {
        "axes": [2, 3], "expand_shape": [4, 3, 8, 8], "picked": [2, -3], "pads": [0, 1, 0, 2, 0, 0, 3, -1],
        "pads_inner": [0, 0, 1, 2, 0, 0, 3, 1], "starts": [6, 0], "ends": [-100, 2], "slice_axes": [2, 1],
        "steps": [-2, 1], "mean_axes": [-1, 2], "unsqueeze_axes": [-1, 1],
    }  # fmt: skip
    return found + [models.constant(name, value, np.int64) for name, value in whole.items()]


def codes(models):
    rng = np.random.default_rng(4)
    scales = {"s": 0.004, "t": 0.011, "u": 1 / 256, "r_s": 0.013, "m_s": rng.random(5) / 100, "k_s": rng.random(4) / 50}
    found = [models.constant(name, value) for name, value in scales.items()]
    bytes_ = {
        "z": 7, "r_z": 101, "y_z": 97, "zero": 0, "one_q": 200, "r_q": rng.integers(0, 256, (1, 3, 8, 8)),
        "channels_q": rng.integers(0, 256, (1, 3, 1, 1)), "ku_q": rng.integers(0, 256, (4, 3, 3, 3)),
        "d_q": rng.integers(0, 256, (3, 1, 3, 3)), "m_q": rng.integers(0, 256, (8, 5)), "m_z": [90, 90, 90, 90, 90],
    }  # fmt: skip
    found += [models.constant(name, value, np.uint8) for name, value in bytes_.items()]
    found += [models.constant("ks_q", rng.integers(-128, 128, (4, 3, 3, 3)), np.int8)]
    found += [models.constant("k_z", [0] * 4, np.int8)]
    return [*found, models.constant("bias_q", rng.integers(-9000, 9000, 4), np.int32)]


@pytest.mark.parametrize("case", FLOATS)
def test_float_operators(case, models, pair, logits):
    operator, inputs, attributes = FLOATS[case]
    nodes = [
        models.node("Sub", "x half", "c"),
        models.node("Add", "x half", "shifted"),
        models.node("GlobalAveragePool", "c", "mean"),
        models.node("Greater", "c low", "above"),
        models.node(operator, inputs, "made", **attributes),
        models.node("Mul", "made one", "y"),
    ]
    twin, session = pair(models.model(nodes, constants(models)))
    images = models.images(4)
    np.testing.assert_allclose(logits(twin, images), session.run(images), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("case", CODES)
def test_operators_on_codes(case, models, pair, logits):
    operator, inputs, attributes = CODES[case]
    attributes = attributes if operator in STANDARD else {**attributes, "domain": "com.microsoft"}
    scale, zero = ("u", "zero") if "softmax" in case else ("t", "y_z")
    nodes = [
        models.node("QuantizeLinear", "x s z", "x_q"),
        models.node(operator, inputs, "made", **attributes),
        models.node("DequantizeLinear", f"made {scale} {zero}", "y"),
    ]
    twin, session = pair(models.model(nodes, codes(models)))
    images = models.images(4)
    theirs = session.run(images)
    assert len(np.unique(theirs)) > 2
    np.testing.assert_array_equal(logits(twin, images), theirs)


def test_shapes_that_are_computed(models, pair, logits):
    nodes = [
        models.node("Shape", "x", "sizes"),
        models.node("Gather", "sizes first", "batch"),
        models.node("Unsqueeze", "batch zero", "batch_1"),
        models.node("Range", "zero_0 three one_0", "channels"),
        models.node("Split", "x sixes", "top bottom", axis=2),
        models.node("Concat", "bottom top", "rolled", axis=2),
        models.node("Gather", "rolled channels", "same", axis=1),
        models.node("ConstantOfShape", "one_size", "filled", value=models.constant("", [8], np.int64)),
        models.node("Concat", "batch_1 minus filled", "target", axis=0),
        models.node("Cast", "same", "same_f", to=1),
        models.node("Reshape", "same_f target", "y"),
    ]
    whole = {
        "first": 0,
        "zero": [0],
        "zero_0": 0,
        "three": 3,
        "one_0": 1,
        "sixes": [6, 2],
        "minus": [-1],
        "one_size": [1],
    }
    twin, session = pair(models.model(nodes, [models.constant(k, v, np.int64) for k, v in whole.items()]))
    images = models.images(5)
    np.testing.assert_array_equal(logits(twin, images), session.run(images))


def test_a_missing_zero_point_is_zero(models, pair, logits):
    nodes = [
        models.node("QuantizeLinear", "x s", "x_q"),
        models.node("DequantizeLinear", "x_q s", "x_d"),
        models.node("DequantizeLinear", "w k_s", "w_d", axis=0),
        models.node("Conv", "x_d w_d", "c"),
        models.node("QuantizeLinear", "c t", "c_q"),
        models.node("DequantizeLinear", "c_q t", "y"),
    ]
    twin, session = pair(models.model(nodes, [*codes(models), models.stored("w", 4, 3, 3, 3, dtype=np.int8)]))
    images = models.images(4)
    np.testing.assert_array_equal(logits(twin, images), session.run(images))


@pytest.mark.parametrize("kind", ["tensor", "channel"])
def test_int8_activations(kind, models, pair, logits, tmp_path):
    """onnxruntime turns them into uint8 on x86; the twin keeps the file's type, and the same values."""
    signed = [models.constant("z", 5, np.int8), models.constant("y_z", -9, np.int8), *_weights(models, kind)]
    nodes = [
        models.node("QuantizeLinear", "x s z", "x_q"),
        models.node("DequantizeLinear", "x_q s z", "x_d"),
        models.node("DequantizeLinear", "w w_s", "w_d", axis=0),
        models.node("Conv", "x_d w_d", "c", pads=[1, 1, 1, 1]),
        models.node("QuantizeLinear", "c t y_z", "c_q"),
        models.node("DequantizeLinear", "c_q t y_z", "y"),
    ]
    twin, session = pair(models.model(nodes, signed))
    images = models.images(4)
    np.testing.assert_array_equal(logits(twin, images), session.run(images))


def _weights(models, kind):
    scale = 0.004 if kind == "tensor" else [0.004, 0.003, 0.002, 0.005]
    weight = models.stored("w", 4, 3, 3, 3, dtype=np.int8)
    return [weight, models.constant("w_s", scale), models.constant("s", 0.004), models.constant("t", 0.02)]


@pytest.mark.parametrize(
    ("places", "batches", "back"),
    [
        ([[0, 7], [-1, 2], [3, 3], [5, -8], [6, 1]], 0, [1, 2, 0]),
        ([[[1], [-1]]] * 4 + [[[5], [0]]] * 4, 1, [2, 3, 0, 1]),
    ],
    ids=["places", "by batch"],
)
def test_values_found_by_their_coordinates(models, pair, logits, places, batches, back):
    """As an adaptive pooling is exported whose windows are not alike."""
    nodes = [
        models.node("Sub", "x half", "c"),
        models.node("Transpose", "c", "last", perm=[2, 3, 0, 1]),
        models.node("GatherND", "last places", "taken", batch_dims=batches),
        models.node("Transpose", "taken", "y", perm=back),
    ]
    held = [models.constant("half", np.float32(0.5)), models.constant("places", places, np.int64)]
    twin, session = pair(models.model(nodes, held))
    images = models.images(4)
    np.testing.assert_array_equal(logits(twin, images), session.run(images))
