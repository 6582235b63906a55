"""Every fault a fault model can put into the chosen surfaces, numbered without gaps."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from resq_deploy.campaign.options import CampaignOptions, Direction, FaultModel
from resq_deploy.campaign.physical import Upsets
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import OptionError
from resq_deploy.faults import draws
from resq_deploy.faults.fault import Edit, Op

_STUCK = {FaultModel.STUCK_AT_0: Op.SET0, FaultModel.STUCK_AT_1: Op.SET1}

STRIKES = {Direction.BOTH: Op.FLIP, Direction.UP: Op.SET1, Direction.DOWN: Op.SET0}
"""What a strike does to a cell, by the direction in which bits may flip: one that holds the value keeps it."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """All faults at one bit position of one surface: one for each element.

    Attributes:
        surface: the tensor.
        bit: the position; of a burst its lowest bit; of a word 0; of an upset of several cells where it begins.
    """

    surface: Surface
    bit: int

    def group(self, key: str) -> str:
        """Return the cell's role, layer or bit (`key`: role, layer or bit) as text."""
        return str(self.bit) if key == "bit" else str(getattr(self.surface, key))


class Population:
    """The faults of a model over surfaces. The numbers run through cells, and within a cell through the elements.

    Args:
        surfaces: the chosen surfaces.
        options: fault model, burst length, bit positions and seed.
        stored: all that the file stores, which upsets of several cells may reach; None for the chosen surfaces.

    Attributes:
        cells: the cells, in the order of their numbers.
        size: how many faults there are.
        bits: how many stored bits the cells cover.

    Raises:
        OptionError: if no fault is left.
    """

    def __init__(
        self, surfaces: Sequence[Surface], options: CampaignOptions, stored: Sequence[Surface] | None = None
    ) -> None:
        self._model = options.faults
        self._strike = STRIKES[options.flip_direction]
        self._burst = options.burst
        self._seed = options.seed
        self.cells = [Cell(surface, bit) for surface in surfaces for bit in _positions(surface, options)]
        if not self.cells:
            wanted = f" at {', '.join(map(str, options.bits))}" if options.bits else ""
            longer = f" in bursts of {options.burst}" if options.faults is FaultModel.BURST else ""
            raise OptionError(f"--bits: no chosen tensor stores bits{wanted}{longer}")
        self._upsets = None
        if options.faults is FaultModel.CLUSTER:
            self._upsets = Upsets(surfaces if stored is None else stored, surfaces, options, self._strike)
        self._ends = np.cumsum([cell.surface.elements for cell in self.cells], dtype=np.int64)
        self.size = int(self._ends[-1])
        self.bits = sum(
            surface.elements * sum(1 for bit in range(surface.width) if not options.bits or bit in options.bits)
            for surface in surfaces
        )

    def cell_of(self, position: int) -> Cell:
        """Return the cell that a fault's number lies in."""
        return self.cells[int(np.searchsorted(self._ends, position, side="right"))]

    def edits(self, position: int) -> tuple[Edit, ...]:
        """Return what a fault does, by its number."""
        place = int(np.searchsorted(self._ends, position, side="right"))
        cell = self.cells[place]
        index = position - (int(self._ends[place]) - cell.surface.elements)
        tensor = cell.surface.tensor
        if self._upsets:
            return self._upsets.edits(tensor, index * cell.surface.width + cell.bit)
        if self._model is FaultModel.WORD:
            # The value belongs to the word and not to the order of drawing, so that a sample is part of a larger one.
            source = draws.stream("word", self._seed, tensor, index)
            value = int(draws.words(source, cell.surface.width, 1)[0])
            return (Edit.of(tensor, [index], [0], Op.WORD, [value]),)
        length = self._burst if self._model is FaultModel.BURST else 1
        op = _STUCK.get(self._model, self._strike)
        return (Edit.of(tensor, [index] * length, list(range(cell.bit, cell.bit + length)), op),)

    def tensors(self, position: int) -> tuple[str, ...]:
        """Return the tensors that a fault hits, by its number."""
        if self._upsets:
            return tuple(edit.tensor for edit in self.edits(position))
        return (self.cell_of(position).surface.tensor,)

    def starts(self) -> list[int]:
        """Return the first number of each cell."""
        return [int(end) - cell.surface.elements for end, cell in zip(self._ends, self.cells, strict=True)]


def _positions(surface: Surface, options: CampaignOptions) -> list[int]:
    """Return the bit positions of a surface at which the fault model can act."""
    allowed = {bit for bit in range(surface.width) if not options.bits or bit in options.bits}
    if options.faults is FaultModel.WORD:
        return [0] if len(allowed) == surface.width else []
    length = options.burst if options.faults is FaultModel.BURST else 1
    return [bit for bit in sorted(allowed) if all(bit + step in allowed for step in range(length))]
