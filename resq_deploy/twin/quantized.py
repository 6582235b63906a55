"""Codes with the scale and zero point that give them a meaning: quantizing, dequantizing, and operators on codes.

The formulas are those of onnxruntime's x86 kernels, down to the order of the float32 operations, since a difference
in the last bit moves a code wherever it falls on a tie.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resq_deploy.twin.integer import Reach, centred
from resq_deploy.twin.node import Node
from resq_deploy.twin.rounding import INT32, converted, tamed, to_codes, weighted_sum


class Quantized(NamedTuple):
    """An operand in codes.

    Attributes:
        codes: whole numbers.
        scale: float32, one or one a channel.
        zero_point: whole numbers.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    @classmethod
    def of(cls, operands: Sequence[Tensor | None]) -> "Quantized":
        """Return the operand that codes, a scale and, optionally, a zero point make."""
        codes, scale, zero_point = (*operands, None)[:3]
        if codes is None or scale is None:
            raise ValueError("a quantized operand without codes or scale")
        return cls(codes, scale, scale.new_zeros(()) if zero_point is None else zero_point)

    @property
    def centred(self) -> Tensor:
        """The codes less their zero point."""
        return centred(self.codes, self.zero_point)

    @property
    def floats(self) -> Tensor:
        """What the codes stand for, float32."""
        return self.centred.float() * self.scale

    def reach(self, limits: tuple[float, float]) -> Reach:
        """Return how far the codes can lie from their zero point."""
        return Reach.of(self.zero_point, limits)


def requantized(node: Node, sums: Tensor, factor: Tensor, zero_point: Tensor) -> Tensor:
    """Return the codes of int32 sums times a factor: `clip(rint(float32(sums) * factor) + zero_point)`."""
    values = sums.float() * factor
    if not factor.detach().isfinite().all():
        values = tamed(values)
    return to_codes(values, zero_point, node.limits, clip_gradient=node.clip_gradient)


def quantized(node: Node, values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the codes of floats, in the type of the node's result."""
    return to_codes(tamed(values / scale), zero_point, node.limits, clip_gradient=node.clip_gradient)


def quantize_linear(node: Node, values: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """QuantizeLinear: one scale, one a channel (`axis`), or one a block of `block_size` along it."""
    zero_point = scale.new_zeros(()) if zero_point is None else zero_point
    return quantized(node, values, *(_aligned(node, side, values) for side in (scale, zero_point)))


def dequantize_linear(node: Node, codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """DequantizeLinear, as `quantize_linear`."""
    zero_point = scale.new_zeros(()) if zero_point is None else zero_point
    return Quantized(codes, *(_aligned(node, side, codes) for side in (scale, zero_point))).floats


def _aligned(node: Node, side: Tensor, values: Tensor) -> Tensor:
    """Return scales or zero points so that they broadcast against what they belong to."""
    block = node.get("block_size", 0)
    if block:
        axis = node.get("axis", 1) % values.ndim
        return side.repeat_interleave(block, axis).narrow(axis, 0, values.shape[axis])
    if side.numel() == 1:
        return side.reshape(())
    axis = node.get("axis", 1) % values.ndim
    return side.reshape(-1, *[1] * (values.ndim - axis - 1))


def dynamic_quantize_linear(node: Node, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear: uint8 codes on the range of this batch; scale and zero point pass no gradient."""
    low, high = (
        end.clamp(*sides) for end, sides in zip(values.detach().aminmax(), ((None, 0), (0, None)), strict=True)
    )
    scale = torch.where(high == low, torch.ones_like(high), (high - low) / 255)
    zero_point = (-low / scale).clamp(0, 255).round()
    return quantized(node, values, scale, zero_point), scale, zero_point


def qlinear_add(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearAdd: `fma(a, r_a, fma(b, r_b, z_c - fma(r_a, z_a, r_b z_b)))` with `r = scale / scale_c`."""
    left, right, result = _two(operands)
    ratio_left, ratio_right = left.scale / result.scale, right.scale / result.scale
    offset = weighted_sum(left.zero_point, ratio_left, right.zero_point, ratio_right, torch.zeros_like(ratio_left))
    fixed = result.zero_point - offset
    values = weighted_sum(left.codes, ratio_left, right.codes, ratio_right, fixed)
    reach = 256 * (ratio_left.detach().abs() + ratio_right.detach().abs()) + fixed.detach().abs()
    return _packed(node, values, reach)


def qlinear_mul(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearMul: `(a - z_a) (b - z_b) (scale_a scale_b / scale_c) + z_c`."""
    left, right, result = _two(operands)
    ratio = left.scale * right.scale / result.scale
    values = (left.centred * right.centred) * ratio + result.zero_point
    return _packed(node, values, 2.0**16 * ratio.detach().abs() + 256)


def _two(operands: Sequence[Tensor | None]) -> tuple[Quantized, Quantized, Quantized]:
    """Return the two operands of a QLinear operator, and its result (whose codes are not known yet)."""
    return Quantized.of(operands[:3]), Quantized.of(operands[3:6]), Quantized.of((operands[0], *operands[6:8]))


def _packed(node: Node, values: Tensor, reach: Tensor) -> Tensor:
    """Return the codes of values that hold the zero point already, as x86 packs them.

    Args:
        node: the node.
        values: the values.
        reach: a bound on them.
    """
    if not bool((reach < INT32).all()):
        values = converted(values)
    return to_codes(values, values.new_zeros(()), node.limits, clip_gradient=node.clip_gradient)


def qlinear_concat(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearConcat: the scale and zero point of the result, then three operands for each part."""
    result = Quantized.of((operands[2], *operands[:2]))
    parts = [Quantized.of(operands[start : start + 3]).floats for start in range(2, len(operands), 3)]
    return quantized(node, torch.cat(parts, node.get("axis")), result.scale, result.zero_point)
