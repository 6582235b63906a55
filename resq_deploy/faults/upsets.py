"""Multi-cell upsets: one particle turns several neighbouring cells of a memory.

Which patterns occur, and how often, belongs to a technology, a supply voltage and a particle: shares are given. A
pattern is a rectangle of cells, rows x columns, and begins at its anchor, the cell with the lowest row and column.
Anchors are drawn as single flips are. A pattern belongs to its anchor and the shares alone, whatever the seed: there is
one population of upsets, which a sample is part of, and two files with the same tensors meet the same ones. What of a
pattern lies beyond the edge of the memory, or where no cell is, strikes nothing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from resq_deploy.faults import draws
from resq_deploy.faults.layout import Layout


@dataclasses.dataclass(frozen=True, order=True)
class Pattern:
    """A pattern of cells, and how often it occurs.

    Attributes:
        rows: how many rows it spans.
        columns: how many columns.
        share: of all upsets, in (0, 1]; the shares of all patterns sum to 1.
    """

    rows: int
    columns: int
    share: float


def pattern_of(patterns: Sequence[Pattern], tensor: str, bit: int) -> Pattern:
    """Return the pattern of the upset that begins at a bit of a tensor."""
    drawn = float(draws.uniforms(draws.stream("upset", tensor, bit), 1)[0])
    ends = np.cumsum([pattern.share for pattern in patterns])
    return patterns[min(int(np.searchsorted(ends, drawn, side="right")), len(patterns) - 1)]


def struck(layout: Layout, anchor: int, pattern: Pattern) -> list[int]:
    """Return the addresses of the bits that an upset turns, row by row; none where no cell holds the anchor."""
    row, column = (int(place[0]) for place in layout.cell(np.array([anchor])))
    if row < 0:
        return []
    rows, columns = np.divmod(np.arange(pattern.rows * pattern.columns), pattern.columns)
    found = layout.address(row + rows, column + columns)
    return [address for address in found.tolist() if address >= 0]
