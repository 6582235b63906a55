"""The int8 grid of deployed weights, in numpy: the one definition that hardening, quantization and twin share.

Weights are symmetric int8: `code = clip(round(w / s), -127, 127)` with `s = max|w| / 127`, per output channel
or per tensor; weights of 7 or 6 bits have 63 or 31 for 127. Stored as uint8 they are the same codes plus 128, 64 or 32.
All steps are float32 and rounding is half to even, so that the integers equal those that onnxruntime's quantizer
writes.
"""

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import ModelError

CODE_MAX = 127
"""Largest code; the grid is symmetric, so -128 is never written (only a fault produces it)."""

REDUCED_CODE_MAX = 64
"""Largest code of onnxruntime's `reduce_range`: two products with uint8 activations, 2 * 255 * 64, still fit into 16
bits, in which x86 CPUs without VNNI add them up. 7 bits hold 63."""

UINT8_ZERO_POINT = 128
"""Of weights stored as uint8: `code + 128` has the same bits but for the top one, so that a flip of any of them moves
the weight by the same."""


def largest_code(bits: int) -> int:
    """Return the largest code of weights with so many bits: 127, 63 or 31. The grid is symmetric."""
    return (1 << bits - 1) - 1


def zero_point(bits: int) -> int:
    """Return the zero point of weights of so many bits stored as uint8: 128, 64 or 32; see `UINT8_ZERO_POINT`."""
    return 1 << bits - 1


SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Below this, a scale could not be stored as a normal float32; onnxruntime then stores 1.0 and codes of zero."""


def weight_scale(
    weights: NDArray[np.float32], *, axis: int | None = 0, code_max: int = CODE_MAX
) -> NDArray[np.float32]:
    """Return the quantization step of float32 weights: `max|w| / code_max`.

    Args:
        weights: float32 array of any shape; not empty.
        axis: the output-channel axis, for one scale a channel; `None` for one scale for the whole tensor.
        code_max: the largest code, such as 127.

    Returns:
        float32, shape `[channels]` or `[]`. A channel of zeros (or of values below the smallest normal float32)
        has the scale 1.0.

    Raises:
        ModelError: if the weights are empty or hold a NaN or an infinity.
    """
    if weights.size == 0 or not np.isfinite(weights).all():
        raise ModelError("cannot quantize weights that are empty or not finite: retrain, or check the file")
    others = None if axis is None else tuple(i for i in range(weights.ndim) if i != axis % weights.ndim)
    scale = np.asarray(np.abs(weights).max(axis=others), dtype=np.float32) / np.float32(code_max)
    return np.where(scale < SMALLEST_SCALE, np.float32(1), scale).astype(np.float32)


def quantize(
    weights: NDArray[np.float32], scale: NDArray[np.float32], *, axis: int | None = 0, code_max: int = CODE_MAX
) -> NDArray[np.int8]:
    """Return the int8 codes of float32 weights, rounded half to even and saturated to [-code_max, code_max].

    Args:
        weights: float32 array of any shape.
        scale: what `weight_scale` gives for the same `axis`, or a narrower range's step.
        axis: the output-channel axis, `None` for one scale for the whole tensor.
        code_max: the largest code, such as 127.

    Returns:
        int8, same shape as `weights`.
    """
    steps = np.rint(weights.astype(np.float32, copy=False) / _aligned(scale, weights.ndim, axis))
    codes: NDArray[np.int8] = np.clip(steps, -code_max, code_max).astype(np.int8)
    return codes


def dequantize(codes: NDArray[np.int8], scale: NDArray[np.float32], *, axis: int | None = 0) -> NDArray[np.float32]:
    """Return the float32 weights that int8 codes stand for (`code * scale`); arguments as in `quantize`."""
    return codes.astype(np.float32) * _aligned(scale, codes.ndim, axis)


def as_uint8(codes: NDArray[np.int8], zero: int = UINT8_ZERO_POINT) -> NDArray[np.uint8]:
    """Return int8 codes as the uint8 ones that stand for the same at a zero point; at 128, every byte XOR 0x80."""
    moved: NDArray[np.uint8] = (codes.astype(np.int16) + zero).astype(np.uint8)
    return moved


def _aligned(scale: NDArray[np.float32], ndim: int, axis: int | None) -> NDArray[np.float32]:
    """Shape a scale so that it broadcasts along `axis` of an array of `ndim` dimensions."""
    scale = np.asarray(scale, dtype=np.float32)
    if axis is None:
        return scale
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)
