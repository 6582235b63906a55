"""Faults and images sampled together: each fault is judged on some images of its own, and how many those should be.

A fault's rate p_i over all M images is then estimated by the share x_i of its m images that show the event. The images
are drawn apart for each fault, and evenly, so that E x_i = p_i, and the x_i of given faults are independent. Three
things follow, and one does not.

- The mean of the x_i over a sample of faults is as unbiased as that of the p_i.
- x_i lies in [0, 1], and what a bet on it multiplies the stake by is linear in it: its mean is what the same bet on p_i
  would give. Bounds for samples of the p_i, with or without replacement, are bounds for those of the x_i (`betting`).
- For given faults - all of a population, say - the bets hold as well, as the product of their gains is at most the
  power of the mean one (inequality of the arithmetic and geometric mean).
- But faults that were judged are not known any more. What rests on knowing them - that a whole population has no
  uncertainty, how much of the mean is left for the faults not drawn, that n faults without an event are n faults that
  have none - must ask what their other images may hold: `possible`, `sum_bounds`.

Source: Cochran, Sampling Techniques (3rd ed., 1977), ch. 10, for two stages; his "units" are faults, his "subunits"
image runs.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.betting import mean_bounds

Floats = NDArray[np.float64]


def possible(values: Floats, share: float) -> tuple[Floats, Floats]:
    """Return the least and the largest rate over all images that what was seen of each fault leaves possible.

    Args:
        values: share of its images on which each fault showed the event, shape [n].
        share: of all images, the part that each fault was judged on, in (0, 1].
    """
    if share == 1.0:
        return values, values
    return values * share, 1.0 - (1.0 - values) * share


def sum_bounds(values: Floats, share: float, error: float) -> tuple[float, float]:
    """Return bounds for the sum of the rates over all images of the very faults that were judged.

    Args:
        values: share of its images on which each fault showed the event, shape [n].
        share: of all images, the part that each fault was judged on, in (0, 1].
        error: probability that the bounds may fail with, half of it on either side; 0 where all images were run.
    """
    if share == 1.0 or not len(values):
        return float(values.sum()), float(values.sum())
    least, most = (float(ends.sum()) for ends in possible(values, share))
    low, high = (len(values) * end for end in mean_bounds(values, 1.0 - error))
    return max(least, low), min(most, high)


@dataclasses.dataclass(frozen=True)
class Spread:
    """What the images add to the spread of faults, by stratum.

    Attributes:
        square: mean square of the rates over all images, shape [strata].
        within: mean variance of the images of a fault, shape [strata].
    """

    square: Floats
    within: Floats

    def at(self, images: int, of: int) -> Floats:
        """Return the mean square of the shares seen on so many of all images (Cochran, ch. 10), shape [strata]."""
        square: Floats = self.square + self.within * (1.0 / images - 1.0 / of)
        return square


def within_faults(values: Floats, images: int) -> Floats:
    """Return the variance between the image runs of each fault, without bias from those seen (Cochran, ch. 10).

    Args:
        values: share of its images on which each fault showed the event, shape [n].
        images: how many images each was judged on, 2 or more: one image has no spread.

    Raises:
        ValueError: if there are fewer.
    """
    if images < 2:
        raise ValueError("the spread between images takes two of them or more")
    variance: Floats = values * (1.0 - values) * images / (images - 1.0)
    return variance


@dataclasses.dataclass(frozen=True)
class Work:
    """What a fault of each stratum costs, in any unit of work.

    Attributes:
        fault: what it costs on however many images, shape [strata].
        image: what each image more costs, above 0, shape [strata].
    """

    fault: Floats
    image: Floats


def best_images(spread: Spread, parts: Floats, sizes: Floats, work: Work, of: int) -> float | None:
    """Return how many images a fault make the bound cheapest, from 0 to `of`, not yet rounded (Cochran, ch. 10).

    With n faults, n parts_h of them in stratum h, and m images each, variance and cost are

        V = (A + B / m) / n,  A = sum_h W_h^2 / parts_h (P_h - S_h / M),  B = sum_h W_h^2 / parts_h S_h
        C = n (F + m I),      F = sum_h parts_h fault_h,  I = sum_h parts_h image_h

    with W_h the stratum's share of the population, P_h and S_h the mean square of the rates and the variance within
    faults; V C is least at m = sqrt(B / A F / I). The mean square stands in for Cochran's variance between faults,
    since the bets do not know the strata's means.

    Args:
        spread: expected of each stratum.
        parts: of all faults to be drawn, the share of each stratum, summing to 1.
        sizes: faults of each stratum, W_h up to a factor.
        work: what faults and images cost.
        of: M, all images there are.

    Returns:
        None where nothing is expected to happen at all, so that no number is better than another.
    """
    drawn = parts > 0
    weight = np.divide((sizes / sizes.sum()) ** 2, parts, out=np.zeros_like(parts), where=drawn)
    images = float(weight @ spread.within)
    faults = float(weight @ spread.square) - images / of
    if images <= 0.0:
        return None if faults <= 0.0 else 0.0
    ratio = float(parts @ work.fault) / float(parts @ work.image)
    return min(float(of), math.sqrt(images / faults * ratio)) if faults > 0.0 else float(of)


def whole_parts(images: float, size: int, of: int) -> int:
    """Return a number of images as a multiple of the size of a part, one at least, or all images.

    Between two multiples the nearer by its ratio is taken: twice too many cost as much as half of what is best.
    """
    few = max(1, math.floor(images / size))
    parts = few if images * images <= few * (few + 1.0) * size * size else few + 1
    return min(of, parts * size)
