"""Estimates a safety case can rest on: every rate with its interval, its number of faults and its population.

The unit of a campaign is the fault, not the image run: all image runs of a fault share that fault, so a Wald
interval over image runs is far too narrow. Rates are averaged over faults, and their spread over faults decides.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


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
