"""Stratified sampling in two phases: a pilot decides where the faults of the main phase go.

Each stratum's pilot is drawn without replacement and then counted as it is, with weight 1; the main phase is a
simple random sample of the rest of the stratum. The estimate of a stratum's total is therefore the pilot's sum plus
the size of the rest times the main phase's mean: unbiased, however the pilot's results steer the allocation. (Merging
both phases into one mean would not be: strata whose pilot saw no event would get few further faults and stay at 0.)
Sources: Cochran, Sampling Techniques (1977), ch. 5 and 12; Neyman, JRSS 97 (1934).
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from resq_deploy.faults.statistics import Estimate, wilson, zero_event_bound

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """The faults of a two-phase sample, and the strata they come from.

    Attributes:
        stratum: stratum of each fault, shape [n].
        pilot: whether a fault belongs to the pilot, shape [n].
        sizes: faults in each stratum's population, shape [strata].
        groups: strata with the same number may share their spread, shape [strata].
    """

    stratum: Integers
    pilot: NDArray[np.bool_]
    sizes: Integers
    groups: Integers

    @property
    def rest(self) -> Integers:
        """Size of each stratum without its pilot, shape [strata]."""
        return self.sizes - np.bincount(self.stratum[self.pilot], minlength=len(self.sizes))

    @property
    def drawn(self) -> Integers:
        """Faults of the main phase in each stratum, shape [strata]."""
        return np.bincount(self.stratum[~self.pilot], minlength=len(self.sizes))

    def weights(self) -> Floats:
        """Return how many faults of the population each fault stands for, shape [n]."""
        with np.errstate(divide="ignore", invalid="ignore"):
            expansion = self.rest / self.drawn
        weights: Floats = np.where(self.pilot, 1.0, expansion[self.stratum])
        return weights


def estimate(values: Floats, sample: Sample, confidence: float, domain: NDArray[np.bool_] | None = None) -> Estimate:
    """Estimate the mean of a per-fault rate over the population, or over the part of it in a domain.

    The interval is Wilson's with the effective sample size r (1 - r) / variance and n - 1 degrees of freedom. Where
    all faults of the domain gave the same rate, the bound for events not seen is used with Kish's effective sample
    size.

    Args:
        values: rate of each fault, shape [n], in [0, 1].
        sample: where the faults come from.
        confidence: coverage wanted.
        domain: which faults count, shape [n]; None for all.

    Raises:
        ValueError: if no fault lies in the domain.
    """
    inside = np.ones(len(values), dtype=bool) if domain is None else domain
    weights = sample.weights() * inside
    total = float(weights.sum())
    if not inside.any() or total == 0.0:
        raise ValueError("an estimate needs at least one fault")
    mean = float(np.clip((weights @ values) / total, 0.0, 1.0))
    n = int(inside.sum())
    if np.ptp(values[inside]) == 0.0:
        effective = max(1, math.floor(total**2 / float(weights @ weights)))
        unseen = 0.0 if total <= n else zero_event_bound(effective, round(total), confidence)
        low, high = mean * (1.0 - unseen), mean + (1.0 - mean) * unseen
    else:
        variance = _variance((values - mean) * inside, sample) / total**2
        low, high = (mean, mean) if variance == 0.0 else wilson(mean, mean * (1.0 - mean) / variance, confidence, n - 1)
    return Estimate(value=mean, low=low, high=high, n=n, confidence=confidence)


def _variance(residuals: Floats, sample: Sample) -> float:
    """Return the variance of the estimated total of the residuals."""
    rest, drawn = sample.rest, sample.drawn
    open_strata = rest > drawn
    spread = spreads(residuals, sample.stratum, sample.groups)
    share = np.divide(drawn, rest, out=np.ones(len(rest)), where=rest > 0)
    terms = np.divide(rest**2 * (1.0 - share) * spread, drawn, out=np.zeros(len(rest)), where=open_strata & (drawn > 0))
    return float(terms.sum())


def spreads(values: Floats, stratum: Integers, groups: Integers) -> Floats:
    """Return a cautious variance for each stratum, shape [strata].

    It is the larger of the stratum's own sample variance and that of all faults in its group, since a stratum with a
    handful of faults may show none of its rare events. Where a whole group shows no spread, the variance of a single
    event among n + 2 faults stands in.
    """
    strata = len(groups)
    own = _grouped_variance(values, stratum, strata)
    of_group = groups[stratum]
    count = np.bincount(of_group, minlength=groups.max() + 1)
    shared = _grouped_variance(values, of_group, len(count))
    rare = 1.0 / (count + 2.0)
    shared = np.maximum(shared, rare * (1.0 - rare))
    cautious: Floats = np.maximum(own, shared[groups])
    return cautious


def _grouped_variance(values: Floats, group: Integers, groups: int) -> Floats:
    """Return the sample variance within each group, 0 where it has fewer than two members."""
    count = np.bincount(group, minlength=groups)
    total = np.bincount(group, weights=values, minlength=groups)
    mean = np.divide(total, count, out=np.zeros(groups), where=count > 0)
    squares = np.bincount(group, weights=(values - mean[group]) ** 2, minlength=groups)
    return np.divide(squares, count - 1, out=np.zeros(groups), where=count > 1)


def allocate(spread: Floats, rest: Integers, margin: float, confidence: float) -> Integers:
    """Return how many faults the main phase takes from each stratum: Neyman's n_h ~ N_h s_h, at least two.

    The total is what the margin asks for: (sum N_h s_h)^2 / (N^2 (margin / z)^2 + sum N_h s_h^2).

    Args:
        spread: variance of the per-fault rate in each stratum, shape [strata].
        rest: faults left in each stratum, shape [strata].
        margin: half-width wanted.
        confidence: coverage wanted.
    """
    population = float(rest.sum())
    if population == 0.0:
        return np.zeros(len(rest), dtype=np.int64)
    deviation = np.sqrt(spread)
    target = (margin / float(stats.norm.ppf(0.5 + confidence / 2))) ** 2
    weighted: Any = rest * deviation
    total = weighted.sum() ** 2 / (population**2 * target + (rest * spread).sum())
    wanted = np.ceil(total * weighted / weighted.sum()).astype(np.int64)
    counts: Integers = np.minimum(np.maximum(wanted, 2), rest)
    return counts
