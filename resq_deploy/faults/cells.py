"""Which way the cells of a memory turn when they are struck: directions, and true and anti cells.

A cell of DRAM reads 1 (true cell) or 0 (anti cell) while it is charged, and loses its charge more easily than it gains
any: true cells then go from 1 to 0, anti cells from 0 to 1 (Liu et al., "An Experimental Study of Data Retention
Behavior in Modern DRAM Devices", ISCA 2013). What a strike does is decided by the cell alone: it is a function of the
tensor, the bit, and a seed or a layout, and of nothing that was drawn before. A strike on a cell that holds what it
would turn to changes nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults import draws
from resq_deploy.faults.fault import Edit, Op
from resq_deploy.faults.layout import Layout, Mapped, Memory

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

TrueOf = Callable[[str, Integers], Flags]
"""Returns which bits of a tensor, counted from its first, lie in true cells. [n] each."""


@dataclasses.dataclass(frozen=True)
class Direction:
    """Which way strikes turn true cells; anti cells turn the other way.

    Attributes:
        falling: probability that a strike turns a cell from 1 to 0, and not from 0 to 1; None where it flips whatever
            the cell holds.
    """

    falling: float | None

    BOTH: ClassVar["Direction"]
    UP: ClassVar["Direction"]
    DOWN: ClassVar["Direction"]

    def __str__(self) -> str:
        return {None: "both", 0.0: "0to1", 1.0: "1to0"}.get(self.falling, f"1to0:{self.falling!r}")


Direction.BOTH = Direction(None)
Direction.UP = Direction(0.0)
Direction.DOWN = Direction(1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrueCells:
    """Which cells are true ones; one of the two.

    Attributes:
        share: each cell with this probability, by the seed.
        rows: so many rows, by turns with as many of anti cells, from the first row on.
    """

    share: float | None = None
    rows: int | None = None

    def __str__(self) -> str:
        return repr(self.share) if self.rows is None else f"rows:{self.rows}"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Cells of which each is a true one with the same probability; `TrueOf`.

    Attributes:
        share: the probability.
        seed: two seeds are two memories.
    """

    share: float
    seed: int

    def __call__(self, tensor: str, bit: Integers) -> Flags:
        """Return which bits lie in true cells."""
        return np.asarray(draws.placed("true-cells", self.seed, tensor, at=bit) < self.share)


@dataclasses.dataclass(frozen=True)
class ByRows:
    """Rows of true and of anti cells by turns; `TrueOf`.

    Attributes:
        memory: where tensors lie.
        layout: in which rows.
        rows: how many of one kind, before as many of the other.
    """

    memory: Memory
    layout: Layout
    rows: int

    def __call__(self, tensor: str, bit: Integers) -> Flags:
        """Return which bits lie in true cells."""
        row, _ = self.layout.cell(self.memory.address(tensor, 0) + bit)
        return np.asarray(row // self.rows % 2 == 0)


@dataclasses.dataclass(frozen=True)
class Tabled:
    """True and anti cells as a table has them; `TrueOf`.

    Attributes:
        memory: where tensors lie.
        layout: the table.
    """

    memory: Memory
    layout: Mapped

    def __call__(self, tensor: str, bit: Integers) -> Flags:
        """Return which bits lie in true cells."""
        return self.layout.true(self.memory.address(tensor, 0) + bit)


@dataclasses.dataclass(frozen=True)
class Strikes:
    """What strikes do to the cells of a memory.

    Attributes:
        direction: which way they turn true cells.
        true: which cells are true ones; None for all.
    """

    direction: Direction = Direction.BOTH
    true: TrueOf | None = None

    def falls(self, tensor: str, bit: Integers, *of: object) -> Flags:
        """Return which strikes turn their cells from 1 to 0, where they do not flip whatever they find.

        Args:
            tensor: its name.
            bit: what is struck, counted from the tensor's first bit. [n]
            of: what the directions are drawn by, beside the bit: the seed, or a chip's number.
        """
        falling = self.direction.falling
        assert falling is not None
        discharged: Flags = draws.placed("directions", *of, tensor, at=bit) < falling
        return discharged if self.true is None else np.asarray(discharged == self.true(tensor, bit))

    def edits(self, tensor: str, bit: Integers, width: int, *of: object) -> tuple[Edit, ...]:
        """Return what strikes do, an edit for each way that some of them go.

        Args:
            tensor: its name.
            bit: what is struck, counted from the tensor's first bit. [n]
            width: bits of an element.
            of: as for `falls`.
        """
        if self.direction.falling is None:
            return (Edit(tensor, Op.FLIP, *np.divmod(bit, width)),)
        falls = self.falls(tensor, bit, *of)
        ways = ((Op.SET0, bit[falls]), (Op.SET1, bit[~falls]))
        return tuple(Edit(tensor, op, *np.divmod(found, width)) for op, found in ways if len(found))
