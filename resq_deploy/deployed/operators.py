"""Which input of which operator is a weight, a bias, a scale or a zero point.

From the operator schemas of ONNX (https://onnx.ai/onnx/operators) and of onnxruntime's com.microsoft domain
(ContribOperators.md).
"""

import dataclasses

import onnx

from resq_deploy.deployed.stored import STANDARD_DOMAINS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slots:
    """Input slots of an operator by meaning.

    Attributes:
        weights: parameter operands.
        biases: bias operands.
        quantized: (operand, scale, zero point) of each quantized input; None where the operator has no such input.
        outputs: (scale, zero point) of each quantized output.
    """

    weights: tuple[int, ...] = ()
    biases: tuple[int, ...] = ()
    quantized: tuple[tuple[int, int | None, int | None], ...] = ()
    outputs: tuple[tuple[int, int], ...] = ()


_UNARY = Slots(quantized=((0, 1, 2),), outputs=((3, 4),))
_BINARY = Slots(quantized=((0, 1, 2), (3, 4, 5)), outputs=((6, 7),))

OPERATORS = {
    # ONNX
    "Conv": Slots(weights=(1,), biases=(2,)),
    "ConvTranspose": Slots(weights=(1,), biases=(2,)),
    "DeformConv": Slots(weights=(1,), biases=(3,)),
    "Gemm": Slots(weights=(0, 1), biases=(2,)),
    "MatMul": Slots(weights=(0, 1)),
    "Einsum": Slots(weights=(0, 1, 2, 3)),
    "LSTM": Slots(weights=(1, 2), biases=(3,)),
    "GRU": Slots(weights=(1, 2), biases=(3,)),
    "RNN": Slots(weights=(1, 2), biases=(3,)),
    "BatchNormalization": Slots(biases=(2,)),
    "GroupNormalization": Slots(biases=(2,)),
    "InstanceNormalization": Slots(biases=(2,)),
    "LayerNormalization": Slots(biases=(2,)),
    "ConvInteger": Slots(weights=(1,), quantized=((0, None, 2), (1, None, 3))),
    "MatMulInteger": Slots(weights=(0, 1), quantized=((0, None, 2), (1, None, 3))),
    "QLinearConv": Slots(weights=(3,), biases=(8,), quantized=((0, 1, 2), (3, 4, 5)), outputs=((6, 7),)),
    "QLinearMatMul": Slots(weights=(0, 3), quantized=((0, 1, 2), (3, 4, 5)), outputs=((6, 7),)),
    # com.microsoft
    "FusedConv": Slots(weights=(1,), biases=(2,)),
    "NhwcFusedConv": Slots(weights=(1,), biases=(2,)),
    "FusedGemm": Slots(weights=(0, 1), biases=(2,)),
    "FusedMatMul": Slots(weights=(0, 1)),
    "FusedMatMulActivation": Slots(weights=(0, 1)),
    "GemmFloat8": Slots(weights=(0, 1), biases=(2,)),
    "QGemm": Slots(weights=(0, 3), biases=(6,), quantized=((0, 1, 2), (3, 4, 5)), outputs=((7, 8),)),
    "MatMulIntegerToFloat": Slots(weights=(0, 1), biases=(6,), quantized=((0, 2, 4), (1, 3, 5))),
    "DynamicQuantizeMatMul": Slots(weights=(1,), biases=(4,), quantized=((1, 2, 3),)),
    "DynamicQuantizeLSTM": Slots(weights=(1, 2), biases=(3,), quantized=((1, 8, 9), (2, 10, 11))),
    "MatMulNBits": Slots(weights=(1,), biases=(5,), quantized=((1, 2, 3),)),
    "MatMulBnb4": Slots(weights=(1,), quantized=((1, 2, None),)),
    "GatherBlockQuantized": Slots(weights=(0,), quantized=((0, 2, 3),)),
    "Attention": Slots(weights=(1,), biases=(2,)),
    "QAttention": Slots(weights=(1,), biases=(2,), quantized=((0, 3, 6), (1, 4, 7))),
    "MultiHeadAttention": Slots(biases=(3,)),
    "BiasAdd": Slots(biases=(1,)),
    "BiasGelu": Slots(biases=(1,)),
    "BiasSplitGelu": Slots(biases=(1,)),
    "FastGelu": Slots(biases=(1,)),
    "BiasSoftmax": Slots(biases=(1,)),
    "SkipLayerNormalization": Slots(biases=(3, 4)),
    "QLinearAdd": _BINARY,
    "QLinearMul": _BINARY,
    "QLinearSigmoid": _UNARY,
    "QLinearLeakyRelu": _UNARY,
    "QLinearSoftmax": _UNARY,
    "QLinearAveragePool": _UNARY,
    "QLinearGlobalAveragePool": _UNARY,
    "QLinearReduceMean": _UNARY,
    "QLinearWhere": Slots(quantized=((1, 2, 3), (4, 5, 6)), outputs=((7, 8),)),
}

PASSED_ON = frozenset(
    {
        "Cast",
        "CastLike",
        "DequantizeLinear",
        "Expand",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators whose first input is still the same parameter, or the same sum of products, at their output."""

INTEGER_PRODUCTS = frozenset({"ConvInteger", "MatMulInteger"})
"""Operators whose int32 products a Mul turns into floats."""

PRODUCTS = INTEGER_PRODUCTS | {
    "Conv",
    "ConvTranspose",
    "DeformConv",
    "DynamicQuantizeMatMul",
    "Einsum",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "Gemm",
    "MatMul",
    "MatMulBnb4",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "NhwcFusedConv",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}
"""Operators after which an addition of a stored vector is a bias."""

ADDITIONS = {"Add": (0, 1), "QLinearAdd": (0, 3)}
"""Operators that may add a bias to a sum of products, and the slots of their two operands."""

SELECTIONS = frozenset({"Gather", "GatherElements", "GatherND", "Slice", "Split"})
"""Operators that pick from their first input: what they give are values of the same table."""

COMBINATIONS = frozenset({"Add", "Div", "Max", "Min", "Mod", "Mul", "Pow", "Sub"})
"""Operators that compute a value from two, element by element."""

COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
"""Operators whose stored operand is a threshold."""

ROUNDINGS = frozenset({"Ceil", "Floor", "Round"})

BOUNDS = {
    "Clip": (1, 2),
    "NonMaxSuppression": (3, 4),
    "OneHot": (2,),
    "Pad": (2,),
    "Resize": (1, 2),
    "Upsample": (1,),
}
"""Input slots of values that are no parameters and decide what comes out: limits, fillings, thresholds, factors."""

_SHAPE, _AXIS, _INDEX, _SWITCH, _TRAINING = "shape", "axis", "index", "switch", "read in training only"

STEERING: dict[str, dict[int, str]] = {
    "AffineGrid": {1: _SHAPE},
    "CastLike": {1: _SHAPE},
    "CenterCropPad": {1: _SHAPE},
    "Col2Im": {1: _SHAPE, 2: _SHAPE},
    "ConstantOfShape": {0: _SHAPE},
    "CumSum": {1: _AXIS},
    "DFT": {1: _SHAPE, 2: _AXIS},
    "Dropout": {1: _TRAINING, 2: _SWITCH},
    "Expand": {1: _SHAPE},
    "Gather": {1: _INDEX},
    "GatherBlockQuantized": {1: _INDEX},
    "GatherElements": {1: _INDEX},
    "GatherND": {1: _INDEX},
    "If": {0: _SWITCH},
    "Loop": {0: _SWITCH, 1: _SWITCH},
    "MaxUnpool": {1: _INDEX, 2: _SHAPE},
    "NonMaxSuppression": {2: _SHAPE},
    "OneHot": {0: _INDEX, 1: _SHAPE},
    "Pad": {1: _SHAPE, 3: _AXIS},
    "ReduceL1": {1: _AXIS},
    "ReduceL2": {1: _AXIS},
    "ReduceLogSum": {1: _AXIS},
    "ReduceLogSumExp": {1: _AXIS},
    "ReduceMax": {1: _AXIS},
    "ReduceMean": {1: _AXIS},
    "ReduceMin": {1: _AXIS},
    "ReduceProd": {1: _AXIS},
    "ReduceSum": {1: _AXIS},
    "ReduceSumSquare": {1: _AXIS},
    "Reshape": {1: _SHAPE},
    "Resize": {3: _SHAPE},
    "ReverseSequence": {1: _INDEX},
    "RoiAlign": {2: _INDEX},
    "STFT": {1: _SHAPE, 3: _SHAPE},
    "ScatterElements": {1: _INDEX},
    "ScatterND": {1: _INDEX},
    "SequenceAt": {1: _INDEX},
    "SequenceErase": {1: _INDEX},
    "SequenceInsert": {2: _INDEX},
    "Slice": {1: _INDEX, 2: _INDEX, 3: _AXIS, 4: _INDEX},
    "Split": {1: _SHAPE},
    "SplitToSequence": {1: _SHAPE},
    "Squeeze": {1: _AXIS},
    "Tile": {1: _SHAPE},
    "TopK": {1: _SHAPE},
    "Unsqueeze": {1: _AXIS},
}
"""Input slots for shapes, axes, indices, switches and what only training uses: no values to compute with."""

SWITCH, TRAINING = _SWITCH, _TRAINING

TRAINING_ATTRIBUTES = frozenset({("BatchNormalization", "momentum"), ("Dropout", "ratio")})
"""Attributes with a number that only training uses, by operator."""


def steering(node: onnx.NodeProto, slot: int) -> str | None:
    """Return what an input slot of a node steers, if it is proven to be for no value: shape, axis, index, switch."""
    return STEERING.get(node.op_type, {}).get(slot) if node.domain in STANDARD_DOMAINS else None


def slots(op_type: str, inputs: int) -> Slots | None:
    """Return what an operator's inputs mean, or None for an operator without parameters known here."""
    if op_type == "QLinearConcat":  # any number of (operand, scale, zero point) after the output's
        triples = tuple((first, first + 1, first + 2) for first in range(2, inputs - 2, 3))
        return Slots(quantized=triples, outputs=((0, 1),))
    return OPERATORS.get(op_type)
