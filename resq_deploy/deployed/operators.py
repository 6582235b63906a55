"""Which input of which operator is a weight, a bias, a scale or a zero point.

From the operator schemas of ONNX (https://onnx.ai/onnx/operators) and of onnxruntime's com.microsoft domain
(ContribOperators.md).
"""

import dataclasses


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

NO_PARAMETERS = {
    "CastLike": (1,),
    "CumSum": (1,),
    "Dropout": (1,),
    "Gather": (1,),
    "GatherBlockQuantized": (1,),
    "GatherElements": (1,),
    "GatherND": (1,),
    "OneHot": (0, 1),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "ScatterElements": (1,),
    "Slice": (1, 2, 3, 4),
    "Upsample": (1,),
}
"""Input slots for shapes, indices, types and what only training uses, where their type alone would not tell."""


def slots(op_type: str, inputs: int) -> Slots | None:
    """Return what an operator's inputs mean, or None for an operator without parameters known here."""
    if op_type == "QLinearConcat":  # any number of (operand, scale, zero point) after the output's
        triples = tuple((first, first + 1, first + 2) for first in range(2, inputs - 2, 3))
        return Slots(quantized=triples, outputs=((0, 1),))
    return OPERATORS.get(op_type)
