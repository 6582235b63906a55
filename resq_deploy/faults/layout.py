"""Where stored bits lie next to each other: the cells of a memory in rows and columns.

A file's tensors lie in memory one behind the other, each beginning at a 64-bit word of its own, which are the words
that an error-correcting code counts by. A bit's address is its place in that string of bits. What one particle upsets
is not neighbours in this string, but in the array of cells: a layout says which cell holds which bit.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

WORD = 64
"""Bits of a word, that codes protect and that interleaving sets apart."""

_NOWHERE = -1

Integers = NDArray[np.int64]


class Layout(Protocol):
    """The cells of a memory."""

    def cell(self, address: Integers) -> tuple[Integers, Integers]:
        """Return row and column of the cells that hold some bits; -1 for bits that no cell holds. [n] each."""

    def address(self, row: Integers, column: Integers) -> Integers:
        """Return which bits some cells hold; -1 for cells that are not there. [n] each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interleaved:
    """All cells in one row, words interleaved: the first bits of `ways` words, then their second bits, and so on.

    With one way, words lie one behind the other, as the file has them. Up to `ways` neighbouring cells then belong to
    different words (Baeg et al., SRAM Interleaving Distance Selection, IEEE TNS 56(4), 2009). Where the last words are
    fewer than that, cells between theirs hold nothing.

    Attributes:
        bits: of the memory, whole words.
        ways: how many words are interleaved.
    """

    bits: int
    ways: int = 1

    def cell(self, address: Integers) -> tuple[Integers, Integers]:
        """Return row and column of the cells that hold some bits; -1 for bits that are not there."""
        block, inside = np.divmod(address, self.ways * WORD)
        word, bit = np.divmod(inside, WORD)
        there = (address >= 0) & (address < self.bits)
        column = block * self.ways * WORD + bit * self.ways + word
        return np.where(there, 0, _NOWHERE), np.where(there, column, _NOWHERE)

    def address(self, row: Integers, column: Integers) -> Integers:
        """Return which bits some cells hold; -1 for cells that hold none."""
        block, inside = np.divmod(column, self.ways * WORD)
        bit, word = np.divmod(inside, self.ways)
        address = (block * self.ways + word) * WORD + bit
        return np.where((row == 0) & (column >= 0) & (address < self.bits), address, _NOWHERE)


class Lined(Layout, Protocol):
    """Cells in several rows, which share lines and fail together."""

    def rows(self) -> Integers:
        """Return the numbers of the rows, ascending."""

    def columns(self) -> Integers:
        """Return the numbers of the columns, ascending."""

    def in_row(self, row: int) -> Integers:
        """Return the addresses of the bits that a row holds."""

    def in_column(self, column: int) -> Integers:
        """Return the addresses of the bits that a column holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folded:
    """Words one behind the other in rows of the same width; `Lined`.

    Attributes:
        bits: of the memory, whole words.
        width: cells of a row.
    """

    bits: int
    width: int

    def cell(self, address: Integers) -> tuple[Integers, Integers]:
        """Return row and column of the cells that hold some bits; -1 for bits that are not there."""
        row, column = np.divmod(address, self.width)
        there = (address >= 0) & (address < self.bits)
        return np.where(there, row, _NOWHERE), np.where(there, column, _NOWHERE)

    def address(self, row: Integers, column: Integers) -> Integers:
        """Return which bits some cells hold; -1 for cells that are not there."""
        address = row * self.width + column
        there = (row >= 0) & (column >= 0) & (column < self.width) & (address < self.bits)
        return np.where(there, address, _NOWHERE)

    def rows(self) -> Integers:
        """Return the numbers of the rows."""
        return np.arange(-(-self.bits // self.width))

    def columns(self) -> Integers:
        """Return the numbers of the columns."""
        return np.arange(min(self.width, self.bits))

    def in_row(self, row: int) -> Integers:
        """Return the addresses of the bits that a row holds."""
        return np.arange(row * self.width, min((row + 1) * self.width, self.bits))

    def in_column(self, column: int) -> Integers:
        """Return the addresses of the bits that a column holds."""
        return np.arange(column, self.bits, self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbouring bytes of the memory that lie in neighbouring cells of one row.

    Attributes:
        first: address of the first bit; a whole byte.
        bytes: how many bytes.
        row: of the cells.
        column: of the first cell.
        true: whether they are true cells, which read 1 while they are charged; None where that is not known.
    """

    first: int
    bytes: int
    row: int
    column: int
    true: bool | None = None

    @property
    def bits(self) -> int:
        """How many cells it has."""
        return 8 * self.bytes


class Mapped:
    """Cells as a table has them: runs of bytes in rows and columns; `Lined`.

    Args:
        runs: what lies where.

    Raises:
        ValueError: if two runs share a bit or a cell; holds the places of both.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._by_bit = sorted(range(len(runs)), key=lambda place: runs[place].first)
        self._by_cell = sorted(range(len(runs)), key=lambda place: (runs[place].row, runs[place].column))
        for before, after in itertools.pairwise(self._by_bit):
            if runs[before].first + runs[before].bits > runs[after].first:
                raise ValueError(*sorted((before, after)), "bytes")
        for before, after in itertools.pairwise(self._by_cell):
            left, right = runs[before], runs[after]
            if left.row == right.row and left.column + left.bits > right.column:
                raise ValueError(*sorted((before, after)), "cells")
        self._first, self._bits = (
            np.array([getattr(runs[place], name) for place in self._by_bit], dtype=np.int64)
            for name in ("first", "bits")
        )
        self._rows, self._columns = (
            np.array([getattr(run, name) for run in runs], dtype=np.int64) for name in ("row", "column")
        )
        self._of_row: dict[int, tuple[Integers, Integers]] = {}
        for row, places in itertools.groupby(self._by_cell, key=lambda place: runs[place].row):
            inside = np.array(list(places))
            self._of_row[row] = inside, self._columns[inside]

    def cell(self, address: Integers) -> tuple[Integers, Integers]:
        """Return row and column of the cells that hold some bits; -1 for bits that no cell holds."""
        run, offset, there = self._held(address)
        return np.where(there, self._rows[run], _NOWHERE), np.where(there, self._columns[run] + offset, _NOWHERE)

    def true(self, address: Integers) -> NDArray[np.bool_]:
        """Return which bits true cells hold; not those that no cell holds."""
        run, _, there = self._held(address)
        return np.asarray(there & np.array([bool(one.true) for one in self._runs])[run])

    def _held(self, address: Integers) -> tuple[Integers, Integers, NDArray[np.bool_]]:
        """Return the run that holds each bit, how far from its first, and whether it does hold it."""
        place = np.searchsorted(self._first, address, side="right") - 1
        offset = address - self._first[place]
        return np.array(self._by_bit)[place], offset, (place >= 0) & (offset < self._bits[place])

    def address(self, row: Integers, column: Integers) -> Integers:
        """Return which bits some cells hold; -1 for cells that are not there."""
        return np.array(
            [self._address(*cell) for cell in zip(row.tolist(), column.tolist(), strict=True)], dtype=np.int64
        )

    def _address(self, row: int, column: int) -> int:
        places, columns = self._of_row.get(row, (np.empty(0, np.int64), np.empty(0, np.int64)))
        at = int(np.searchsorted(columns, column, side="right")) - 1
        if at < 0:
            return _NOWHERE
        run = self._runs[int(places[at])]
        return run.first + column - run.column if column < run.column + run.bits else _NOWHERE

    @property
    def has_kinds(self) -> bool:
        """Whether it is known which cells are true ones."""
        return any(run.true is not None for run in self._runs)

    def rows(self) -> Integers:
        """Return the numbers of the rows that hold anything, ascending."""
        return np.unique(self._rows)

    def columns(self) -> Integers:
        """Return the numbers of the columns that hold anything, ascending."""
        spans = [np.arange(run.column, run.column + run.bits) for run in self._runs]
        return np.unique(np.concatenate(spans))

    def in_row(self, row: int) -> Integers:
        """Return the addresses of the bits that a row holds."""
        runs = [self._runs[place] for place in self._of_row[row][0].tolist()]
        return np.concatenate([np.arange(run.first, run.first + run.bits) for run in runs])

    def in_column(self, column: int) -> Integers:
        """Return the addresses of the bits that a column holds."""
        rows = self.rows()
        found = self.address(rows, np.full_like(rows, column))
        return found[found >= 0]


class Memory:
    """The tensors of a file in the order in which they are stored.

    Args:
        sizes: stored bits of each tensor, by its name.

    Attributes:
        bits: of all, whole words.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._names = list(sizes)
        words = [-(-bits // WORD) for bits in sizes.values()]
        self._starts = WORD * np.cumsum([0, *words])
        self._sizes = np.array(list(sizes.values()), dtype=np.int64)
        self._place = {name: number for number, name in enumerate(self._names)}
        self.bits = int(self._starts[-1])

    def address(self, tensor: str, bit: int) -> int:
        """Return the address of a bit of a tensor, counted from its first."""
        return int(self._starts[self._place[tensor]]) + bit

    def split(self, addresses: Iterable[int]) -> dict[str, list[int]]:
        """Return the bits of each tensor at some addresses, counted from its first; what lies between is left out."""
        wanted = np.fromiter(addresses, dtype=np.int64)
        places = np.searchsorted(self._starts, wanted, side="right") - 1
        inside = (places >= 0) & (places < len(self._names))
        wanted, places = wanted[inside], places[inside]
        bits = wanted - self._starts[places]
        held = bits < self._sizes[places]
        bits, places = bits[held], places[held]
        # Tensors in the order in which they are met, as edits are: a line or an upset need not ascend.
        met, first = np.unique(places, return_index=True)
        return {self._names[place]: bits[places == place].tolist() for place in met[np.argsort(first)].tolist()}
