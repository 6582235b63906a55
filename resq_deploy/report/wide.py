"""Figures that say nothing, since their intervals are too wide: folded away, so that nobody reads them as findings."""

import dataclasses
from collections.abc import Sequence

from resq_deploy.report.document import JsonEstimate, Table

WIDEST = 0.5
"""An interval wider than this, as a share, says nothing that anybody could use."""


def folded_where_wide(table: Table, figures: Sequence[Sequence[JsonEstimate | None]], what: str) -> list[Table]:
    """Fold away the rows of a table that say nothing, since every interval in them is wider than 50 points.

    Args:
        table: the table.
        figures: of each row, those that it is about; None where there is none.
        what: what there are too few of.

    Returns:
        The table without them, unless that leaves none, and one of them alone.
    """
    wide = [bool(known := [one for one in row if one]) and all(map(too_wide, known)) for row in figures]
    if not any(wide):
        return [table]
    kept, lost = (
        [row for row, is_wide in zip(table.rows, wide, strict=True) if is_wide is side] for side in (False, True)
    )
    told = f"{len(lost)} of {len(wide)} rows: too few {what} to tell (intervals wider than 50 points)"
    inside = f"{table.folded}; {told}" if table.folded else told
    folded = dataclasses.replace(table, rows=lost, folded=inside)
    return [dataclasses.replace(table, rows=kept), folded] if kept else [folded]


def too_wide(estimate: JsonEstimate) -> bool:
    """Return whether an interval is so wide that its figure says nothing: beyond 50 points."""
    high = 1.0 if estimate["high"] is None else estimate["high"]
    return float(high - estimate["low"]) > WIDEST
