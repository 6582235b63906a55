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
from resq_deploy.faults.stratified import Sample, evidence, for_bets
from resq_deploy.faults.two_stage import Spread, Work, best_images, whole_parts, within_faults

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
        spread: expected mean square of each stratum, over all images, and what fewer images add to it.
    """

    mean: Floats
    spread: Spread


def outlook(values: Floats, sample: Sample) -> Outlook:
    """Learn from the faults of all phases, group by group; groups with few faults lean on the whole sample.

    One event more than was seen is reckoned with in the whole sample, on all images of a fault.
    """
    group = sample.groups[sample.stratum]
    count = np.bincount(group, minlength=int(sample.groups.max()) + 1)
    weights = sample.weights()

    def expected(figures: Floats, more: float) -> Floats:
        overall = (weights @ figures + more * weights.mean()) / (weights.sum() + weights.mean())
        summed = np.bincount(group, weights=figures, minlength=len(count))
        of_group: Floats = (summed + _PRIOR * overall) / (count + _PRIOR)
        return of_group[sample.groups]

    within, added = _within(values, sample)
    return Outlook(expected(values, 1.0), Spread(expected(values**2 - added, 1.0), expected(within, 0.0)))


def _within(values: Floats, sample: Sample) -> tuple[Floats, Floats]:
    """Return the variance between the images of each fault, and what it adds to the square of the share seen.

    On one image there is none to be seen, and all of a square is then taken for the fault's own.
    """
    within, added = np.zeros_like(values), np.zeros_like(values)
    for phase, images in enumerate(sample.images):
        if images > 1:
            chosen = sample.phase == phase
            within[chosen] = within_faults(values[chosen], images)
            added[chosen] = within[chosen] * (1.0 / images - 1.0 / sample.of)
    return within, added


def next_images(values: Floats, sample: Sample, work: Work, part: int) -> int:
    """Return on how many images the faults of the next phase are best judged, a multiple of a part, or all.

    Where nothing was seen no number is better than another, and one part is taken: too few images cost no more than the
    work of the faults that they make necessary, too many cost what they are.

    Args:
        values: rate of each fault so far, shape [n].
        sample: where those faults come from.
        work: what faults and images cost, by stratum.
        part: images that are run together.
    """
    rest, expected = sample.rest[-1], outlook(values, sample)
    mass = rest * sample.masses
    parts = proportions(_SHARES[-1], mass, expected.spread.square)
    found = best_images(expected.spread, parts, mass, work, sample.of)
    return whole_parts(found or part, part, sample.of)


def next_phase(
    values: Floats, sample: Sample, margin: float, confidence: float, least: float = 0.0, images: int | None = None
) -> Integers:
    """Return how many faults the next phase takes from each stratum, at least one where any is left.

    Args:
        values: rate of each fault so far, shape [n].
        sample: where those faults come from.
        margin: half-width wanted.
        confidence: coverage wanted.
        least: the phase takes so many faults in all, or more.
        images: on how many images its faults are judged; None for all.
    """
    rest = sample.rest[-1]
    expected, past = outlook(values, sample), evidence(values, sample, confidence)
    confidence = for_bets(sample, confidence)
    square = expected.spread.square if images is None else expected.spread.at(images, sample.of)
    mass, known = rest * sample.masses, _known(values, sample)
    best: Integers = rest
    for share in _SHARES:
        count = _with_share(share, rest, mass, known, expected.mean, square, past, margin, confidence, least)
        if count.sum() < best.sum():
            best = count
    return best


@dataclasses.dataclass(frozen=True)
class Known:
    """What the faults drawn already are of the mean of a population.

    Attributes:
        mass: their part of it, below 1.
        harm: what they add to the mean.
    """

    mass: float = 0.0
    harm: float = 0.0

    def with_rest(self, mean: float) -> float:
        """Return the mean of the population where the rest has this one."""
        return self.harm + (1.0 - self.mass) * mean


def _known(values: Floats, sample: Sample) -> Known:
    """Return what is known of the mean. Where all faults count alike few of all are drawn: nothing is reckoned with."""
    if sample.mass is None:
        return Known()
    mass, size = sample.masses[sample.stratum], float(sample.sizes @ sample.masses)
    return Known(float(mass.sum()) / size, float(mass @ values) / size)


def proportions(share: float, mass: Integers | Floats, square: Floats) -> Floats:
    """Return the strata's parts of a phase, summing to 1, of which `share` goes where harm is expected."""
    weight = mass / mass.sum()
    harm = weight * np.sqrt(square)
    parts: Floats = (1.0 - share) * weight + share * harm / harm.sum()
    return parts


def spread_out(count: float, parts: Floats, rest: Integers) -> Integers:
    """Return whole numbers of faults in these proportions, at least one and at most what is left of each stratum."""
    wanted: Integers = np.ceil(np.round(count * parts, 9)).astype(np.int64)
    counts: Integers = np.clip(wanted, np.minimum(rest, 1), rest)
    return counts


def alike(count: int, sizes: Integers, order: Integers) -> Integers:
    """Return whole numbers with this sum, all alike but where a stratum has no more faults.

    A larger sum has no smaller number anywhere.

    Args:
        count: their sum, at most that of the sizes.
        sizes: faults of each stratum, shape [strata].
        order: of the strata in which what does not come out even is given away, one each, shape [strata].
    """
    counts = np.zeros_like(sizes)
    while (left := count - int(counts.sum())) > 0:
        has_more = counts < sizes
        each = left // int(has_more.sum())
        if each:
            counts = np.minimum(counts + each, sizes)
        else:
            counts[order[has_more[order]][:left]] += 1
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
    mass: Floats,
    known: Known,
    mean: Floats,
    square: Floats,
    past: Sequence[Phase],
    margin: float,
    confidence: float,
    least: float,
) -> Integers:
    parts = proportions(share, mass, square)
    weight = mass / mass.sum()
    heaviest = float(np.max(weight / np.where(parts > 0, parts, 1.0)))
    weighted = float(np.sum(np.divide(weight**2 * square, parts, out=np.zeros_like(parts), where=parts > 0)))
    needed = phase_size(past, float(weight @ mean), weighted, heaviest, margin, confidence, known)
    return spread_out(min(max(_RESERVE * needed, least), float(rest.sum())), parts, rest)


def phase_size(
    past: Sequence[Phase],
    mean: float,
    square: float,
    heaviest: float,
    margin: float,
    confidence: float,
    known: Known = Known(),
) -> float:
    """Return how many faults are expected to rule out means a margin away from the expected one.

    Weighted rates are taken to be 0, or one value that gives them the mean and the mean square expected.

    Args:
        past: what was seen so far.
        mean: mean expected of the rates of the faults that are left.
        square: mean square expected of the weighted rates.
        heaviest: largest weight.
        margin: half-width wanted.
        confidence: coverage wanted.
        known: what of the population's mean is known.
    """
    event = min(1.0, square / mean / heaviest)
    likely = mean / heaviest / event
    threshold = log_threshold(confidence)
    needed = 0.0
    whole, apart = known.with_rest(mean), margin / (1.0 - known.mass)  # of the rest, a margin of the whole
    if mean + apart < 1.0:
        high = (mean + apart) / heaviest
        gains = _growth(1.0 - event, likely, 1.0, 1.0 - high)
        needed = max(needed, _reached(against_higher(past, whole + margin), gains, threshold))
    if mean > apart:
        low = (mean - apart) / heaviest
        needed = max(needed, _reached(against_lower(past, whole - margin), _growth(event, likely, 0.0, low), threshold))
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
