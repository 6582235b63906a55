"""Rounding to codes as onnxruntime's kernels do it, with gradients that pass straight through."""

from typing import Any

import torch
from torch import Tensor

INT32 = 2.0**31
"""Below this, int32 holds every integer."""


class _Round(torch.autograd.Function):
    """Saturate, round half to even, add the zero point; see `to_codes`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, zero_point: Tensor, limits: tuple[float, float], clip: bool) -> Tensor:
        low, high = limits
        if zero_point.numel() == 1:  # bounds that are plain numbers take torch's vectorised way
            inside = torch.clamp(values, low - zero_point.item(), high - zero_point.item())
        else:
            inside = torch.clamp(values, low - zero_point, high - zero_point)
        ctx.shape = zero_point.shape
        if clip and any(ctx.needs_input_grad):
            ctx.save_for_backward(inside == values)
        codes = round_half_even(inside)
        return codes.add_(zero_point) if zero_point.any() else codes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if ctx.saved_tensors:
            gradient = gradient * ctx.saved_tensors[0]
        of_zero_point = gradient.sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None
        return gradient, of_zero_point, None, None


class _Replaced(torch.autograd.Function):
    """Show one value and differentiate another."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, smooth: Tensor) -> Tensor:
        ctx.shape = smooth.shape
        return exact.view_as(exact)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0].reshape(ctx.shape)


class _WeightedSum(torch.autograd.Function):
    """`a p + b q + c` with the roundings of two fused multiply-adds in float32; see `weighted_sum`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, p: Tensor, b: Tensor, q: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(a, p, b, q, c)
        inner = b.double().mul_(q).add_(c).float()
        return a.double().mul(p).add(inner).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        a, p, b, q, c = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            (gradient * p).sum_to_size(a.shape) if wanted[0] else None,
            (gradient * a).sum_to_size(p.shape) if wanted[1] else None,
            (gradient * q).sum_to_size(b.shape) if wanted[2] else None,
            (gradient * b).sum_to_size(q.shape) if wanted[3] else None,
            gradient.sum_to_size(c.shape) if wanted[4] else None,
        )


def round_half_even(values: Tensor) -> Tensor:
    """Round in place, half to even."""
    return values.round_()


def to_codes(values: Tensor, zero_point: Tensor, limits: tuple[float, float], *, clip_gradient: bool) -> Tensor:
    """Return `clip(rint(values) + zero_point, limits)`.

    The gradient with respect to values and zero point is 1 inside the limits (straight through, Bengio et al. 2013)
    and 0 where the code saturates; with `clip_gradient` False it is 1 everywhere.

    Args:
        values: multiples of the step, float32 of any shape, without NaN.
        zero_point: broadcast against `values`.
        limits: the smallest and the largest code.
        clip_gradient: whether what saturates gets a zero gradient.
    """
    codes: Tensor = _Round.apply(values, zero_point, limits, clip_gradient)
    return codes


def replaced(exact: Tensor, smooth: Tensor) -> Tensor:
    """Return `exact`, with the gradient of `smooth`."""
    value: Tensor = _Replaced.apply(exact, smooth)
    return value


def weighted_sum(a: Tensor, p: Tensor, b: Tensor, q: Tensor, c: Tensor) -> Tensor:
    """Return `fma(a, p, fma(b, q, c))` in float32; in float64 every product of a code and a float32 is exact."""
    total: Tensor = _WeightedSum.apply(a, p, b, q, c)
    return total


def tamed(values: Tensor) -> Tensor:
    """Return values with -infinity for NaN: x86's minimum and maximum turn a NaN into the smallest code."""
    return torch.nan_to_num(values, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def converted(values: Tensor) -> Tensor:
    """Return values with -infinity for what does not fit into int32, as x86 converts it."""
    return torch.where(values < INT32, values, -torch.inf)


def as_int32(values: Tensor) -> Tensor:
    """Return whole numbers as 32-bit additions leave them: modulo 2^32; float64, with the gradient 1."""
    return torch.remainder(values.double() + INT32, 2 * INT32) - INT32
