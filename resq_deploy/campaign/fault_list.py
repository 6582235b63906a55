"""Fault lists: `tensor,index,bit` and, optionally, `fault`, `op` and `value`; other columns are ignored."""

import collections
import csv
import hashlib
import io
import pathlib
from collections.abc import Mapping, Sequence

from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import InputError
from resq_deploy.faults.fault import Edit, Fault, Op

_NEEDED = ("tensor", "index", "bit")

_Row = tuple[str, Op, int, int, int | None]


def read_fault_list(path: pathlib.Path, surfaces: Sequence[Surface]) -> tuple[list[str], list[Fault], str]:
    """Read a fault list for a model.

    Rows that share a value of `fault` are applied together; without that column every row is a fault of its own.

    Returns:
        The label of each fault, the faults in the order of their first row, and the SHA-256 of the file.

    Raises:
        InputError: naming the row, if a tensor is unknown, an index or bit out of range, a row repeated, an
            operation unknown or a value missing; or if the file has no rows or another header.
    """
    try:
        text = path.read_bytes()
        content = text.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read fault list {path}: {error}") from error
    try:
        reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)  # quoted fields may hold line ends
        header = reader.fieldnames or ()
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"fault list {path} is no CSV file ({error})") from error
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InputError(f"fault list {path} has no column {missing[0]!r}: its header must name tensor,index,bit")
    known = {surface.tensor: surface for surface in surfaces}
    groups: dict[str, list[_Row]] = {}
    named: dict[str, _Bits] = collections.defaultdict(_Bits)
    for number, row in enumerate(rows, start=2):  # the header is row 1
        where = f"fault list {path}, row {number}"
        label = (row.get("fault") or "") if "fault" in header else str(number - 2)
        parsed = _parse(row, known, where)
        named[label if "fault" in header else ""].name(parsed, number, where)
        groups.setdefault(label, []).append(parsed)
    if not groups:
        raise InputError(f"fault list {path} has no rows")
    faults = [Fault(number, _edits(group)) for number, group in enumerate(groups.values())]
    return list(groups), faults, hashlib.sha256(text).hexdigest()


def _parse(row: Mapping[str, str | None], known: Mapping[str, Surface], where: str) -> _Row:
    surface = known.get(row["tensor"] or "")
    if surface is None:
        raise InputError(f"{where}: the model stores no tensor {row['tensor']!r}")
    try:
        op = Op(row.get("op") or "flip")
    except ValueError as error:
        raise InputError(f"{where}: unknown op {row['op']!r}; give flip, set0, set1 or word") from error
    index = _whole(row["index"], "index", surface.elements, surface, where)
    if op is Op.WORD:
        return surface.tensor, op, index, 0, _whole(row.get("value"), "value", 1 << surface.width, surface, where)
    return surface.tensor, op, index, _whole(row["bit"], "bit", surface.width, surface, where), None


def _whole(text: str | None, what: str, limit: int, surface: Surface, where: str) -> int:
    try:
        value = int(text or "")
    except ValueError as error:
        raise InputError(f"{where}: {what} {text!r} is not a whole number") from error
    if not 0 <= value < limit:
        raise InputError(
            f"{where}: {what} {value} of {surface.tensor!r} is out of range; it runs from 0 to {limit - 1}"
        )
    return value


class _Bits:
    """Which bits rows have named already: two flips of one bit would cancel out."""

    def __init__(self) -> None:
        self._bits: dict[tuple[str, int, int], int] = {}
        self._elements: dict[tuple[str, int], int] = {}
        self._words: dict[tuple[str, int], int] = {}

    def name(self, row: _Row, number: int, where: str) -> None:
        """Note the bit of a row, or the whole element of a word."""
        tensor, op, index, bit, _ = row
        element = (tensor, index)
        same = self._elements if op is Op.WORD else self._words
        earlier = same.get(element, self._bits.get((*element, bit)))
        if earlier is not None:
            raise InputError(f"{where} repeats row {earlier}: {tensor!r}, index {index}, bit {bit}")
        self._elements[element] = number
        if op is Op.WORD:
            self._words[element] = number
        else:
            self._bits[(*element, bit)] = number


def _edits(rows: Sequence[_Row]) -> tuple[Edit, ...]:
    """Turn the rows of one fault into one edit a tensor and operation, in order of appearance."""
    groups: dict[tuple[str, Op], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row[0], row[1]), []).append(row)
    return tuple(
        Edit.of(
            tensor,
            [row[2] for row in members],
            [row[3] for row in members],
            op,
            [row[4] for row in members if row[4] is not None],
        )
        for (tensor, op), members in groups.items()
    )
