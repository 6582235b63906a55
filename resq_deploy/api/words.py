"""Figures and names in words, as one line of a terminal or of a log can hold them."""

import math
from collections.abc import Mapping
from typing import Any


def percent(estimate: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Write an estimate as `value % [low, high]`; where no value is known, as `at least low %`, or `low to high %`."""
    if estimate is None:
        return "no run"
    if estimate["value"] is None:
        low = math.floor(100 * estimate["low"] * 10**digits) / 10**digits  # a bound is not rounded up
        if estimate["high"] is None:
            return f"at least {low:.{digits}f} %"
        return f"{low:.{digits}f} to {math.ceil(100 * estimate['high'] * 10**digits) / 10**digits:.{digits}f} %"
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.{digits}f} % [{low:.{digits}f}, {high:.{digits}f}]"


def printable(name: str) -> str:
    """Return a name as it can stand in one line of a terminal: line ends and the like as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def figure_name(figure: str) -> str:
    """Return what a quality figure of `summary.json` or a sidecar is called: of `map50` mAP@50."""
    from resq_deploy.faults.judges.words import FIGURES

    return FIGURES[figure]


def way_told(summary: Mapping[str, Any]) -> str:
    """Return which way strikes of a fault campaign turn cells; nothing where they flip whatever they find.

    Args:
        summary: as in `summary.json`.
    """
    from resq_deploy.faults.cell_words import way_told

    return way_told(summary)


def strikes_told(summary: Mapping[str, Any]) -> str:
    """Return what becomes of strikes on cells that hold already what they would turn to, where that is so.

    Args:
        summary: as in `summary.json`.
    """
    from resq_deploy.faults.cell_words import strikes_told

    return strikes_told(summary)


def outcome_meanings(judge: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what each outcome means, in the words of the task.

    Args:
        judge: as in `summary.json`: name and options.
    """
    from resq_deploy.faults.judges.words import meanings

    return meanings(judge)
