"""Convolutions and matrix products, of floats and of integers.

The integer ones follow onnxruntime's kernels: int32 sums, times one float32 factor a channel, rounded half to even.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resq_deploy.twin.integer import Product, centred, product
from resq_deploy.twin.node import Node
from resq_deploy.twin.quantized import Quantized, dynamic_quantize_linear, requantized
from resq_deploy.twin.windows import padded, window

_CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv(node: Node, images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv: NCHW, [out, in / groups, kernel ...]."""
    images, multiply = _convolution(node, images, weight)
    return multiply(images, weight, bias)


def _convolution(node: Node, images: Tensor, weight: Tensor) -> tuple[Tensor, Product]:
    """Return the images with uneven padding applied, and the convolution that takes them."""
    frame = window(node, tuple(weight.shape[2:]), tuple(images.shape[2:]))
    images, padding = padded(images, frame)
    convolve = functools.partial(
        _CONVOLUTIONS[weight.ndim - 2],
        stride=frame.strides,
        padding=padding,
        dilation=frame.dilations,
        groups=node.get("group", 1),
    )
    return images, lambda left, right, bias: convolve(left, right, None if bias is None else bias.flatten())


def gemm(node: Node, left: Tensor, right: Tensor, addend: Tensor | None = None) -> Tensor:
    """Gemm: alpha * left @ right + beta * addend, either operand transposed on request."""
    result = _transposed(left, node.get("transA", 0)) @ _transposed(right, node.get("transB", 0))
    result = result * node.get("alpha", 1.0) if node.get("alpha", 1.0) != 1.0 else result
    return result if addend is None else result + addend * node.get("beta", 1.0)


def matmul(_: Node, left: Tensor, right: Tensor) -> Tensor:
    """MatMul, as numpy's."""
    return torch.matmul(left, right)


def fused_matmul(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """FusedMatMul (com.microsoft): alpha * left @ right, the last two axes of either transposed on request."""
    result = torch.matmul(_transposed(left, node.get("transA", 0)), _transposed(right, node.get("transB", 0)))
    return torch.mul(result, node.get("alpha", 1.0))


def qlinear_conv(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearConv, with images NCHW or (`channels_last`) NHWC."""
    images, weight = Quantized.of(operands[:3]), Quantized.of(operands[3:6])
    result = Quantized.of((operands[0], *operands[6:8]))
    bias = operands[8] if len(operands) > 8 else None
    last = bool(node.get("channels_last", 0))
    if last:
        images = images._replace(codes=images.codes.movedim(-1, 1))
    sums = _integer_conv(node, images, weight, bias)
    ones = [1] * (weight.codes.ndim - 2)
    codes = requantized(node, sums, (images.scale * weight.scale / result.scale).reshape(-1, *ones), result.zero_point)
    return codes.movedim(1, -1) if last else codes


def conv_integer(node: Node, *operands: Tensor | None) -> Tensor:
    """ConvInteger: int32 sums."""
    images, weight = _without_scales(operands)
    return _integer_conv(node, images, weight, None).double()


def _integer_conv(node: Node, images: Quantized, weight: Quantized, bias: Tensor | None) -> Tensor:
    """Return the int32 sums of a convolution of codes."""
    spatial = weight.codes.ndim - 2
    zero_point = weight.zero_point.reshape(-1, *[1] * (spatial + 1)) if weight.zero_point.ndim else weight.zero_point
    kernels = centred(weight.codes, zero_point)
    inputs, multiply = _convolution(node, images.centred, kernels)
    return product(
        multiply,
        inputs,
        kernels,
        None if bias is None else bias.reshape(-1, *[1] * spatial),
        reach=images.reach(node.operand_limits(0)),
        axes=(1, 1) if node.get("group", 1) == 1 else None,
        summed=tuple(range(1, kernels.ndim)),
    )


def qlinear_matmul(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearMatMul; the right operand may have one scale and zero point a column."""
    left, right = Quantized.of(operands[:3]), Quantized.of(operands[3:6])
    result = Quantized.of((operands[0], *operands[6:8]))
    sums = _integer_matmul(node, left, right, None)
    return requantized(node, sums, left.scale * right.scale / result.scale, result.zero_point)


def matmul_integer(node: Node, *operands: Tensor | None) -> Tensor:
    """MatMulInteger: int32 sums."""
    left, right = _without_scales(operands)
    return _integer_matmul(node, left, right, None).double()


def matmul_integer_to_float(node: Node, *operands: Tensor | None) -> Tensor:
    """MatMulIntegerToFloat (com.microsoft): operands, their scales, their zero points, a float bias."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (*operands, None, None, None)[:7]
    left, right = Quantized.of((a, a_scale, a_zero)), Quantized.of((b, b_scale, b_zero))
    result = _integer_matmul(node, left, right, None).float() * (left.scale * right.scale)
    return result if bias is None else result + bias


def dynamic_quantize_matmul(node: Node, values: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
    """DynamicQuantizeMatMul (com.microsoft): floats, codes, their scale and zero point, a float bias."""
    scale, zero_point, bias = (*others, None, None)[:3]
    to_bytes = dataclasses.replace(node, types=(np.dtype(np.uint8),))
    codes, codes_scale, codes_zero = dynamic_quantize_linear(to_bytes, values)
    on_codes = dataclasses.replace(node, operand_types=to_bytes.types)
    return matmul_integer_to_float(on_codes, codes, weight, codes_scale, scale, codes_zero, zero_point, bias)


def qgemm(node: Node, *operands: Tensor | None) -> Tensor:
    """QGemm (com.microsoft): codes where the scale of the result is given, else floats."""
    left, right = Quantized.of(operands[:3]), Quantized.of(operands[3:6])
    bias, scale, zero_point = (*operands[6:], None, None, None)[:3]
    left = left._replace(codes=_transposed(left.codes, node.get("transA", 0)))
    right = right._replace(codes=_transposed(right.codes, node.get("transB", 0)))
    sums = _integer_matmul(node, left, right, bias)
    factor = left.scale * right.scale if node.get("alpha", 1.0) == 1.0 else node.get("alpha") * left.scale * right.scale
    if scale is None:
        return sums.float() * factor
    return requantized(node, sums, factor / scale, scale.new_zeros(()) if zero_point is None else zero_point)


def _integer_matmul(node: Node, left: Quantized, right: Quantized, bias: Tensor | None) -> Tensor:
    """Return the int32 sums of a matrix product of codes."""
    columns = right.centred
    return product(
        lambda a, b, c: torch.matmul(a, b) if c is None else torch.matmul(a, b) + c,
        left.centred,
        columns,
        bias,
        reach=left.reach(node.operand_limits(0)),
        axes=(-1, -2),
        summed=(-2,),
    )


def _without_scales(operands: Sequence[Tensor | None]) -> tuple[Quantized, Quantized]:
    """Return the operands of an integer product: two codes, then their optional zero points."""
    a, b, a_zero, b_zero = (*operands, None, None)[:4]
    one = torch.ones(())
    return Quantized.of((a, one, a_zero)), Quantized.of((b, one, b_zero))


def _transposed(matrix: Tensor, wanted: int) -> Tensor:
    return matrix.transpose(-1, -2) if wanted else matrix
