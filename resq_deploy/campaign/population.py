"""Every fault a fault model can put into the chosen surfaces, numbered without gaps."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from resq_deploy.campaign.layouts import placed, true_cells
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.physical import Upsets
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import OptionError
from resq_deploy.faults import draws
from resq_deploy.faults.cells import Strikes
from resq_deploy.faults.fault import Edit, Op

_STUCK = {FaultModel.STUCK_AT_0: Op.SET0, FaultModel.STUCK_AT_1: Op.SET1}


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
        strikes: what a strike does to a cell.
        cells: the cells, in the order of their numbers.
        size: how many faults there are.
        bits: how many stored bits the cells cover.

    Raises:
        OptionError: if no fault is left, or it is not clear which cells are true ones.
        InputError: if the layout is no table, or leaves out a byte of the chosen surfaces.
    """

    def __init__(
        self, surfaces: Sequence[Surface], options: CampaignOptions, stored: Sequence[Surface] | None = None
    ) -> None:
        self._model = options.faults
        self._burst = options.burst
        self._seed = options.seed
        self.cells = [Cell(surface, bit) for surface in surfaces for bit in _positions(surface, options)]
        if not self.cells:
            wanted = f" at {', '.join(map(str, options.bits))}" if options.bits else ""
            longer = f" in bursts of {options.burst}" if options.faults is FaultModel.BURST else ""
            raise OptionError(f"--bits: no chosen tensor stores bits{wanted}{longer}")
        everything = surfaces if stored is None else stored
        place = placed(everything, surfaces, options)
        self.strikes = Strikes(options.flip_direction, true_cells(place, options))
        self._upsets = None
        if options.faults is FaultModel.CLUSTER:
            self._upsets = Upsets(everything, place, options, self.strikes)
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
        if self._model in _STUCK:
            return (Edit.of(tensor, [index], [cell.bit], _STUCK[self._model]),)
        first, width = index * cell.surface.width + cell.bit, cell.surface.width
        length = self._burst if self._model is FaultModel.BURST else 1
        return self.strikes.edits(tensor, np.arange(first, first + length), width, self._seed)

    def tensors(self, position: int) -> tuple[str, ...]:
        """Return the tensors that a fault hits, by its number."""
        if self._upsets:
            return tuple(dict.fromkeys(edit.tensor for edit in self.edits(position)))
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
