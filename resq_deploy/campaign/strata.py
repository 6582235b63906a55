"""Strata of a population - role x layer x bit - and the faults drawn from them."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.population import Cell, Population
from resq_deploy.faults import draws
from resq_deploy.faults.stratified import Sample, allocate, estimate, spreads

PILOT = 4
"""Faults a stratum in the pilot."""

_SMALLEST_SHARE = 1 / 400
_FIRST_PART = 4
_SLOWEST_GROWTH, _FASTEST_GROWTH = 1.2, 2.0
_SMALLEST_SIZE = 25 * PILOT

Integers = NDArray[np.int64]


class Strata:
    """A stratified plan over a population.

    A role, layer and bit with at least 1/400 of the population, and 25 pilots, is a stratum of its own. What is
    smaller is pooled over the layers of its role and bit, and what is still smaller over its role: pilots of thousands
    of tiny strata would cost more than they save.

    Args:
        population: the faults to draw from.
        seed: of the drawing.

    Attributes:
        sizes: faults in each stratum.
        groups: strata of the same role and bit share a number.
    """

    def __init__(self, population: Population, seed: int) -> None:
        self._seed = seed
        named = _names(population)
        self._names = list(dict.fromkeys(named))
        place = {name: number for number, name in enumerate(self._names)}
        self._of_cell = np.array([place[name] for name in named])
        elements = np.array([cell.surface.elements for cell in population.cells])
        self.sizes: Integers = np.bincount(self._of_cell, weights=elements).astype(np.int64)
        pairs = [name[:2] for name in self._names]
        numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        self.groups: Integers = np.array([numbers[pair] for pair in pairs], dtype=np.int64)
        self._starts = np.array(population.starts())
        self._elements = elements

    def draw(self, stratum: int, first: int, count: int) -> Integers:
        """Return the population numbers of the faults `first` ... `first + count - 1` of a stratum's fixed order."""
        source = draws.stream("stratum", self._seed, *self._names[stratum])
        inside = draws.sample(source, int(self.sizes[stratum]), first + count)[first:]
        cells = np.flatnonzero(self._of_cell == stratum)
        ends = np.cumsum(self._elements[cells])
        cell = np.searchsorted(ends, inside, side="right")
        numbers: Integers = self._starts[cells[cell]] + inside - (ends[cell] - self._elements[cells[cell]])
        return numbers

    def pilot(self) -> tuple[Integers, Integers]:
        """Return the pilot's faults and the stratum of each."""
        return self._round(np.zeros_like(self.sizes), np.minimum(self.sizes, PILOT))

    def main(
        self, rates: NDArray[np.float64], sample: Sample, margin: float, confidence: float
    ) -> tuple[Integers, Integers] | None:
        """Return the next round of the main phase, or None when the margin is reached or all faults are drawn.

        Args:
            rates: SDC-1 of each fault so far, in the order of the plan, shape [n].
            sample: where those faults come from.
            margin: half-width wanted.
            confidence: coverage wanted.
        """
        have = sample.drawn
        if not have.any():
            # A pilot overstates the spread of strata without events; a first part of its plan often suffices.
            planned = allocate(spreads(rates, sample.stratum, self.groups), sample.rest, margin, confidence)
            wanted = np.minimum(np.maximum(planned // _FIRST_PART, 2), sample.rest)
        else:
            reached = estimate(rates, sample, confidence).half_width
            if reached <= margin or (have >= sample.rest).all():
                return None
            spread = spreads(rates, sample.stratum, self.groups)
            # Aim a little below the margin, so that few rounds are needed and each looks at the stop rule once.
            ideal = allocate(spread, sample.rest, 0.95 * margin, confidence)
            growth = min(_FASTEST_GROWTH, max(_SLOWEST_GROWTH, (reached / margin) ** 2))
            allowed = np.ceil(have * growth).astype(np.int64) + 1
            wanted = np.minimum(np.maximum(have, np.minimum(ideal, allowed)), sample.rest)
            if wanted.sum() <= have.sum():
                wanted = np.minimum(allowed, sample.rest)
        if not (wanted > have).any():
            return None
        return self._round(self.sizes - sample.rest + have, wanted - have)

    def _round(self, first: Integers, count: Integers) -> tuple[Integers, Integers]:
        parts = [self.draw(h, int(first[h]), int(count[h])) for h in range(len(self.sizes)) if count[h]]
        positions = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return positions, np.repeat(np.arange(len(self.sizes)), count)


def _names(population: Population) -> list[tuple[str, str, str]]:
    """Return the stratum of each cell, as (role, bit, layer) with empty text for what is pooled over."""

    def role(cell: Cell) -> tuple[str, str, str]:
        return (str(cell.surface.role), "", "")

    def bit(cell: Cell) -> tuple[str, str, str]:
        return (str(cell.surface.role), str(cell.bit), "")

    def layer(cell: Cell) -> tuple[str, str, str]:
        return (str(cell.surface.role), str(cell.bit), cell.surface.layer)

    smallest = max(population.size * _SMALLEST_SHARE, _SMALLEST_SIZE)
    names = [role(cell) for cell in population.cells]
    finer: Callable[[Cell], tuple[str, str, str]]
    for finer in (bit, layer):
        sizes: Counter[tuple[str, str, str]] = Counter()
        for cell in population.cells:
            sizes[finer(cell)] += cell.surface.elements
        names = [
            finer(cell) if sizes[finer(cell)] >= smallest else name
            for cell, name in zip(population.cells, names, strict=True)
        ]
    return names
