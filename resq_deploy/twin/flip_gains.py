"""Which stored bits an attacker would flip first: the first-order gain of each bit of a tensor.

The gain of a bit is the slope of the attacker's objective with respect to the stored value, times what the flip does
to that value. It is the bit gradient of Rakin, He and Fan ("Bit-Flip Attack: Crushing Neural Network with Progressive
Bit Search", ICCV 2019), written for any stored type: two's complement, unsigned, or floating point, where the change
that a flip makes is not the same for every value.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Flip:
    """One flipped bit: the tensor, the flat position of the element, and the bit within it."""

    tensor: str
    index: int
    bit: int


@dataclasses.dataclass(frozen=True)
class Gain:
    """What a flip is worth to first order, with the place of its bit."""

    gain: float
    index: int
    bit: int


def flip_changes(stored: NDArray[Any], bit: int) -> NDArray[np.float64]:
    """Return by how much each value changes when one of its bits flips: after less before.

    Args:
        stored: integers or floats of whole bytes, shape [n].
        bit: position in the element, 0 the least significant.

    Returns:
        Shape [n]; infinite or NaN where the flip makes a float infinite or NaN.
    """
    patterns = stored.view(f"u{stored.dtype.itemsize}")
    flipped = (patterns ^ patterns.dtype.type(1 << bit)).view(stored.dtype)
    with np.errstate(invalid="ignore"):  # of infinities among the stored values
        changes: NDArray[np.float64] = flipped.astype(np.float64) - stored.astype(np.float64)
    return changes


def best_flips(
    stored: NDArray[Any],
    slope: NDArray[np.float64],
    count: int,
    taken: Collection[tuple[int, int]] = (),
    allowed: NDArray[np.bool_] | None = None,
) -> list[Gain]:
    """Return the bits of a tensor with the largest gains, best first; only gains above 0.

    Args:
        stored: what the tensor stores, integers or floats of whole bytes, shape [n].
        slope: derivative of the objective with respect to each value, shape [n].
        count: how many bits are wanted.
        taken: (element, bit) pairs that must not be flipped (again).
        allowed: the only bits that may be flipped, shape [n, bits of an element]; None for all.
    """
    best: list[Gain] = []
    steepest = float(np.abs(slope).max(initial=0.0))
    for bit in reversed(range(8 * stored.dtype.itemsize)):
        # A flip changes an integer by 2^bit: once enough bits gain more than any lower one could, these are the best.
        if stored.dtype.kind != "f" and len(best) == count and best[-1].gain >= steepest * 2.0**bit:
            break
        with np.errstate(invalid="ignore", over="ignore"):
            gains = slope * flip_changes(stored, bit)
        gains[[index for index, used in taken if used == bit]] = 0.0
        if allowed is not None:
            gains[~allowed[:, bit]] = 0.0
        gains[np.isnan(gains)] = 0.0
        places = np.argpartition(gains, -count)[-count:] if count < len(gains) else np.arange(len(gains))
        found = (Gain(float(gains[place]), int(place), bit) for place in places if gains[place] > 0.0)
        best = sorted([*best, *found], key=lambda gain: (-gain.gain, gain.index, gain.bit))[:count]
    return best
