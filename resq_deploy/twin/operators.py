"""What a twin can compute: operator -> function."""

from resq_deploy.twin import lookups, products, quantized
from resq_deploy.twin.float_ops import FLOAT_OPERATORS, Operator
from resq_deploy.twin.shape_ops import SHAPE_OPERATORS

KERNELS: dict[str, Operator] = {
    "QGemm": products.qgemm,
    "QLinearAdd": quantized.qlinear_add,
    "QLinearAveragePool": lookups.qlinear_average_pool,
    "QLinearConcat": quantized.qlinear_concat,
    "QLinearConv": products.qlinear_conv,
    "QLinearGlobalAveragePool": lookups.qlinear_global_average_pool,
    "QLinearLeakyRelu": lookups.qlinear_leaky_relu,
    "QLinearMatMul": products.qlinear_matmul,
    "QLinearMul": quantized.qlinear_mul,
    "QLinearSigmoid": lookups.qlinear_sigmoid,
    "QLinearSoftmax": lookups.qlinear_softmax,
}
"""Operators on codes, which onnxruntime puts in the place of float operators between (de)quantizations."""

OPERATORS: dict[str, Operator] = {
    **FLOAT_OPERATORS,
    **SHAPE_OPERATORS,
    **KERNELS,
    "Conv": products.conv,
    "ConvInteger": products.conv_integer,
    "DequantizeLinear": quantized.dequantize_linear,
    "DynamicQuantizeLinear": quantized.dynamic_quantize_linear,
    "DynamicQuantizeMatMul": products.dynamic_quantize_matmul,
    "FusedMatMul": products.fused_matmul,
    "Gemm": products.gemm,
    "MatMul": products.matmul,
    "MatMulInteger": products.matmul_integer,
    "MatMulIntegerToFloat": products.matmul_integer_to_float,
    "QuantizeLinear": quantized.quantize_linear,
}

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Where these operators are defined."""
