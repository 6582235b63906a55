"""Weight ranges: where to clip, for the least expected error of the stored codes.

The int8 grid of a range `[-c, c]` has the step `c / 127`. A wide range rounds coarsely, and every flipped bit moves the
weight by that much more; a narrow one cuts weights off. The error expected of one weight `w`, in squared units of the
weights, when each of its 8 stored bits flips with probability `p` (RESQ specification, equation 6):

    J(c) = E[(|w| - c)_+^2] + (21845 p + 1/12) (c / 127)^2

Clipping, flips (the squares of 1, 2, 4 ... 128 steps add up to 21845) and rounding (a twelfth of a squared step).
Weights of 7 bits have 63 for 127 (64 by `--reduce-range`); a flip still hits any of the 8 bits that are stored. Under
an error-correcting code the bits count that hold the weight, 5461 for the squares of their steps, and `p` is the rate
of flips that the code leaves:

    p_left = p * P(at least as many flips among the other bits of its word as the code corrects)
It is the closed form of the noisy mean squared error that WCAT searches on a grid (Chitsaz et al. 2023).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from resq_deploy.codes.code import Code
from resq_deploy.errors import OptionError
from resq_deploy.grid import CODE_MAX

STORED_BITS = 8
"""Bits of a weight that flips move it by, unless a code protects it."""

ROUNDING_ERROR = 1 / 12
"""Mean squared rounding error in squared steps."""

LARGEST_BER = 0.5
"""At this rate a bit holds nothing any more."""


def best_clip(
    weights: NDArray[np.float32], *, axis: int | None, ber: float, code_max: int = CODE_MAX, bits: int = STORED_BITS
) -> NDArray[np.float32]:
    """Return the clip that minimises J, exactly, per channel or per tensor.

    J is convex; n times J is what `least_clip` minimises, at the cost `n (21845 p + 1/12) / code_max^2`.

    Args:
        weights: finite float32 array of any shape; not empty.
        axis: the axis of channels, for a clip each; `None` for one clip.
        ber: the bit error rate `p` to expect, from 0 (plain least squares) to 0.5.
        code_max: the largest code, such as 127.
        bits: lowest bits of a code that flips hit.

    Returns:
        float32, shape `[channels]` or `[]`; below the largest |w|, and zero where all weights are.

    Raises:
        OptionError: if the rate is not in [0, 0.5].
    """
    rows = _magnitudes(weights, axis)
    clip = least_clip(rows, rows.shape[1] * cost_of_range(ber, code_max, bits)).astype(np.float32)
    return clip if axis is not None else clip.reshape(())


def least_clip(magnitudes: NDArray[np.floating[Any]], cost: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return the clip c of each row that minimises the sum of `(|w| - c)_+^2`, plus `cost c^2`, exactly.

    Half the derivative is `cost c - sum of (|w| - c)_+`. That sum is the largest over k of (sum of the k largest |w|)
    - k c, each of them a falling line; so the zero of the derivative is the largest of the lines' zeros:
    `max_k (sum of the k largest |w|) / (k + cost)`.

    Args:
        magnitudes: |w|, shape [rows, weights].
        cost: of a squared unit of range, one or shape [rows]; not negative.

    Returns:
        float64, shape [rows].
    """
    sums = np.cumsum(np.sort(magnitudes, axis=1)[:, ::-1], axis=1, dtype=np.float64)
    sums /= np.arange(1, magnitudes.shape[1] + 1) + np.reshape(cost, (-1, 1))
    return np.asarray(sums.max(axis=1))


def expected_error(
    weights: NDArray[np.float32],
    clip: NDArray[np.float32],
    *,
    axis: int | None,
    ber: float,
    code_max: int = CODE_MAX,
    bits: int = STORED_BITS,
) -> NDArray[np.float64]:
    """Return J at a clip, in squared units of the weights.

    Args:
        weights: as in `best_clip`.
        clip: shape `[channels]` or `[]`; not negative.
        axis: as in `best_clip`.
        ber: as in `best_clip`.
        code_max: as in `best_clip`.
        bits: as in `best_clip`.

    Returns:
        float64, the shape of `clip`.

    Raises:
        OptionError: if the rate is not in [0, 0.5].
    """
    limits = np.asarray(clip, dtype=np.float64)
    over = np.maximum(_magnitudes(weights, axis) - limits.reshape(-1, 1), 0.0)
    cut: NDArray[np.float64] = np.square(over).mean(axis=1).reshape(limits.shape)
    return cut + cost_of_range(ber, code_max, bits) * limits**2


def check_ber(ber: float) -> None:
    """Check a design bit error rate.

    Raises:
        OptionError: if it is not in [0, 0.5].
    """
    if not 0 <= ber <= LARGEST_BER:  # refuses a NaN, too
        raise OptionError(f"--design-ber {ber}: give a bit error rate from 0 to {LARGEST_BER}, such as 1e-3")


def rate_left(code: Code, ber: float) -> float:
    """Return the rate of flips in weights that a code leaves of bit errors, uncorrectable words kept as they are.

    A flip stays where at least as many others are in its word as the code corrects. That more flips may be taken for
    fewer, which makes another flip, is left out: of 63 bits that is rarer by a factor of the rate.
    """
    others = int(np.count_nonzero(code.columns)) - 1
    return ber * float(stats.binom.sf(code.corrects - 1, others, ber))


def cost_of_range(ber: float, code_max: int = CODE_MAX, bits: int = STORED_BITS) -> float:
    """Return the factor of c^2 in J: the squared error that flips and rounding add to a weight, in squared ranges.

    Raises:
        OptionError: if the rate is not in [0, 0.5].
    """
    check_ber(ber)
    steps = sum(4**bit for bit in range(bits))  # 21845 for all 8 bits
    return float((steps * ber + ROUNDING_ERROR) / code_max**2)


def _magnitudes(weights: NDArray[np.float32], axis: int | None) -> NDArray[Any]:
    """Return |w| as a new array of shape [channels, weights of a channel]; one channel for a whole tensor."""
    channels = 1 if axis is None else weights.shape[axis]
    moved = weights if axis is None else np.moveaxis(weights, axis, 0)
    return np.abs(moved).reshape(channels, -1)
