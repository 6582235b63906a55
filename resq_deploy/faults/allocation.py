"""How many faults the next phase of a stratified sample takes, and from which strata.

Half of a phase at most goes where the faults are expected to do harm (Neyman, JRSS 97, 1934: n_h ~ W_h s_h), the rest
to every stratum by its size, so that no fault weighs more than about two of a plain sample: what a stratum seems not
to hold is then bounded all the same. Bets do not know the strata's means; therefore s_h is the root mean square of the
rates, not their standard deviation. The size is what lets the expected capital rule out a mean one margin away.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.betting import BETS, Phase, against_higher, against_lower, log_threshold, total
from resq_deploy.faults.statistics import cluster
from resq_deploy.faults.stratified import Sample, evidence

_SHARES = (0.0, 0.25, 0.5)
"""Of a phase, what may go where harm is expected."""

_PRIOR = 4.0
"""A group's faults are joined by as many that behave like all faults of the sample."""

_RESERVE = 1.5
"""A phase is larger by this than what is expected to do. Smaller ones fall short so often that stopping where the first
was enough would show in the mean of the estimates (by 2 % at 1.1)."""

_LEAST_GROWTH = 0.1
_NO_HARM = 1e-9

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What rates the faults that are left may be expected to have.

    Attributes:
        mean: expected mean of each stratum, shape [strata].
        square: expected mean square, shape [strata].
    """

    mean: Floats
    square: Floats


def outlook(values: Floats, sample: Sample) -> Outlook:
    """Learn from the faults of all phases, group by group; groups with few faults lean on the whole sample.

    One event more than was seen is reckoned with in the whole sample.
    """
    group = sample.groups[sample.stratum]
    count = np.bincount(group, minlength=int(sample.groups.max()) + 1)
    weights = sample.weights()

    def expected(rates: Floats) -> Floats:
        overall = (weights @ rates + weights.mean()) / (weights.sum() + weights.mean())
        summed = np.bincount(group, weights=rates, minlength=len(count))
        of_group: Floats = (summed + _PRIOR * overall) / (count + _PRIOR)
        return of_group[sample.groups]

    return Outlook(expected(values), expected(values**2))


def next_phase(values: Floats, sample: Sample, margin: float, confidence: float, least: float = 0.0) -> Integers:
    """Return how many faults the next phase takes from each stratum, at least one where any is left.

    Args:
        values: rate of each fault so far, shape [n].
        sample: where those faults come from.
        margin: half-width wanted.
        confidence: coverage wanted.
        least: the phase takes so many faults in all, or more.
    """
    rest = sample.rest[-1]
    expected, past = outlook(values, sample), evidence(values, sample)
    best: Integers = rest
    for share in _SHARES:
        count = _with_share(share, rest, expected, past, margin, confidence, least)
        if count.sum() < best.sum():
            best = count
    return best


def proportions(share: float, sizes: Integers, square: Floats) -> Floats:
    """Return the strata's parts of a phase, summing to 1, of which `share` goes where harm is expected."""
    weight = sizes / sizes.sum()
    harm = weight * np.sqrt(square)
    parts: Floats = (1.0 - share) * weight + share * harm / harm.sum()
    return parts


def spread_out(count: float, parts: Floats, rest: Integers) -> Integers:
    """Return whole numbers of faults in these proportions, at least one and at most what is left of each stratum."""
    wanted: Integers = np.ceil(np.round(count * parts, 9)).astype(np.int64)
    counts: Integers = np.clip(wanted, np.minimum(rest, 1), rest)
    return counts


def further_units(levels: Sequence[Floats], margin: float, confidence: float) -> int:
    """Return how many more units (chips) are expected to bring the margin at every level; 0 where all have it.

    Args:
        levels: figure of each unit so far, shape [n], at each level; without any unit, no harm is expected.
        margin: half-width wanted.
        confidence: coverage wanted.
    """
    needed = 0.0
    for values in levels:
        if len(values) and cluster(values, math.inf, confidence, stopped=True).half_width <= margin:
            continue
        mean, square = (float((values**power).mean()) if values.any() else _NO_HARM**power for power in (1, 2))
        past = [Phase.of(values)] if len(values) else []
        # Those that miss the margin by a hair are not asked for a unit at a time.
        needed = max(needed, phase_size(past, mean, square, 1.0, margin, confidence), _LEAST_GROWTH * len(values))
    return math.ceil(needed)


def _with_share(
    share: float,
    rest: Integers,
    expected: Outlook,
    past: Sequence[Phase],
    margin: float,
    confidence: float,
    least: float,
) -> Integers:
    parts = proportions(share, rest, expected.square)
    weight = rest / rest.sum()
    heaviest = float(np.max(weight / np.where(parts > 0, parts, 1.0)))
    mean = float(weight @ expected.mean)
    square = float(np.sum(np.divide(weight**2 * expected.square, parts, out=np.zeros_like(parts), where=parts > 0)))
    needed = phase_size(past, mean, square, heaviest, margin, confidence)
    return spread_out(min(max(_RESERVE * needed, least), float(rest.sum())), parts, rest)


def phase_size(
    past: Sequence[Phase], mean: float, square: float, heaviest: float, margin: float, confidence: float
) -> float:
    """Return how many faults are expected to rule out means a margin away from the expected one.

    Weighted rates are taken to be 0, or one value that gives them the mean and the mean square expected.

    Args:
        past: what was seen so far.
        mean: mean expected of the rates.
        square: mean square expected of the weighted rates.
        heaviest: largest weight.
        margin: half-width wanted.
        confidence: coverage wanted.
    """
    event = min(1.0, square / mean / heaviest)
    likely = mean / heaviest / event
    threshold = log_threshold(confidence)
    needed = 0.0
    if mean + margin < 1.0:
        high = (mean + margin) / heaviest
        gains = _growth(1.0 - event, likely, 1.0, 1.0 - high)
        needed = max(needed, _reached(against_higher(past, mean + margin), gains, threshold))
    if mean > margin:
        low = (mean - margin) / heaviest
        needed = max(needed, _reached(against_lower(past, mean - margin), _growth(event, likely, 0.0, low), threshold))
    return needed


def _growth(event: float, likely: float, otherwise: float, mean: float) -> Floats:
    """Return by how much the logarithm of each bet is expected to grow with a fault, shape [bets]."""
    with np.errstate(divide="ignore"):
        won, lost = (np.log1p(BETS * (value / mean - 1.0)) for value in (event, otherwise))
    grown: Floats = likely * won + (1.0 - likely) * lost if likely < 1.0 else won
    return grown


def _reached(stakes: Floats, growth: Floats, threshold: float) -> float:
    """Return after how many faults the stakes are expected to be worth the threshold together."""
    if total(stakes) >= threshold:
        return 0.0
    if not (growth > 0.0).any():
        return math.inf
    few, many = 0.0, 1.0
    while total(stakes + many * growth) < threshold:
        few, many = many, 2.0 * many
    for _ in range(20):
        middle = (few + many) / 2
        few, many = (few, middle) if total(stakes + middle * growth) >= threshold else (middle, many)
    return many
