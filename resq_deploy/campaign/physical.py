"""What upsets of several cells, and rows and columns that are stuck, do to stored bits that lie in a memory."""

from collections.abc import Sequence
from typing import overload

import numpy as np

from resq_deploy.campaign.layouts import Placed, lined
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.faults.cells import Strikes
from resq_deploy.faults.fault import Edit, Fault, Op
from resq_deploy.faults.layout import Memory
from resq_deploy.faults.upsets import pattern_of, struck


class Upsets:
    """Multi-cell upsets of a file.

    Args:
        stored: all that the file stores: an upset does not stop at what anchors were chosen from.
        place: where it lies.
        options: patterns, and the seed.
        strikes: what happens to a cell that is struck.
    """

    def __init__(self, stored: Sequence[Surface], place: Placed, options: CampaignOptions, strikes: Strikes) -> None:
        self._widths = {surface.tensor: surface.width for surface in stored}
        self._place, self._strikes = place, strikes
        self._patterns, self._seed = options.cluster_shares, options.seed

    def edits(self, tensor: str, bit: int) -> tuple[Edit, ...]:
        """Return what the upset that begins at a bit of a tensor does to each tensor that it strikes."""
        pattern, memory = pattern_of(self._patterns, tensor, bit), self._place.memory
        found = memory.split(struck(self._place.layout, memory.address(tensor, bit), pattern))
        return tuple(
            edit
            for name, bits in found.items()
            for edit in self._strikes.edits(name, np.array(bits), self._widths[name], self._seed)
        )


class Lines(Sequence[Fault]):
    """Rows or columns of a memory that are stuck, each a fault: all that hold something of the chosen surfaces.

    Args:
        stored: all that the file stores, in its order: a line does not end with what was chosen.
        chosen: the surfaces that lines are chosen by.
        options: fault model and layout.

    Attributes:
        labels: what the lines are called.

    Raises:
        InputError: if the layout is no table, or leaves out a byte of the chosen surfaces.
    """

    def __init__(self, stored: Sequence[Surface], chosen: Sequence[Surface], options: CampaignOptions) -> None:
        self._memory = Memory({surface.tensor: surface.bits for surface in stored})
        self._widths = {surface.tensor: surface.width for surface in stored}
        self._rows = options.faults in (FaultModel.STUCK_ROW_0, FaultModel.STUCK_ROW_1)
        self._op = Op.SET1 if options.faults in (FaultModel.STUCK_ROW_1, FaultModel.STUCK_COLUMN_1) else Op.SET0
        self._layout = lined(options.memory_layout, self._memory, stored, chosen)
        wanted = {surface.tensor for surface in chosen}
        every = (self._layout.rows() if self._rows else self._layout.columns()).tolist()
        self._lines = [line for line in every if wanted & self._bits(line).keys()]
        self.labels = tuple(f"{'row' if self._rows else 'column'} {line}" for line in self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, number: int) -> Fault: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Fault]: ...

    def __getitem__(self, number: int | slice) -> Fault | Sequence[Fault]:
        """Return the fault of a line; made when asked for, as all of them together name every bit that is stored."""
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        found = self._bits(self._lines[number])
        return Fault(number, tuple(edit for tensor, bits in found.items() for edit in self._edits(tensor, bits)))

    def _bits(self, line: int) -> dict[str, list[int]]:
        held = self._layout.in_row(line) if self._rows else self._layout.in_column(line)
        return self._memory.split(held.tolist())

    def _edits(self, tensor: str, bits: Sequence[int]) -> list[Edit]:
        """Return what a line does to a tensor: whole elements are replaced, of others bits are set."""
        width = self._widths[tensor]
        index, bit = np.divmod(np.asarray(bits, dtype=np.int64), width)
        elements, counts = np.unique(index, return_counts=True)
        whole = elements[counts == width]
        left = ~np.isin(index, whole)
        value = (1 << width) - 1 if self._op is Op.SET1 else 0
        words = Edit.of(tensor, whole.tolist(), [0] * len(whole), Op.WORD, [value] * len(whole))
        parts = Edit(tensor, self._op, index[left], bit[left])
        return [edit for edit in (words, parts) if len(edit.index)]
