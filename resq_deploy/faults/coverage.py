"""How large a share of what fails is detected, with an interval that holds for any drawing.

Both are random, how many faults of a sample fail and how many of these are detected. With f and d whether a fault fails
and whether it fails and is detected, the coverage c is the one number for which f (d - c) has mean 0 over the faults.
What an interval for the mean of f (d - r) + r, a figure in [0, 1], does not rule out for r is an interval for c
(inversion of tests; as Fieller's for a ratio of means, without his normality: Cochran, Sampling Techniques, ch. 6).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.statistics import Estimate

Floats = NDArray[np.float64]
_STEPS = 10  # halvings: an end is found to a thousandth, and rounded away from the value


def coverage(detected: Floats, failing: Floats, mean: Callable[[Floats], Estimate]) -> Estimate:
    """Estimate which share of failing faults is detected.

    Args:
        detected: 1 where a fault fails and is detected, else 0, shape [n].
        failing: 1 where it fails, else 0, shape [n]; one at least.
        mean: estimates the mean of a figure in [0, 1] over the population, given that of each fault, shape [n].
    """
    event, all_failing = mean(detected), mean(failing)
    value = float(np.clip(event.value / all_failing.value, 0.0, 1.0)) if all_failing.value else 0.0

    def possible(ratio: float) -> bool:
        found = mean(detected - ratio * failing + ratio)
        return found.low <= ratio <= found.high

    low = _end(0.0, value, possible)
    high = _end(1.0, value, possible)
    return Estimate(value=value, low=low, high=high, n=int(failing.sum()), confidence=event.confidence)


def _end(outer: float, inner: float, possible: Callable[[float], bool]) -> float:
    """Return the end of an interval between a ratio that is in it and a bound, on the outer side of the true end."""
    if possible(outer):
        return outer
    for _ in range(_STEPS):
        middle = (outer + inner) / 2
        outer, inner = (outer, middle) if possible(middle) else (middle, inner)
    return outer
