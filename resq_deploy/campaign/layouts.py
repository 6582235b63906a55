"""Where the bits of a file lie in the memory that a campaign is about, and which of its cells are true ones."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence

from resq_deploy.campaign.options import ADJACENT, FOLDED, INTERLEAVED, CampaignOptions, FaultModel
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import InputError, OptionError
from resq_deploy.faults.cells import ByRows, Drawn, Tabled, TrueOf
from resq_deploy.faults.layout import Folded, Interleaved, Layout, Lined, Mapped, Memory, Run

_NEEDED = ("tensor", "byte", "bytes", "row", "column")
_KINDS = "cells"
_TRUE = {"true": True, "anti": False}


@dataclasses.dataclass(frozen=True)
class Placed:
    """A file in a memory.

    Attributes:
        memory: where tensors lie.
        layout: where their bits lie.
    """

    memory: Memory
    layout: Layout


def placed(stored: Sequence[Surface], chosen: Sequence[Surface], options: CampaignOptions) -> Placed:
    """Return where the bits of a file lie.

    Args:
        stored: all that the file stores, in its order.
        chosen: the surfaces that must lie somewhere.
        options: the layout.

    Raises:
        InputError: if the layout is no table, or leaves out a byte of the chosen surfaces.
    """
    name, memory = options.memory_layout, Memory({surface.tensor: surface.bits for surface in stored})
    if name == ADJACENT:
        return Placed(memory, Interleaved(bits=memory.bits))
    if name.startswith(INTERLEAVED):
        return Placed(memory, Interleaved(bits=memory.bits, ways=int(name.removeprefix(INTERLEAVED))))
    return Placed(memory, lined(name, memory, stored, chosen))


def lined(name: str, memory: Memory, stored: Sequence[Surface], chosen: Sequence[Surface]) -> Lined:
    """Return a layout with rows.

    Args:
        name: `rows:BYTES`, or the path of a table.
        memory: where tensors lie.
        stored: all that the file stores, in its order.
        chosen: the surfaces that must lie somewhere.

    Raises:
        InputError: if the layout is no table, or leaves out a byte of the chosen surfaces.
    """
    if name.startswith(FOLDED):
        return Folded(bits=memory.bits, width=8 * int(name.removeprefix(FOLDED)))
    return _read(pathlib.Path(name), memory, stored, chosen)


def true_cells(place: Placed, options: CampaignOptions) -> TrueOf | None:
    """Return which cells are true ones; None where all are.

    Raises:
        OptionError: if a table says so as well, or is given for that and does not.
    """
    asked, layout = options.true_cells, place.layout
    tabled = isinstance(layout, Mapped) and layout.has_kinds
    if tabled and options.flip_direction.falling is None:
        raise OptionError(
            f"--memory-layout: the table says in column {_KINDS!r} which way cells lose their charge: give "
            "--flip-direction 1to0 for strikes that take it, or leave the column out"
        )
    if tabled and asked is not None:
        raise OptionError(f"--true-cells {asked}: the table of --memory-layout says so in column {_KINDS!r}: give one")
    if isinstance(layout, Mapped) and tabled:
        return Tabled(place.memory, layout)
    if asked is None:
        if isinstance(layout, Mapped) and options.faults is not FaultModel.CLUSTER:
            raise OptionError(
                f"--memory-layout: {options.faults} faults take from a table which cells are true ones, and it has no "
                f"column {_KINDS!r} (true or anti): add it, or leave the table out"
            )
        return None
    if asked.rows is not None:
        return ByRows(place.memory, layout, asked.rows)
    return None if asked.share is None else Drawn(asked.share, options.seed)


def _read(path: pathlib.Path, memory: Memory, stored: Sequence[Surface], anchors: Sequence[Surface]) -> Mapped:
    """Read a layout: `tensor,byte,bytes,row,column[,cells]`, so many bytes from one on, from a column of cells on.

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
    return Run(first=memory.address(tensor, 8 * first), bytes=count, **place, true=_kind(row, where))


def _kind(row: Mapping[str, str | None], where: str) -> bool | None:
    if _KINDS not in row:
        return None
    kind = (row[_KINDS] or "").strip()
    if kind not in _TRUE:
        raise InputError(f"{where}: {_KINDS} {kind!r} of {row['tensor']!r}: give {' or '.join(_TRUE)}")
    return _TRUE[kind]


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
