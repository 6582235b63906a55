"""Sums of products of integers, exactly as int32 accumulators hold them, with torch's float kernels.

Products of 8-bit codes and their sums are exact in float32 as long as no partial sum reaches 2^24, whatever the order
they are added in. Where it may, the summed axis is cut into parts that keep below, which are added in float64.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from resq_deploy.twin.rounding import INT32, as_int32

EXACT = 2.0**24
"""Below this, float32 holds every integer."""

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Two operands, and a bias or None, to the product of the two plus the bias."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reach:
    """How far codes can lie from their zero point, below and above it."""

    below: float
    above: float

    @classmethod
    def of(cls, zero_point: Tensor, limits: tuple[float, float]) -> "Reach":
        """Return the reach of codes within limits around a zero point (or several)."""
        low, high = zero_point.detach().aminmax()
        return cls(below=max(0.0, float(high) - limits[0]), above=max(0.0, limits[1] - float(low)))


def centred(codes: Tensor, zero_point: Tensor) -> Tensor:
    """Return codes less their zero point; nothing is computed where that is a plain 0."""
    return codes if not zero_point.requires_grad and not zero_point.any() else codes - zero_point


def largest_sum(reach: Reach, right: Tensor, summed: tuple[int, ...]) -> float:
    """Return a bound on every partial sum of products.

    Args:
        reach: of the left operand.
        right: the right operand, centred.
        summed: its axes that are summed over.
    """
    positive = right.detach().clamp(min=0).sum(summed)
    negative = positive - right.detach().sum(summed)
    up = reach.above * positive + reach.below * negative
    down = reach.below * positive + reach.above * negative
    return float(torch.maximum(up, down).max()) if up.numel() else 0.0


def product(
    multiply: Product,
    left: Tensor,
    right: Tensor,
    bias: Tensor | None,
    *,
    reach: Reach,
    axes: tuple[int, int] | None,
    summed: tuple[int, ...],
) -> Tensor:
    """Return sums of products of centred codes plus an int32 bias, exactly.

    Args:
        multiply: the product.
        left: centred codes.
        right: centred codes.
        bias: whole numbers, broadcast against the result.
        reach: of the left operand.
        axes: the axis of either operand that can be cut into parts; None if none can.
        summed: the axes of the right operand that are summed over.

    Returns:
        float32 if no sum can reach 2^24, else float64, wrapped to int32.
    """
    largest = 0.0 if bias is None or not bias.numel() else float(bias.detach().abs().max())
    bound = largest_sum(reach, right, summed)
    exact_in_float32 = left.device.type == "cpu"  # elsewhere faster algorithms (Winograd, TF32) are not
    if exact_in_float32 and bound + largest < EXACT:
        return multiply(left, right, None if bias is None else bias.float())
    if not exact_in_float32 or axes is None:
        total = multiply(left.double(), right.double(), None)
    else:
        rights = _parts(right, axes[1], reach, summed, bound)
        lefts = left.tensor_split(len(rights), axes[0])
        total = sum((multiply(*pair, None).double() for pair in zip(lefts, rights, strict=True)), torch.zeros(()))
    if bias is not None:
        total = total + bias
    return total if bound + largest < INT32 else as_int32(total)


def _parts(right: Tensor, axis: int, reach: Reach, summed: tuple[int, ...], bound: float) -> tuple[Tensor, ...]:
    """Cut an operand along an axis so that every part's sums are exact in float32."""
    count = math.ceil(bound / EXACT)
    while True:
        parts = right.tensor_split(min(count, right.shape[axis]), axis)
        if count >= right.shape[axis] or all(largest_sum(reach, part, summed) < EXACT for part in parts):
            return parts
        count *= 2
