"""Which way strikes turn cells, in the words of reports and of the command line."""

from collections.abc import Mapping
from typing import Any

LAID_OUT = "layout"
"""What `summary.json` says of true cells that a table names."""
_ROWS = "rows:"
_ENDS = {"0to1": "0 to 1", "1to0": "1 to 0"}


def way_told(summary: Mapping[str, Any]) -> str:
    """Return which way strikes of a fault campaign turn cells; nothing where they flip whatever they find.

    Args:
        summary: of its run, as in `summary.json`.
    """
    if not (direction := summary.get("flip_direction")):
        return ""
    cells = summary.get("true_cells")
    if ends := _ENDS.get(direction):
        told = f"only from {ends}"
        return told if cells is None else f"{told} in true cells and the other way in anti cells, {_kinds(cells)}"
    share = f"{float(direction.removeprefix('1to0:')):.4g}"
    told = f"from 1 to 0 with a probability of {share}, else from 0 to 1"
    return told if cells is None else f"in true cells {told}, in anti cells the other way round, {_kinds(cells)}"


def strikes_told(summary: Mapping[str, Any]) -> str:
    """Return what becomes of strikes on cells that hold already what they would turn to, where that is so.

    Args:
        summary: of a fault campaign's run, as in `summary.json`.
    """
    changed = summary["population"].get("changed")
    told = "a strike on a bit that has that value already counts, and changes nothing"
    return told if changed is None else f"{told}, so that {100 * changed:.3g} % of all strikes change their bit"


def _kinds(cells: str) -> str:
    """Return which cells are true ones, as a summary has it."""
    if cells == LAID_OUT:
        return "which the table of the memory's layout tells apart"
    if cells.startswith(_ROWS):
        return f"{cells.removeprefix(_ROWS)} rows of each by turns"
    return f"{float(cells):.4g} of the cells being true"
