"""Estimates from faults that were drawn in strata, phase by phase.

How many faults a phase takes from each stratum is fixed before any of them is evaluated, by the phases before it: no
result steers the size of the phase that it is counted in. The first phase is a pilot (large samples have a second one)
and counts as what it is, some faults of the population that are known; the main phase after it estimates the mean of
the rest. That is unbiased however the pilot steers the sizes. (Merging all into one mean is not: strata whose pilot saw
no event get few further faults and stay at 0; and a phase that is drawn until its own result looks good stops where it
looks too good.) Where the one main phase does not bring the margin, further ones are drawn and weighted by their sizes.
That leans a little low, as a phase that looks bad is diluted and one that looks good is not; the main phase is so large
that it happens to one sample in a hundred.

A sample may be refined where a part of the population is not known well enough: further phases then go to the strata of
that part alone. They are averaged with the others stratum by stratum, by their numbers there, and they are bet on for
those populations of which they hit nearly all; for others they say too little.

Faults may count for unlike parts of the mean (`Sample.mass`): where layers are drawn evenly, those of small layers
count for more. All of this then speaks of masses where it spoke of numbers. A small stratum may be drawn whole and its
faults still weigh more than any other's: they are known, and not bet on, as a bet is as slow as its heaviest fault.

The interval bets on all phases, the pilot's weighted faults among them (`betting`). What a phase bets on is the mean of
the faults that are left, and that takes knowing those drawn before. Where they were judged on a part of their images
(`two_stage`) they are bounded instead, for a small part of the error that the interval may make.
Sources: Cochran, Sampling Techniques (1977), ch. 5 and 12; Neyman, JRSS 97 (1934).
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.betting import Phase, bounds
from resq_deploy.faults.statistics import Estimate
from resq_deploy.faults.two_stage import possible, sum_bounds

_DOUBT = 1 / 40
"""Of the error that an interval may make, what the sums of earlier phases may fail with; each the half of the one
before. The ends of the interval move by less than 1 % for it, where nothing is known of the rates."""

_TELLS = 0.9
"""A phase that refines a sample is bet on where it hit strata of this part of what was left, or more."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """The faults of a sample in phases, and the strata they come from.

    Attributes:
        stratum: stratum of each fault, shape [n].
        phase: phase of each fault, from 0, shape [n].
        sizes: faults in each stratum's population, shape [strata].
        groups: strata with the same number are alike enough to learn from each other, shape [strata].
        pilots: how many of the first phases are pilots.
        images: on how many images each fault of a phase was judged at least, one a phase; empty where all were run.
        of: how many images there are in all.
        kept: how many of the first phases were drawn for the whole population, before it was refined; 0 for all.
        mass: of a fault of each stratum in the mean, above 0, in any unit, shape [strata]; None where all count alike.
    """

    stratum: Integers
    phase: Integers
    sizes: Integers
    groups: Integers
    pilots: int = 1
    images: tuple[int, ...] = ()
    of: int = 1
    kept: int = 0
    mass: Floats | None = None

    @property
    def phases(self) -> int:
        """How many phases were drawn."""
        return int(self.phase.max()) + 1 if len(self.phase) else 0

    @property
    def masses(self) -> Floats:
        """What a fault of each stratum counts for in the mean, shape [strata]."""
        return np.ones(len(self.sizes)) if self.mass is None else self.mass

    def share(self, phase: int) -> float:
        """Return the part of all images that each fault of a phase was judged on at least."""
        return self.images[phase] / self.of if self.images else 1.0

    @property
    def all_images(self) -> bool:
        """Whether all faults were judged on all images."""
        return all(images == self.of for images in self.images)

    @property
    def drawn(self) -> Integers:
        """Faults drawn from each stratum in each phase, shape [phases, strata]."""
        shape = (self.phases, len(self.sizes))
        return np.bincount(self.phase * shape[1] + self.stratum, minlength=shape[0] * shape[1]).reshape(shape)

    @property
    def rest(self) -> Integers:
        """Faults of each stratum that are left before each phase, and after the last, shape [phases + 1, strata]."""
        taken = np.vstack([np.zeros((1, len(self.sizes)), dtype=np.int64), np.cumsum(self.drawn, axis=0)])
        left: Integers = self.sizes - taken
        return left

    def inside(self, domain: NDArray[np.bool_], sizes: Integers) -> "Sample":
        """Return the part of the sample that lies in a domain, a stratum's part of it being a stratum.

        Which faults of a stratum lie in the domain is left to chance; given their numbers, they are a random sample of
        the stratum's part of the domain.

        Args:
            domain: which faults, shape [n].
            sizes: how many faults of each stratum's population lie in the domain, shape [strata].
        """
        return dataclasses.replace(self, stratum=self.stratum[domain], phase=self.phase[domain], sizes=sizes)

    def weights(self) -> Floats:
        """Return how many faults of the population each fault stands for, or their mass, shape [n].

        Each main phase gives a total of each stratum, what was seen before as it is and the mean of the phase for the
        rest; they are averaged by the sizes of the phases. Parts of a stratum that no main phase hit, as domains have
        them, fall back on the pilot.
        """
        drawn, rest = self.drawn, self.rest[:-1]
        kept = self.kept or self.phases
        tells = (drawn > 0) | (rest == 0)
        shares = np.where(tells, drawn.sum(axis=1, keepdims=True), 0).astype(np.float64)
        main = shares[self.pilots : kept].any(axis=0)
        shares[: self.pilots, main] = 0.0
        if self.kept:  # what is known of a stratum counts by the faults that tell it
            first = np.where(shares[:kept] > 0.0, drawn[:kept], 0).sum(axis=0)
            shares[:kept] *= np.maximum(first, 1) / np.maximum(shares[:kept].sum(axis=0), 1.0)
            shares[kept:] = drawn[kept:]
        shares /= np.maximum(shares.sum(axis=0), 1.0)
        expansion = np.divide(rest * shares, drawn, out=np.zeros_like(shares), where=drawn > 0)
        later = shares[::-1].cumsum(axis=0)[::-1] - shares
        weights: Floats = ((expansion + later) * self.masses)[self.phase, self.stratum]
        return weights


def estimate(values: Floats, sample: Sample, confidence: float, known: NDArray[np.bool_] | None = None) -> Estimate:
    """Estimate the mean of a per-fault rate over the population, or over a domain (`Sample.inside`).

    Args:
        values: rate of each fault, shape [n], in [0, 1].
        sample: where the faults come from.
        confidence: coverage wanted, split evenly between the sides.
        known: faults that have a rate, shape [n]; None for all. The mean is then that over the faults of the population
            that have one. How many those are is unknown: for the lower end the others count as 0, for the upper one
            as 1.

    Raises:
        ValueError: if there is no fault with a rate.
    """
    counted = np.ones(len(values), dtype=bool) if known is None else known
    if not counted.any():
        raise ValueError("an estimate needs at least one fault")
    weights = sample.weights() * counted
    mean = float(np.clip((weights @ values) / weights.sum(), 0.0, 1.0))
    low, high = _ends(np.where(counted, values, 0.0), sample, confidence)
    if not counted.all():
        high = _ends(np.where(counted, values, 1.0), sample, confidence)[1]
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=int(counted.sum()), confidence=confidence)


def _ends(values: Floats, sample: Sample, confidence: float) -> tuple[float, float]:
    """Return the interval by betting, cut to what the faults not drawn, and the images not run, leave possible."""
    size = float(sample.sizes @ sample.masses)
    least, most = _possible(values, sample)
    if len(values) >= sample.sizes.sum() and sample.all_images:
        return least / size, most / size
    low, high = bounds(evidence(values, sample, confidence), for_bets(sample, confidence))
    return max(low, least / size), min(high, (most + float(sample.rest[-1] @ sample.masses)) / size)


def _possible(values: Floats, sample: Sample) -> tuple[float, float]:
    """Return the least and the largest sum over all images that the faults drawn can have, each times its mass."""
    least = most = 0.0
    mass = sample.masses[sample.stratum]
    for phase in range(sample.phases):
        chosen = sample.phase == phase
        ends = possible(values[chosen], sample.share(phase))
        least, most = least + float((ends[0] * mass[chosen]).sum()), most + float((ends[1] * mass[chosen]).sum())
    return least, most


def for_bets(sample: Sample, confidence: float) -> float:
    """Return the confidence that the bets must reach, so that the interval has the one wanted."""
    return confidence if sample.all_images else 1.0 - (1.0 - confidence) * (1.0 - _DOUBT)


def evidence(values: Floats, sample: Sample, confidence: float) -> list[Phase]:
    """Return what each phase says about the mean of the population.

    Args:
        values: rate of each fault, shape [n].
        sample: where those faults come from.
        confidence: coverage wanted of the interval, of whose error the sums of subsampled phases take a small part.
    """
    size = float(sample.sizes @ sample.masses)
    found = []
    before = (0.0, 0.0)
    for number, (drawn, left) in enumerate(zip(sample.drawn, sample.rest[:-1], strict=True)):
        chosen = sample.phase == number
        if not chosen.any():
            continue
        known = _known(drawn, left, sample.masses)
        given = chosen & known[sample.stratum]
        error = (1.0 - confidence) * _DOUBT / 2.0 ** (number + 1) / (2 if given.any() else 1)
        before = _with(before, _sums(values, sample, given, number, error))
        chosen &= ~given
        drawn, rest = np.where(known, 0, drawn), np.where(known, 0, left) * sample.masses
        hit = drawn > 0
        told = float(rest[hit].sum())
        if not 0 < sample.kept <= number or told >= _TELLS * rest.sum():
            weight = np.divide(rest * drawn.sum(), told * drawn, out=np.zeros(len(rest)), where=hit)
            scale = told * weight.max()
            found.append(
                Phase.of(
                    weight[sample.stratum[chosen]] / weight.max() * values[chosen],
                    slope=size / scale,
                    taken=before[0] / scale,
                    unknown=(float(rest[~hit].sum()) + before[1] - before[0]) / scale,
                )
            )
        before = _with(before, _sums(values, sample, chosen, number, error))
    return found


def _known(drawn: Integers, left: Integers, masses: Floats) -> NDArray[np.bool_]:
    """Return which strata a phase takes whole that would weigh more in a bet than all it takes a part of.

    Numbers alone decide, before any fault is judged. Where all strata are taken whole there is no other to bet on.
    """
    weight = np.divide(left * masses, drawn, out=np.zeros(len(left)), where=drawn > 0)
    part = (drawn > 0) & (drawn < left)
    known: NDArray[np.bool_] = (drawn == left) & (weight > weight[part].max(initial=0.0))
    return known & part.any()


def _sums(values: Floats, sample: Sample, chosen: NDArray[np.bool_], phase: int, error: float) -> tuple[float, float]:
    """Return bounds for the sum of the rates of faults of a phase over all images, each times its mass."""
    mass = sample.masses[sample.stratum[chosen]]
    most = float(mass.max(initial=0.0))
    if not most:
        return 0.0, 0.0
    # A bet knows figures up to 1: those of the heaviest fault.
    low, high = (most * end for end in sum_bounds(values[chosen] * (mass / most), sample.share(phase), error))
    least, highest = (float((ends * mass).sum()) for ends in possible(values[chosen], sample.share(phase)))
    return max(low, least), min(high, highest)


def _with(before: tuple[float, float], more: tuple[float, float]) -> tuple[float, float]:
    return before[0] + more[0], before[1] + more[1]
