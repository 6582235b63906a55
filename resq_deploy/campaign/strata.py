"""Strata of a population - role x layer x bit - and the faults drawn from them."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.effort import Effort
from resq_deploy.campaign.options import Draw, Refinement
from resq_deploy.campaign.population import Cell, Population
from resq_deploy.faults import draws
from resq_deploy.faults.allocation import alike, next_phase, spread_out
from resq_deploy.faults.refinement import Row, for_margin, for_number
from resq_deploy.faults.stratified import Sample, estimate
from resq_deploy.faults.two_stage import Work

PILOT = 4
"""Faults a stratum in the pilot, on average."""

TRUST = 3
"""A pilot plans this many times its own faults; a larger phase is planned by a second pilot."""

_LEAST_FURTHER = 0.2
_SMALLEST_SHARE = 1 / 400
_SMALLEST_SIZE = 25 * PILOT

Integers = NDArray[np.int64]


Name = tuple[str, str, str]
"""Of a stratum: role, bit and layer, with empty text for what is pooled over."""


class Strata:
    """A stratified plan over a population.

    Args:
        population: the faults to draw from.
        seed: of the drawing.
        named: stratum of each of its cells, shape [cells].
        draw: what is drawn evenly; with `layers` no stratum may lie in several.

    Attributes:
        sizes: faults in each stratum.
        of_cell: the stratum of each cell of the population, shape [cells].
        groups: strata of the same role and bit share a number.
        mass: what a fault of each stratum counts for, shape [strata], 1 on average over all faults; None where all
            count alike. Where layers are drawn each has the same mass, and each of its faults an even part of it.
    """

    def __init__(self, population: Population, seed: int, named: Sequence[Name], draw: Draw = Draw.BITS) -> None:
        self._seed = seed
        self._names = list(dict.fromkeys(named))
        place = {name: number for number, name in enumerate(self._names)}
        self.of_cell = np.array([place[name] for name in named])
        elements = np.array([cell.surface.elements for cell in population.cells])
        self.sizes: Integers = np.bincount(self.of_cell, weights=elements).astype(np.int64)
        pairs = [name[:2] for name in self._names]
        numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        self.groups: Integers = np.array([numbers[pair] for pair in pairs], dtype=np.int64)
        self._starts = np.array(population.starts())
        self._elements = elements
        self._cells = population.cells
        self.mass = self._of_layers() if draw is Draw.LAYERS else None

    @classmethod
    def parts(cls, population: Population, seed: int, draw: Draw = Draw.BITS) -> "Strata":
        """Return strata for a sample that is drawn where harm is found.

        A role, layer and bit with at least 1/400 of the population, and 25 pilots, is a stratum of its own. What is
        smaller is pooled over the layers of its role and bit, and what is still smaller over its role: pilots of
        thousands of tiny strata would cost more than they save. Where layers are drawn it is pooled within its layer.
        """
        return cls(population, seed, _in_layers(population) if draw is Draw.LAYERS else _names(population), draw)

    @classmethod
    def layers(cls, population: Population, seed: int) -> "Strata":
        """Return the layers as strata, each of the same mass."""
        return cls(population, seed, [("", "", cell.surface.layer) for cell in population.cells], Draw.LAYERS)

    def _of_layers(self) -> NDArray[np.float64]:
        """Return the mass of a fault of each stratum where each layer has the same."""
        sizes: Counter[str] = Counter()
        for cell in self._cells:
            sizes[cell.surface.layer] += cell.surface.elements
        each = self.sizes.sum() / len(sizes)
        return np.array([each / sizes[layer] for _, _, layer in self._names])

    def draw(self, stratum: int, first: int, count: int) -> Integers:
        """Return the population numbers of the faults `first` ... `first + count - 1` of a stratum's fixed order."""
        source = draws.stream("stratum", self._seed, *self._names[stratum])
        inside = draws.sample(source, int(self.sizes[stratum]), first + count)[first:]
        cells = np.flatnonzero(self.of_cell == stratum)
        ends = np.cumsum(self._elements[cells])
        cell = np.searchsorted(ends, inside, side="right")
        numbers: Integers = self._starts[cells[cell]] + inside - (ends[cell] - self._elements[cells[cell]])
        return numbers

    def inside(self, key: str, name: str) -> Integers:
        """Return how many faults of each stratum belong to a role, layer or bit, shape [strata]."""
        chosen = np.array([cell.group(key) == name for cell in self._cells])
        counted = np.bincount(self.of_cell[chosen], weights=self._elements[chosen], minlength=len(self.sizes))
        return counted.astype(np.int64)

    def work(self, effort: Effort) -> Work:
        """Return what a fault of each stratum costs, and each image that it is judged on."""
        costs = [effort.of(cell.surface) for cell in self._cells]
        fault, image = (
            np.bincount(self.of_cell, weights=self._elements * of_cell) / self.sizes
            for of_cell in np.array(costs, dtype=np.float64).T
        )
        return Work(fault, image)

    def pilot(self) -> tuple[Integers, Integers]:
        """Return the pilot's faults and the stratum of each: half of them to all strata alike, half by their sizes.

        Sizes are those in the mean, which are their masses.
        """
        many = len(self.sizes) * PILOT
        mass = self.sizes if self.mass is None else self.sizes * self.mass
        parts = (1.0 / len(self.sizes) + mass / mass.sum()) / 2
        return self._phase(np.zeros_like(self.sizes), spread_out(many, parts, self.sizes))

    def alike(self, count: int) -> tuple[Integers, Integers]:
        """Return so many faults, all strata alike as far as they have them, and the stratum of each."""
        order = np.argsort(draws.stream("alike", self._seed).random_raw(len(self.sizes)), kind="stable")
        return self._phase(np.zeros_like(self.sizes), alike(count, self.sizes, order))

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
        if not began and counts.sum() > TRUST * drawn:
            counts, pilots = np.maximum(counts // TRUST, np.minimum(rest, 1)), pilots + 1
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


def _names(population: Population) -> list[Name]:
    """Return the stratum of each cell, pooled over layers and then over bits where it would be small."""

    def role(cell: Cell) -> Name:
        return (str(cell.surface.role), "", "")

    def bit(cell: Cell) -> Name:
        return (str(cell.surface.role), str(cell.bit), "")

    smallest = max(population.size * _SMALLEST_SHARE, _SMALLEST_SIZE)
    return _finest(population, (role, bit, _whole_name), lambda _, size: size >= smallest)


def _in_layers(population: Population) -> list[Name]:
    """Return the stratum of each cell, pooled over bits and then over roles of its layer where it would be small."""
    sizes: Counter[str] = Counter()
    for cell in population.cells:
        sizes[cell.surface.layer] += cell.surface.elements

    def layer(cell: Cell) -> Name:
        return ("", "", cell.surface.layer)

    def role(cell: Cell) -> Name:
        return (str(cell.surface.role), "", cell.surface.layer)

    def large(cell: Cell, size: int) -> bool:
        return size >= max(_SMALLEST_SHARE * len(sizes) * sizes[cell.surface.layer], _SMALLEST_SIZE)

    return _finest(population, (layer, role, _whole_name), large)


def _whole_name(cell: Cell) -> Name:
    return (str(cell.surface.role), str(cell.bit), cell.surface.layer)


def _finest(
    population: Population, finer: Sequence[Callable[[Cell], Name]], large: Callable[[Cell, int], bool]
) -> list[Name]:
    """Return the finest name of each cell whose stratum is large enough; of the first, any is."""
    names = [finer[0](cell) for cell in population.cells]
    for name_of in finer[1:]:
        sizes: Counter[Name] = Counter()
        for cell in population.cells:
            sizes[name_of(cell)] += cell.surface.elements
        names = [
            name_of(cell) if large(cell, sizes[name_of(cell)]) else name
            for cell, name in zip(population.cells, names, strict=True)
        ]
    return names
