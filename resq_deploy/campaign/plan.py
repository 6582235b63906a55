"""Which faults a campaign evaluates: the population it draws from, the sample, and each fault by its number.

A plan is a pure function of the surfaces and the options. It can be made anew at any time, so that a resumed
campaign goes on with the very same faults.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.options import DEFAULT_MARGIN, CampaignOptions, FaultModel
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import OptionError
from resq_deploy.faults import draws
from resq_deploy.faults.bit_errors import FIRST_CHIP, flipped_bits
from resq_deploy.faults.fault import Edit, Fault, Op
from resq_deploy.faults.statistics import planned_sample


class Population:
    """Every single-bit position of the chosen surfaces, numbered without gaps.

    The numbers run through cells, one cell for each surface and bit position, and within a cell through the elements.

    Args:
        surfaces: the chosen surfaces.
        bits: the bit positions that may be hit; empty for all.

    Attributes:
        cells: (surface, bit) of each cell.
        size: how many positions there are.
    """

    def __init__(self, surfaces: Sequence[Surface], bits: Sequence[int]) -> None:
        self.cells = [(surface, bit) for surface in surfaces for bit in range(surface.width) if not bits or bit in bits]
        self._ends = np.cumsum([surface.elements for surface, _ in self.cells], dtype=np.int64)
        self.size = int(self._ends[-1]) if self.cells else 0

    def locate(self, position: int) -> tuple[Surface, int, int]:
        """Return the surface, element index and bit of a position."""
        cell = int(np.searchsorted(self._ends, position, side="right"))
        surface, bit = self.cells[cell]
        return surface, position - (int(self._ends[cell]) - surface.elements), bit

    def per_group(self, key: str) -> dict[str, int]:
        """Return how many positions each role, layer or bit holds (`key`: role, layer or bit)."""
        totals: dict[str, int] = {}
        for surface, bit in self.cells:
            name = str(bit) if key == "bit" else str(getattr(surface, key))
            totals[name] = totals.get(name, 0) + surface.elements
        return totals


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The faults of a campaign, in the order they are numbered.

    Attributes:
        model: the fault model.
        surfaces: the chosen surfaces.
        population: the positions faults are drawn from.
        faults_in_population: how many different faults there are; infinity for random bit errors.
        positions: population number of each fault, shape [n]; empty for random bit errors.
        masks: (bit error rate, chip) of each fault; empty for other models.
    """

    model: FaultModel
    surfaces: tuple[Surface, ...]
    population: Population
    faults_in_population: float
    positions: NDArray[np.int64]
    masks: tuple[tuple[float, int], ...]

    def __len__(self) -> int:
        return len(self.masks) if self.model is FaultModel.BER else len(self.positions)

    def fault(self, number: int) -> Fault:
        """Return a fault by its number, 0 ... len - 1."""
        if self.model is FaultModel.BER:
            rate, chip = self.masks[number]
            return Fault(number, self._mask(rate, chip), ber=rate, chip=chip)
        surface, index, bit = self.population.locate(int(self.positions[number]))
        return Fault(number, (Edit.of(surface.tensor, [index], [bit]),))

    def surface(self, tensor: str) -> Surface:
        """Return the surface of a tensor the plan may hit."""
        return next(surface for surface in self.surfaces if surface.tensor == tensor)

    def _mask(self, rate: float, chip: int) -> tuple[Edit, ...]:
        allowed = {bit for _, bit in self.population.cells}
        edits = []
        for surface in self.surfaces:
            index, bit = np.divmod(flipped_bits(surface.tensor, surface.bits, rate, chip), surface.width)
            hit = np.isin(bit, list(allowed))
            if hit.any():
                edits.append(Edit(surface.tensor, Op.FLIP, index[hit], bit[hit]))
        return tuple(edits)


def make_plan(surfaces: Sequence[Surface], options: CampaignOptions) -> Plan:
    """Choose the surfaces and draw the faults of a campaign.

    Raises:
        OptionError: if nothing is left to hit, or more faults are asked for than there are.
    """
    chosen = select(surfaces, options)
    population = Population(chosen, options.bits)
    if not population.size:
        raise OptionError(f"--bits: no chosen tensor stores bits at {', '.join(map(str, options.bits))}")
    positions = np.empty(0, dtype=np.int64)
    masks: tuple[tuple[float, int], ...] = ()
    size: float = population.size
    if options.faults is FaultModel.BER:
        chips = range(FIRST_CHIP, FIRST_CHIP + options.chips)
        masks = tuple((rate, chip) for rate in options.ber for chip in chips)
        size = math.inf
    else:
        count = sample_size(population.size, options)
        positions = draws.sample(draws.stream("sample", options.seed), population.size, count)
    return Plan(options.faults, tuple(chosen), population, size, positions, masks)


def select(surfaces: Sequence[Surface], options: CampaignOptions) -> list[Surface]:
    """Return the surfaces that the filters of the options leave.

    Raises:
        OptionError: if they leave none; the message says what the model does have.
    """
    if not surfaces:
        raise OptionError("the model stores no parameters that bits could flip in")
    by_role = [surface for surface in surfaces if not options.roles or surface.role in options.roles]
    if not by_role:
        wanted = ", ".join(options.roles)
        present = ", ".join(sorted({str(surface.role) for surface in surfaces}))
        raise OptionError(f"--roles {wanted}: the model stores nothing in that role; it stores {present}")
    chosen = [surface for surface in by_role if fnmatch.fnmatchcase(surface.layer, options.layers)]
    if not chosen:
        example = ", ".join(list(dict.fromkeys(surface.layer for surface in by_role))[:3])
        raise OptionError(f"--layers {options.layers!r} matches no layer; layers are named like {example}")
    return chosen


def sample_size(population: int, options: CampaignOptions) -> int:
    """Return how many faults to draw from a population.

    Raises:
        OptionError: if more are asked for than there are.
    """
    if options.exhaustive:
        return population
    if options.samples is not None:
        if options.samples > population:
            raise OptionError(
                f"--samples {options.samples}: only {population} faults exist; give --exhaustive to take them all"
            )
        return options.samples
    margin = DEFAULT_MARGIN if options.margin is None else options.margin
    return min(population, math.ceil(planned_sample(population, margin, options.confidence)))
