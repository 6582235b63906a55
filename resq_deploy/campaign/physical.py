"""What upsets of several cells, and rows and columns that are stuck, do to stored bits that lie in a memory."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

from resq_deploy.campaign.options import ADJACENT, FOLDED, INTERLEAVED, CampaignOptions, FaultModel
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import InputError
from resq_deploy.faults.fault import Edit, Fault, Op
from resq_deploy.faults.layout import Folded, Interleaved, Layout, Lined, Mapped, Memory, Run
from resq_deploy.faults.upsets import pattern_of, struck

_NEEDED = ("tensor", "byte", "bytes", "row", "column")


class Upsets:
    """Multi-cell upsets of a file.

    Args:
        stored: all that the file stores, in its order: an upset does not stop at what anchors were chosen from.
        anchors: the surfaces that upsets begin in.
        options: layout and patterns.
        op: what happens to a cell that is struck.

    Raises:
        InputError: if the layout is no table, or leaves out a byte that upsets may begin in.
    """

    def __init__(self, stored: Sequence[Surface], anchors: Sequence[Surface], options: CampaignOptions, op: Op) -> None:
        self._memory = Memory({surface.tensor: surface.bits for surface in stored})
        self._widths = {surface.tensor: surface.width for surface in stored}
        self._patterns, self._op = options.cluster_shares, op
        self._layout = _layout(options.memory_layout, self._memory, stored, anchors)

    def edits(self, tensor: str, bit: int) -> tuple[Edit, ...]:
        """Return what the upset that begins at a bit of a tensor does, one edit for each tensor that it strikes."""
        pattern = pattern_of(self._patterns, tensor, bit)
        found = self._memory.split(struck(self._layout, self._memory.address(tensor, bit), pattern))
        return tuple(
            Edit.of(
                name, [bit // self._widths[name] for bit in bits], [bit % self._widths[name] for bit in bits], self._op
            )
            for name, bits in found.items()
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
        self._layout = _lined(options.memory_layout, self._memory, stored, chosen)
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


def _lined(name: str, memory: Memory, stored: Sequence[Surface], chosen: Sequence[Surface]) -> Lined:
    if name.startswith(FOLDED):
        return Folded(bits=memory.bits, width=8 * int(name.removeprefix(FOLDED)))
    return _read(pathlib.Path(name), memory, stored, chosen)


def _layout(name: str, memory: Memory, stored: Sequence[Surface], anchors: Sequence[Surface]) -> Layout:
    if name == ADJACENT:
        return Interleaved(bits=memory.bits)
    if name.startswith(INTERLEAVED):
        return Interleaved(bits=memory.bits, ways=int(name.removeprefix(INTERLEAVED)))
    return _lined(name, memory, stored, anchors)


def _read(path: pathlib.Path, memory: Memory, stored: Sequence[Surface], anchors: Sequence[Surface]) -> Mapped:
    """Read a layout: `tensor,byte,bytes,row,column`, so many bytes from one on, from a column of cells on.

    Raises:
        InputError: naming the row.
    """
    sizes = {surface.tensor: -(-surface.bits // 8) for surface in stored}
    where = f"memory layout {path}"
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        header, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {where}: {error}") from error
    except csv.Error as error:
        raise InputError(f"{where} is no CSV file ({error})") from error
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InputError(f"{where} has no column {missing[0]!r}: its header must name {','.join(_NEEDED)}")
    runs = [_run(row, memory, sizes, f"{where}, row {number}") for number, row in enumerate(rows, start=2)]
    try:
        layout = Mapped(runs)
    except ValueError as error:
        first, second, what = error.args
        raise InputError(f"{where}, row {second + 2}: {what} of row {first + 2} again") from error
    _check_whole(where, runs, memory, anchors)
    return layout


def _run(row: Mapping[str, str | None], memory: Memory, sizes: Mapping[str, int], where: str) -> Run:
    tensor = row["tensor"] or ""
    if tensor not in sizes:
        raise InputError(f"{where}: the model stores no tensor {tensor!r}")
    first = _whole(row, "byte", sizes[tensor] - 1, where)
    count = _whole(row, "bytes", sizes[tensor] - first, where, least=1)
    place = {name: _whole(row, name, None, where) for name in ("row", "column")}
    return Run(first=memory.address(tensor, 8 * first), bytes=count, row=place["row"], column=place["column"])


def _whole(row: Mapping[str, str | None], name: str, most: int | None, where: str, least: int = 0) -> int:
    try:
        value = int(row[name] or "")
    except ValueError as error:
        raise InputError(f"{where}: {name} {row[name]!r} is not a whole number") from error
    if value < least or (most is not None and value > most):
        bounds = f"from {least} up" if most is None else f"from {least} to {most}"
        raise InputError(f"{where}: {name} {value} of {row['tensor']!r} is out of range; give {bounds}")
    return value


def _check_whole(where: str, runs: Sequence[Run], memory: Memory, anchors: Sequence[Surface]) -> None:
    """Check that every byte that upsets may begin in lies somewhere.

    Raises:
        InputError: naming the first that does not.
    """
    ordered = sorted(runs, key=lambda run: run.first)
    for surface in anchors:
        at, end = memory.address(surface.tensor, 0), memory.address(surface.tensor, surface.bits)
        begin = at
        for run in ordered:
            if run.first <= at < run.first + run.bits:
                at = run.first + run.bits
        if at < end:
            raise InputError(f"{where}: byte {(at - begin) // 8} of {surface.tensor!r} lies nowhere: give it a row")
