"""The faults of a campaign by the tensor they fall on, and the mean of a figure over the bits of some tensors.

It needs nothing of the file under test: what a finished campaign records of its drawing is enough.
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults import stratified
from resq_deploy.faults.statistics import Estimate, cluster
from resq_deploy.faults.stratified import Sample

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Drawn:
    """Faults of one bit each.

    Attributes:
        tensor: place of the tensor that each fault falls on, shape [n].
        faults: how many faults of each stratum's population fall on each tensor, shape [tensors, strata]; of a simple
            sample there is one stratum.
        sample: where strata were drawn; None for a simple sample.
        stopped: whether the results of a simple sample decided how many faults were drawn.
        share: of all images, the least part that any fault was judged on, in (0, 1].
    """

    tensor: Integers
    faults: Integers
    sample: Sample | None = None
    stopped: bool = False
    share: float = 1.0

    @functools.cached_property
    def sizes(self) -> Integers:
        """Faults of the population that fall on each tensor, shape [tensors]."""
        sizes: Integers = self.faults.sum(axis=1)
        return sizes

    def mean(self, values: Floats, tensors: Flags, confidence: float) -> Estimate | None:
        """Estimate the mean of a figure over the population's faults on some tensors.

        Args:
            values: of each fault, in [0, 1], shape [n].
            tensors: which tensors count, shape [tensors].
            confidence: coverage wanted, split evenly between the sides.

        Returns:
            None where no fault fell on them.
        """
        domain = tensors[self.tensor]
        if not domain.any():
            return None
        figures = values[domain]
        if self.sample is not None:
            within = self.sample.inside(domain, self.faults[tensors].sum(axis=0))
            return stratified.estimate(figures, within, confidence)
        population = float(self.sizes[tensors].sum())
        return cluster(figures, population, confidence, stopped=self.stopped, share=self.share)

    def total(self, values: Floats, weight: Floats, confidence: float) -> Estimate:
        """Estimate the sum of a figure over the population, each fault times the weight of its tensor.

        It is one mean over the tensors that weigh something, of the figure times its share of the largest weight, so
        that its interval holds whatever the weights are.

        Args:
            values: of each fault, in [0, 1], shape [n].
            weight: of a fault of each tensor, 0 or more, shape [tensors].
            confidence: coverage wanted.

        Returns:
            In the unit of the weights. Where no fault fell on these tensors, the mean over all faults, and an interval
            that leaves everything open.
        """
        chosen, most = weight > 0.0, float(weight.max(initial=0.0))
        scale = float(self.sizes[chosen].sum()) * most
        if not scale:
            return Estimate(value=0.0, low=0.0, high=0.0, n=0, confidence=confidence)
        found = self.mean(values * (weight / most)[self.tensor], chosen, confidence)
        whole = float(self.sizes @ weight)  # what it is if the figure is 1 throughout
        if found is None:
            usual = self.mean(values, np.ones(len(weight), dtype=bool), confidence)
            value = usual.value * whole if usual else 0.0
            return Estimate(value=value, low=0.0, high=whole, n=0, confidence=confidence)
        value, low, high = (min(scale * end, whole) for end in (found.value, found.low, found.high))
        return dataclasses.replace(found, value=value, low=low, high=high)
