"""Estimates a safety case can rest on: every rate with its interval, its number of faults and its population.

The unit of a campaign is the fault, not the image run: all image runs of a fault share that fault, so a Wald
interval over image runs is far too narrow. Rates are averaged over faults, and their spread over faults decides.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_ROUNDING = 1e-12
"""Shares that differ by less differ by the rounding of their arithmetic alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its confidence interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        n: how many units (faults, chips, images) it rests on.
        confidence: coverage the interval is built for.
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float

    @property
    def half_width(self) -> float:
        """The larger distance from the value to an end of the interval."""
        return max(self.high - self.value, self.value - self.low)

    def as_dict(self) -> dict[str, float | int]:
        """Return the estimate as the JSON object of the file formats."""
        return dataclasses.asdict(self)


def as_estimate(given: Mapping[str, Any]) -> Estimate:
    """Return the estimate that a JSON object of the file formats holds."""
    return Estimate(**{field.name: given[field.name] for field in dataclasses.fields(Estimate)})


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


def wilson(value: float, n_effective: float, confidence: float, freedom: float = math.inf) -> tuple[float, float]:
    """Return Wilson's score interval for a share.

    Args:
        value: the share.
        n_effective: units it was observed over; need not be whole.
        confidence: coverage wanted.
        freedom: degrees of freedom behind `n_effective` where that is itself estimated from the spread of few units:
            Student's quantile then takes the place of the normal one.
    """
    z2 = float(stats.t.ppf(0.5 + confidence / 2, freedom)) ** 2
    centre = (value + z2 / (2 * n_effective)) / (1 + z2 / n_effective)
    spread = math.sqrt(value * (1 - value) / n_effective + z2 / (4 * n_effective**2)) * math.sqrt(z2)
    spread /= 1 + z2 / n_effective
    return max(0.0, min(value, centre - spread)), min(1.0, max(value, centre + spread))


def share(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Estimate a share from independent trials (accuracy over images) with Wilson's interval."""
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(value=successes / n, low=float(interval.low), high=float(interval.high), n=n, confidence=confidence)


def zero_event_bound(n: int, population: float, confidence: float) -> float:
    """Return the largest share of a population that may show events although a sample of `n` showed none.

    The Clopper-Pearson bound for sampling without replacement (hypergeometric), two-sided confidence: the largest
    K with P(no event in n | K of N) >= (1 - confidence) / 2. A population of infinity gives the binomial bound.
    """
    alpha = (1.0 - confidence) / 2
    if n >= population:
        return 0.0
    if math.isinf(population):
        return float(1.0 - alpha ** (1.0 / n))
    low, high = 0, int(population) - n + 1  # at K = N - n + 1 an event is certain
    while high - low > 1:
        middle = (low + high) // 2
        if stats.hypergeom.logpmf(0, int(population), middle, n) >= math.log(alpha):
            low = middle
        else:
            high = middle
    return low / population


def cluster(rates: ArrayLike, population: float, confidence: float) -> Estimate:
    """Estimate the mean rate over faults from a simple random sample of faults without replacement.

    Wilson's interval with the effective sample size r (1 - r) / s^2, s the standard error over faults with the
    finite-population correction, and Student's quantile with n - 1 degrees of freedom: the spread of a handful of
    faults is itself uncertain. Where all faults gave the same rate (no event at all, mostly) the spread says
    nothing: the hypergeometric bound limits the share of faults that may behave otherwise, and those could have any
    rate. A whole population has no uncertainty.

    Args:
        rates: share of image runs with the event, one a fault, shape [n], each in [0, 1].
        population: how many faults could have been drawn (infinity: with replacement, or endless).
        confidence: coverage wanted.

    Raises:
        ValueError: if there are no rates.
    """
    values = np.asarray(rates, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("an estimate needs at least one fault")
    mean = float(np.clip(values.mean(), 0.0, 1.0))
    if n >= population:
        low = high = mean
    elif np.ptp(values) == 0.0:
        unseen = zero_event_bound(n, population, confidence)
        low, high = mean * (1.0 - unseen), mean + (1.0 - mean) * unseen
    else:
        low, high = wilson(mean, _effective_size(values, mean, population), confidence, n - 1)
    return Estimate(value=mean, low=low, high=high, n=n, confidence=confidence)


def _effective_size(values: NDArray[np.float64], mean: float, population: float) -> float:
    n = len(values)
    correction = 1.0 if math.isinf(population) else 1.0 - n / population
    return mean * (1.0 - mean) * n / (float(values.var(ddof=1)) * correction)


def student(values: ArrayLike, confidence: float) -> Estimate:
    """Estimate a mean over chips with Student's interval, cut to [0, 1]; one chip alone leaves it [0, 1].

    Args:
        values: one figure in [0, 1] a chip, shape [n].
        confidence: coverage wanted.
    """
    chips = np.asarray(values, dtype=np.float64)
    n = len(chips)
    mean = float(chips.mean())
    if n < 2:
        return Estimate(value=mean, low=0.0, high=1.0, n=n, confidence=confidence)
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(chips.std(ddof=1)) / math.sqrt(n)
    low, high = max(0.0, mean - reach), min(1.0, mean + reach)
    return Estimate(value=mean, low=low, high=high, n=n, confidence=confidence)


def paired_difference(differences: ArrayLike, confidence: float) -> Estimate:
    """Estimate a mean difference over paired units (chips, faults) with Student's interval, cut to [-1, 1].

    It is about further units of the same kind, given the images. One pair alone leaves it [-1, 1].

    Args:
        differences: second figure less the first, each in [-1, 1], shape [n].
        confidence: coverage wanted.

    Raises:
        ValueError: if there are no differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("a paired difference needs at least one pair")
    mean = float(values.mean())
    if n == 1:
        return Estimate(value=mean, low=-1.0, high=1.0, n=n, confidence=confidence)
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    low, high = max(-1.0, mean - reach), min(1.0, mean + reach)
    return Estimate(value=mean, low=low, high=high, n=n, confidence=confidence)


def widened(estimate: Estimate, lowest: float = 0.0) -> Estimate:
    """Return a mean over units with an interval even where all units gave the same figure, which has no spread.

    As in `cluster`, the bound for events not seen limits the share of further units that may behave otherwise, and
    those could have any figure.

    Args:
        estimate: of a mean over `n` units.
        lowest: the least figure a unit can have: 0 for shares, -1 for differences of shares; the largest is 1.
    """
    if estimate.high - estimate.low > _ROUNDING:
        return estimate
    unseen = zero_event_bound(estimate.n, math.inf, estimate.confidence)
    kept = estimate.value * (1.0 - unseen)
    return dataclasses.replace(estimate, low=kept + lowest * unseen, high=kept + unseen)


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


def paired_p(differences: ArrayLike) -> float:
    """Return the two-sided p-value of Student's paired test that the mean difference over units is 0.

    Units that all differ alike have no spread to test by: the sign test takes its place, 1 where they do not differ at
    all. Fewer than two tell nothing.

    Args:
        differences: second figure less the first, shape [n].
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return 1.0
    if np.ptp(values) <= _ROUNDING:
        return 1.0 if abs(values[0]) <= _ROUNDING else 2.0 * 0.5 ** len(values)
    return float(stats.ttest_1samp(values, 0.0).pvalue)


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
    """Estimate the second figure less the first where the two rest on units drawn independently.

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
