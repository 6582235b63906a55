"""Confidence bounds for the mean of figures in [0, 1] that assume nothing else about them.

The rate of a fault lies in [0, 1], and a few faults do most of the harm: a sample without them shows no spread, so that
an interval made of the spread is wrong just where it matters. Here a gambler bets against every mean m that the
population might have, at odds that are fair if m is right. Whoever multiplies such a stake by 2 / alpha has seen what
happens with probability alpha / 2 at most (Ville's inequality), and m is ruled out. For the upper end and a figure x

    K(m) = sum_j w_j prod_i (1 - c_j (x_i - m) / (1 - m)),    0 <= c_j <= 1,

and the upper end is the m where K(m) reaches 2 / alpha; the lower end is the same for 1 - x (Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 2023, sections 3 and 4). The bets c_j and their
weights w_j are fixed before any figure is seen. Therefore K falls where an x grows and grows with m: more harm seen
never lowers an end, and only the multiset of the figures counts - neither order nor number of workers.

Sampling without replacement is covered as well: the mean of a product over a sample without replacement is at most the
power of the population's mean (Maclaurin's inequality), which is 1 for the true m.

A sample drawn in strata, n_h faults from the W_h of stratum h, is taken in as w x / b, w = W_h n / n_h the weight of a
fault and b the largest weight. By the inequality of the arithmetic and geometric mean the strata's products together
stay at most 1 where the weighted mean is m / b. This costs a factor b in the worst case and no bound for each stratum;
plans keep b at 2 or below. (The product of the strata's own martingales, Spertus and Stark 2022, must be
minimised over all ways to split m among the strata, which for 150 strata is neither quick nor tight.)

Phases drawn one after the other multiply: what is known before a phase is drawn - how many of the faults are left and
what the earlier ones showed - makes a mean m of the population a mean of the rest, and that is what the phase bets on.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

_ALL_IN = 0.4
BETS = np.concatenate([[1.0], 0.8 * 0.55 ** np.arange(13)])
"""The bets c_j of either side. All of the stake decides where nothing was seen, the others where something was."""

_LOG_WEIGHTS = np.log(np.concatenate([[_ALL_IN], np.full(13, (1.0 - _ALL_IN) / 13)]))
_TOLERANCE = 1e-13
_FAR = 1e3

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Phase:
    """What one phase of a sample holds against a mean m of the population.

    If m is the population's mean, the mean of the phase's scaled figures is `slope` * m - `taken`, or for the upper end
    (m or more) at least `slope` * m - `taken` - `open`.

    Attributes:
        values: distinct scaled figures, each in [0, 1], shape [k].
        counts: how often each was seen, shape [k].
        slope: population over rest, divided by the largest weight.
        taken: sum of what earlier phases saw over the rest, divided by the largest weight.
        open: the same for figures of which the phase can tell nothing, were they all 1.
    """

    values: Floats
    counts: Floats
    slope: float = 1.0
    taken: float = 0.0
    open: float = 0.0

    @staticmethod
    def of(values: ArrayLike, slope: float = 1.0, taken: float = 0.0, unknown: float = 0.0) -> "Phase":
        """Group the scaled figures of a phase."""
        distinct, counts = np.unique(np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0), return_counts=True)
        return Phase(distinct, counts.astype(np.float64), slope, taken, unknown)


def bounds(phases: Sequence[Phase], confidence: float) -> tuple[float, float]:
    """Return the ends of the interval for the mean, alpha / 2 on either side.

    The interval holds at once after every phase: more may be drawn until it is narrow enough.

    Args:
        phases: what was seen, in the order of drawing; none leaves [0, 1].
        confidence: 1 - alpha.
    """
    threshold = log_threshold(confidence)
    low = 1.0 - _zero(lambda distance: total(against_lower(phases, 1.0 - distance)) - threshold)
    return low, _zero(lambda m: total(against_higher(phases, m)) - threshold)


def log_threshold(confidence: float) -> float:
    """Return the logarithm of the capital at which a mean is ruled out, 2 / alpha."""
    return math.log(2.0 / (1.0 - confidence))


def against_lower(phases: Sequence[Phase], m: float) -> Floats:
    """Return the logarithm of what each bet against a mean of m or less has become, shape [bets]."""
    return _stakes([(p.values, p.counts, p.slope * m - p.taken) for p in phases])


def against_higher(phases: Sequence[Phase], m: float) -> Floats:
    """Return the logarithm of what each bet against a mean of m or more has become, shape [bets]."""
    return _stakes([(1.0 - p.values, p.counts, 1.0 - (p.slope * m - p.taken - p.open)) for p in phases])


def total(stakes: Floats) -> float:
    """Return the logarithm of the capital that all bets make together."""
    most = float(stakes.max())
    return most + math.log(float(np.exp(stakes - most).sum())) if math.isfinite(most) else most


def mean_bounds(values: ArrayLike, confidence: float) -> tuple[float, float]:
    """Return the ends of the interval for the mean of figures drawn alike, with or without replacement.

    Args:
        values: one figure in [0, 1] a unit (fault, chip), shape [n].
        confidence: coverage wanted, split evenly between the sides.
    """
    return bounds([Phase.of(values)], confidence)


def _stakes(against: Sequence[tuple[Floats, Floats, float]]) -> Floats:
    """Return the logarithm of each bet on figures with a higher mean.

    Args:
        against: figures, their counts, and the mean that they have at most if the bets are fair, for each phase.
    """
    stakes: Floats = _LOG_WEIGHTS.copy()
    for values, counts, mean in against:
        if mean <= 0.0:
            if mean < 0.0 or values.any():
                return np.full_like(stakes, math.inf)  # no population has this mean and what was seen
            continue
        with np.errstate(divide="ignore"):  # all in, and lost
            stakes += np.log1p(BETS[:, np.newaxis] * (values / mean - 1.0)) @ counts
    return stakes


def _zero(rising: Callable[[float], float]) -> float:
    """Return where a function that rises on [0, 1] crosses 0, rounded away from 0; 1 where it stays below."""

    def cut(place: float) -> float:
        return min(max(rising(place), -_FAR), _FAR)  # a root finder needs finite values

    if cut(1.0) <= 0.0:
        return 1.0
    return min(1.0, float(brentq(cut, 0.0, 1.0, xtol=_TOLERANCE)) + 2 * _TOLERANCE)
