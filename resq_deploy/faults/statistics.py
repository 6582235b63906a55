"""Estimates a safety case can rest on: every rate with its interval, its number of faults and its population.

The unit of a campaign is the fault, not the image run: all image runs of a fault share that fault, so an interval over
image runs is far too narrow. Rates are averaged over faults, and bounded by what holds for any distribution of them: a
few faults do most of the harm, and the spread of a sample that holds none of them says nothing.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from resq_deploy.faults.betting import mean_bounds
from resq_deploy.faults.estimate import Estimate as Estimate
from resq_deploy.faults.estimate import as_estimate as as_estimate
from resq_deploy.faults.two_stage import possible

_ROUNDING = 1e-12
"""Shares that differ by less differ by the rounding of their arithmetic alone."""

_ENDLESS = 1e9
"""Populations above this are as good as endless, and their hypergeometric probabilities would lose digits."""


def planned_sample(population: int, margin: float, confidence: float, cut_off: float | None = None) -> float:
    """Return how many faults to draw for a margin of error (Leveugle et al., DATE 2009), not yet rounded up.

    n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p))) with p = 0.5, the largest variance a share can have.

    Args:
        population: N, faults that could be drawn.
        margin: e, half-width wanted, a fraction.
        confidence: coverage wanted; gives the cut-off t by the exact normal quantile.
        cut_off: t itself, for comparison with published tables (2.58).
    """
    t = float(stats.norm.ppf(0.5 + confidence / 2)) if cut_off is None else cut_off
    return population / (1.0 + margin**2 * (population - 1) / (t**2 * 0.25))


def share(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Estimate a share from independent trials (accuracy over images) with Wilson's interval."""
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(value=successes / n, low=float(interval.low), high=float(interval.high), n=n, confidence=confidence)


def proportion(events: int, n: int, population: float, confidence: float) -> Estimate:
    """Estimate which share of a population shows an event from a sample without replacement (faults that are `due`).

    The exact interval of Clopper and Pearson for the hypergeometric distribution: all shares K / N under which so many
    events, and so few, have a probability of (1 - confidence) / 2 or more.

    Args:
        events: units of the sample that showed it.
        n: units drawn, 1 or more.
        population: units that could have been drawn (infinity: with replacement, or endless).
        confidence: coverage wanted, split evenly between the sides.
    """
    value = low = high = events / n
    if n < population:
        low, high = 1.0 - _most(n - events, n, population, confidence), _most(events, n, population, confidence)
    # Shares of a population are steps of 1 / N, between which a sample's may lie.
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n, confidence=confidence)


def _most(events: int, n: int, population: float, confidence: float) -> float:
    """Return the largest share of a population under which so few events in n are plausible."""
    alpha = (1.0 - confidence) / 2
    if events == n:
        return 1.0
    if population > _ENDLESS:  # a bound for an endless one holds for it, too
        return float(-math.expm1(math.log(alpha) / n) if events == 0 else stats.beta.isf(alpha, events + 1, n - events))
    size = int(population)
    low, high = events, size - (n - events) + 1  # so many events leave too few units without one
    while high - low > 1:
        middle = (low + high) // 2
        if _at_most(events, n, middle, size) >= alpha:
            low = middle
        else:
            high = middle
    return low / size


def _at_most(events: int, n: int, present: int, size: int) -> float:
    """Return the probability of `events` or fewer in a sample of n of the `size` units, of which `present` have one."""
    few = 2 * events < n
    counts = np.arange(events + 1) if few else np.arange(events + 1, n + 1)
    tail = float(np.exp(stats.hypergeom.logpmf(counts, size, present, n)).sum())
    return tail if few else 1.0 - tail


def cluster(
    rates: ArrayLike, population: float, confidence: float, *, stopped: bool = False, share: float = 1.0
) -> Estimate:
    """Estimate the mean of a figure in [0, 1] over units (faults, chips) from a simple random sample of them.

    The interval is that of `betting.mean_bounds`, valid for any distribution and any number of units. It is cut to what
    the units not drawn leave possible: a whole population has no uncertainty. Where nothing was seen, or nothing else
    than 1, the upper (lower) end is that of `proportion` for the share of units with any event, which is tighter. That
    costs no confidence: the end by betting is higher still wherever something was seen, so that a mean between the two
    is missed by seeing nothing alone, and a mean above both would have been missed by betting, too.

    Where each unit was judged on a part of its images (`two_stage`), the same interval holds for the mean over all of
    them, but no unit is known: a whole population keeps its interval, cut to what the other images leave possible, and
    seeing nothing in n units has at most the probability (1 - mean)^n, be the population as small as it may.

    Args:
        rates: one figure a unit, such as the share of image runs with the event, shape [n], each in [0, 1].
        population: how many units could have been drawn (infinity: with replacement, or endless).
        confidence: coverage wanted, split evenly between the sides.
        stopped: whether the rates decided how many were drawn. Betting holds then as well, `proportion` does not.
        share: of all images, the least part that any unit was judged on, in (0, 1].

    Raises:
        ValueError: if there are no rates.
    """
    values = np.asarray(rates, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("an estimate needs at least one fault")
    mean = float(np.clip(values.mean(), 0.0, 1.0))
    if not stopped and (not values.any() or values.min() == 1.0):
        events = n if values.any() else 0
        if share == 1.0:
            return proportion(events, n, population, confidence)
        bound = proportion(events, n, math.inf, confidence)
        low, high = bound.low, bound.high
    elif n >= population and share == 1.0:
        return Estimate(value=mean, low=mean, high=mean, n=n, confidence=confidence)
    else:
        low, high = mean_bounds(values, confidence)
    drawn = n / population
    least, most = (float(ends.mean()) * drawn for ends in possible(values, share))
    low, high = max(low, least), min(high, most + 1.0 - min(1.0, drawn))
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=n, confidence=confidence)


def student(values: ArrayLike, confidence: float, lowest: float = 0.0) -> Estimate:
    """Estimate a mean over training seeds with Student's interval, cut to [lowest, 1].

    It takes the figures for normal, which whole campaigns over seeds come near to; those of faults and chips do not:
    `cluster` is for them. One figure alone leaves all of [lowest, 1].

    Args:
        values: one figure a seed, shape [n].
        confidence: coverage wanted.
        lowest: the least a figure can be: 0 for shares, -1 for differences of shares.
    """
    figures = np.asarray(values, dtype=np.float64)
    n = len(figures)
    mean = float(figures.mean())
    if n < 2:
        return Estimate(value=mean, low=lowest, high=1.0, n=n, confidence=confidence)
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(figures.std(ddof=1)) / math.sqrt(n)
    low, high = max(lowest, mean - reach), min(1.0, mean + reach)
    return Estimate(value=mean, low=low, high=high, n=n, confidence=confidence)


_SPREAD = {"least": 0.0, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "largest": 1.0}


def spread(values: ArrayLike) -> dict[str, float]:
    """Describe the figures of one or more units by least, quartiles (interpolated as numpy does) and largest.

    That tells of the units seen, and bounds nothing.
    """
    found = np.quantile(np.asarray(values, dtype=np.float64), list(_SPREAD.values()))
    return dict(zip(_SPREAD, found.tolist(), strict=True))


def ways(differences: ArrayLike) -> tuple[int, int]:
    """Return how many units are higher and how many lower, by more than the rounding of shares.

    Args:
        differences: second figure less the first, shape [n].
    """
    values = np.asarray(differences, dtype=np.float64)
    return int((values > _ROUNDING).sum()), int((values < -_ROUNDING).sum())


def paired_difference(differences: ArrayLike, confidence: float, reach: float = 1.0) -> Estimate:
    """Estimate a mean difference over paired units (chips, faults) by betting, as in `cluster`.

    It is about further units of the same kind, given the images, and wide: units may differ by anything up to `reach`.

    Args:
        differences: second figure less the first, shape [n].
        confidence: coverage wanted, split evenly between the sides.
        reach: largest difference there can be, either way: 1 for shares, 2 for differences of shares.

    Raises:
        ValueError: if there are no differences, or one is beyond reach.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("a paired difference needs at least one pair")
    if np.abs(values).max() > reach + _ROUNDING:
        raise ValueError(f"a difference is beyond {reach:g}")
    low, high = (reach * (2.0 * end - 1.0) for end in mean_bounds((values / reach + 1.0) / 2, confidence))
    mean = float(values.mean())
    return Estimate(
        value=mean,
        low=min(mean, low),
        high=max(mean, high),
        n=len(values),
        confidence=confidence,
    )


def matched(lost: int, gained: int, n: int, confidence: float) -> Estimate:
    """Estimate the difference of two shares of the same images, (lost - gained) / n.

    The interval is Wald's after half an image was added to each of the four cells of the table (Agresti and Min,
    "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine, 2005).

    Args:
        lost: images that count in the first share alone.
        gained: images that count in the second share alone.
        n: images, 1 or more.
        confidence: coverage wanted.
    """
    centre, total = (lost - gained) / (n + 2), n + 2
    quantile = float(stats.norm.ppf(0.5 + confidence / 2))
    reach = quantile * math.sqrt((lost + gained + 1) / total - centre**2) / math.sqrt(total)
    value = (lost - gained) / n
    low, high = max(-1.0, min(value, centre - reach)), min(1.0, max(value, centre + reach))
    return Estimate(value=value, low=low, high=high, n=n, confidence=confidence)


def sign_test(differences: ArrayLike) -> float:
    """Return the exact two-sided p-value that further units are as likely to be higher as to be lower.

    It asks for no distribution (Dixon and Mood, JASA 1946); units that differ by no more than the rounding of shares
    count for neither side.

    Args:
        differences: second figure less the first, shape [n].
    """
    higher, lower = ways(differences)
    return float(stats.binomtest(higher, higher + lower).pvalue) if higher + lower else 1.0


def mcnemar(differences: ArrayLike) -> float:
    """Return McNemar's two-sided p-value that two files answer the same images equally well.

    Under one fault (or none) an image differs by -1, 0 or 1, and the exact binomial test of the discordant images
    is meant (McNemar, Psychometrika 1947). Under several faults the answers to one image hang together: images are
    then clusters, and the statistic is (sum d)^2 / sum d^2, chi-square with one degree of freedom (Obuchowski,
    Statistics in Medicine 1998).

    Args:
        differences: for each image, under how many of the shared faults the second file is right less under how
            many the first is, whole numbers, shape [images].
    """
    values = np.asarray(differences, dtype=np.int64)
    discordant = int(np.count_nonzero(values))
    if discordant == 0:
        return 1.0
    if np.abs(values).max() == 1:
        return float(stats.binomtest(int((values > 0).sum()), discordant).pvalue)
    return float(stats.chi2.sf(float(values.sum()) ** 2 / float((values**2).sum()), 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family of tests for their number (Holm, Scandinavian J. of Statistics 1979).

    Args:
        p_values: one a test.

    Returns:
        The adjusted values, in the same order: those below alpha hold together with error at most alpha.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Estimate the second share less the first where the two rest on independent images.

    The interval is put together from both (MOVER: Newcombe, Statistics in Medicine 1998; Zou and Donner, 2008), so
    that it keeps the skew of small rates. `n` is the smaller of both.

    Raises:
        ValueError: if the two have not the same confidence.
    """
    if first.confidence != second.confidence:
        raise ValueError("a difference needs two estimates of the same confidence")
    value = second.value - first.value
    low = value - math.hypot(second.value - second.low, first.high - first.value)
    high = value + math.hypot(second.high - second.value, first.value - first.low)
    return Estimate(
        value=value,
        low=max(-1.0, low),
        high=min(1.0, high),
        n=min(first.n, second.n),
        confidence=first.confidence,
    )


def apart(first: Estimate, second: Estimate) -> Estimate:
    """Estimate the second figure less the first from two intervals that need no distribution.

    The ends are the furthest that both intervals allow. They hold with what is left of certainty when either interval
    may fail: of two at 97.5 %, 95 %. `n` is the smaller of both.
    """
    return Estimate(
        value=second.value - first.value,
        low=second.low - first.high,
        high=second.high - first.low,
        n=min(first.n, second.n),
        confidence=first.confidence + second.confidence - 1.0,
    )


def permutation_p(first: ArrayLike, second: ArrayLike, resamples: int = 1999) -> float:
    """Return the two-sided p-value of the permutation test that two samples of faults have the same mean rate.

    A few faults do most of the harm, and a small sample may hold none of them: its spread is then too small, and so is
    any interval made of it. Permuting the faults of both samples knows no such trap. Equal rates are interchangeable,
    so that a permutation is a draw from the multivariate hypergeometric distribution of the rates seen.

    Args:
        first: rate of each fault of one sample, drawn evenly, shape [n].
        second: the same of an independent sample, shape [m].
        resamples: how many permutations; drawn from a fixed seed.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    rates, counts = np.unique(np.concatenate([a, b]), return_counts=True)
    drawn = np.random.default_rng(0).multivariate_hypergeometric(counts, len(a), size=resamples)
    total = float(rates @ counts)
    sums = drawn @ rates
    differences = np.abs((total - sums) / len(b) - sums / len(a))
    seen = abs(float(b.mean()) - float(a.mean()))
    return float((1 + np.count_nonzero(differences >= seen * (1 - 1e-12))) / (resamples + 1))


def rank_correlation(first: ArrayLike, second: ArrayLike, confidence: float) -> Estimate | None:
    """Estimate Spearman's rank correlation, with the interval of Bonett and Wright (Psychometrika 2000).

    Returns:
        None where fewer than four pairs are given, or one side has a single value.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    n = len(x)
    if n < 4 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return None
    rho = float(np.clip(stats.spearmanr(x, y).statistic, -1.0, 1.0))
    if math.isclose(abs(rho), 1.0, abs_tol=1e-12):
        rho = math.copysign(1.0, rho)
        return Estimate(value=rho, low=rho, high=rho, n=n, confidence=confidence)
    reach = float(stats.norm.ppf(0.5 + confidence / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = math.atanh(rho)
    low, high = math.tanh(centre - reach), math.tanh(centre + reach)
    return Estimate(value=rho, low=low, high=high, n=n, confidence=confidence)
