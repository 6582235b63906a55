"""Which few inputs reveal most faults: greedy maximum coverage.

Choosing K of N inputs so that the faults revealed by any of them weigh most is NP-hard. The greedy choice takes the
input next that adds most, and weighs at least 1 - 1/e of the best one (Nemhauser, Wolsey and Fisher, Mathematical
Programming 14, 1978); no polynomial one is sure to do better.
"""

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.judges.outputs import Flags

_CHUNK = 1 << 24  # elements of a table of faults and inputs at a time
_UNIT = 1 << 31


def greedy_cover(reveals: Flags, weights: NDArray[np.float64], count: int, allowed: Flags) -> list[int]:
    """Return inputs in the order in which they are chosen; of several that add as much the first.

    Where nothing is left to add, faults are to be revealed once more, by other inputs, and so on.

    Args:
        reveals: which fault is revealed by which input, shape [faults, inputs].
        weights: what each fault counts, above 0, shape [faults]; whole steps of 2^-31 of the largest are told apart, so
            that sums, and with them the choice, are the same on every CPU.
        count: how many inputs to choose.
        allowed: which inputs may be chosen, shape [inputs]; `count` of them at least.

    Raises:
        ValueError: if too few are allowed.
    """
    if count > allowed.sum():
        raise ValueError(f"{int(allowed.sum())} inputs may be chosen, not {count}")
    whole = np.rint(weights / weights.max(initial=1e-300) * _UNIT).astype(np.int64)
    left, free = np.ones(len(reveals), dtype=bool), allowed.copy()
    chosen = list[int]()
    while len(chosen) < count:
        gains = np.where(free, _gains(reveals, np.where(left, whole, 0)), -1)
        best = int(gains.argmax())
        if gains[best] == 0 and not left.all():
            left[:] = True
            continue
        chosen.append(best)
        free[best] = False
        left &= ~reveals[:, best]
    return chosen


def covered(reveals: Flags, chosen: list[int]) -> Flags:
    """Return which faults the first inputs chosen reveal together, shape [chosen, faults]."""
    together: Flags = np.logical_or.accumulate(reveals[:, chosen].T, axis=0)
    return together


def _gains(reveals: Flags, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what the faults that each input reveals weigh, shape [inputs]."""
    total = np.zeros(reveals.shape[1], dtype=np.int64)
    step = max(1, _CHUNK // max(1, reveals.shape[1]))
    for start in range(0, len(reveals), step):
        part = weights[start : start + step]
        counts = np.flatnonzero(part)
        total += part[counts] @ reveals[start : start + step][counts].astype(np.int64)
    return total
