"""Strata of a population - role x layer x bit - and the faults drawn from them."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.effort import Effort
from resq_deploy.campaign.options import Refinement
from resq_deploy.campaign.population import Cell, Population
from resq_deploy.faults import draws
from resq_deploy.faults.allocation import next_phase, spread_out
from resq_deploy.faults.refinement import Row, for_margin, for_number
from resq_deploy.faults.stratified import Sample, estimate
from resq_deploy.faults.two_stage import Work

PILOT = 4
"""Faults a stratum in the pilot, on average."""

_TRUST = 3
"""A pilot plans this many times its own faults; a larger phase is planned by a second pilot."""

_LEAST_FURTHER = 0.2
_SMALLEST_SHARE = 1 / 400
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
        self._cells = population.cells

    def draw(self, stratum: int, first: int, count: int) -> Integers:
        """Return the population numbers of the faults `first` ... `first + count - 1` of a stratum's fixed order."""
        source = draws.stream("stratum", self._seed, *self._names[stratum])
        inside = draws.sample(source, int(self.sizes[stratum]), first + count)[first:]
        cells = np.flatnonzero(self._of_cell == stratum)
        ends = np.cumsum(self._elements[cells])
        cell = np.searchsorted(ends, inside, side="right")
        numbers: Integers = self._starts[cells[cell]] + inside - (ends[cell] - self._elements[cells[cell]])
        return numbers

    def inside(self, key: str, name: str) -> Integers:
        """Return how many faults of each stratum belong to a role, layer or bit, shape [strata]."""
        chosen = np.array([cell.group(key) == name for cell in self._cells])
        counted = np.bincount(self._of_cell[chosen], weights=self._elements[chosen], minlength=len(self.sizes))
        return counted.astype(np.int64)

    def work(self, effort: Effort) -> Work:
        """Return what a fault of each stratum costs, and each image that it is judged on."""
        costs = [effort.of(cell.surface) for cell in self._cells]
        fault, image = (
            np.bincount(self._of_cell, weights=self._elements * of_cell) / self.sizes
            for of_cell in np.array(costs, dtype=np.float64).T
        )
        return Work(fault, image)

    def pilot(self) -> tuple[Integers, Integers]:
        """Return the pilot's faults and the stratum of each: half of them to all strata alike, half by their sizes."""
        many = len(self.sizes) * PILOT
        parts = (1.0 / len(self.sizes) + self.sizes / self.sizes.sum()) / 2
        return self._phase(np.zeros_like(self.sizes), spread_out(many, parts, self.sizes))

    def following(
        self,
        rates: NDArray[np.float64],
        sample: Sample,
        margin: float,
        confidence: float,
        images: int | None = None,
    ) -> tuple[Integers, Integers, int] | None:
        """Return the phase after those drawn, or None when the margin is reached or all faults are drawn.

        Args:
            rates: SDC-1 of each fault so far, in the order of the plan, shape [n].
            sample: where those faults come from.
            margin: half-width wanted.
            confidence: coverage wanted.
            images: on how many images its faults are to be judged; None for all.

        Returns:
            Its faults, the stratum of each, and how many of all phases are then pilots.
        """
        rest, drawn = sample.rest[-1], len(rates)
        began = sample.phases > sample.pilots
        if not rest.any() or (began and estimate(rates, sample, confidence).half_width <= margin):
            return None
        # The estimate rests on the main phase: it is no smaller than its pilots. Further ones are worth their while.
        least = _LEAST_FURTHER * drawn if began else drawn
        counts = next_phase(rates, sample, margin, confidence, least, images)
        pilots = sample.pilots
        if not began and counts.sum() > _TRUST * drawn:
            counts, pilots = np.maximum(counts // _TRUST, np.minimum(rest, 1)), pilots + 1
        return *self._phase(self.sizes - rest, counts), pilots

    def refining(
        self,
        rates: NDArray[np.float64],
        positions: Integers,
        sample: Sample,
        step: Refinement,
        confidence: float,
        images: int | None = None,
    ) -> tuple[Integers, Integers] | None:
        """Return a phase for roles and larger layers that are known least; None where a margin is had, or nothing left.

        Args:
            rates: SDC-1 of each fault so far, in the order of the plan, shape [n].
            positions: population number of each fault, shape [n].
            sample: where those faults come from.
            step: what is wanted.
            confidence: coverage wanted.
            images: on how many images its faults are to be judged; None for all.

        Returns:
            Its faults, and the stratum of each.
        """
        rows = self._rows(positions)
        if step.margin is not None:
            counts = for_margin(rates, sample, rows, step.margin, confidence, images)
        else:
            counts = for_number(rates, sample, rows, step.samples or 0, confidence, images)
        return self._phase(self.sizes - sample.rest[-1], counts) if counts.any() else None

    def _rows(self, positions: Integers) -> list[Row]:
        """Return roles and layers, with the faults at these places of the population that lie in each.

        A layer whose strata are mostly those of others, too, is left out: few of the faults drawn for it would hit it.
        """
        cell = np.searchsorted(self._starts, positions, side="right") - 1
        rows = []
        for key in ("role", "layer"):
            of_cell = np.array([found.group(key) for found in self._cells])
            for name in dict.fromkeys(of_cell.tolist()):
                sizes = self.inside(key, name)
                if 2 * sizes[sizes == self.sizes].sum() >= sizes.sum():
                    rows.append(Row((of_cell == name)[cell], sizes))
        return rows

    def _phase(self, first: Integers, count: Integers) -> tuple[Integers, Integers]:
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
