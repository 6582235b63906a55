"""How figures are written in a report."""

import math
from collections.abc import Sequence
from typing import Any

from resq_deploy.report.document import JsonEstimate

NONE = "-"
_ROUNDING = 1e-9
"""A half-width in percentage points below this is the rounding of arithmetic, and deserves no digits."""


def percent(estimate: JsonEstimate | None) -> str:
    """Write a share as `value % [low, high]`, with as many digits as its interval deserves.

    Where no value is known, as `at least low %`, or `low to high %`.
    """
    if estimate is None:
        return NONE
    if estimate["value"] is None:
        if estimate["high"] is None:
            return f"at least {at_least(estimate['low'])}"
        return f"{_down(100 * estimate['low']):.3g} to {at_most(estimate['high'])}"
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    digits = _digits(max(high - value, value - low))
    return f"{value:.{digits}f} % [{low:.{digits}f}, {high:.{digits}f}]"


def points(estimate: JsonEstimate) -> str:
    """Write a difference of shares as `+value [low, high]`, in percentage points."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    digits = _digits(max(high - value, value - low))
    return f"{_zero(value, digits):+.{digits}f} [{_zero(low, digits):+.{digits}f}, {_zero(high, digits):+.{digits}f}]"


def at_most(high: float) -> str:
    """Write an upper bound of a share in per cent with two significant digits, rounded up: it must not claim more."""
    return f"{_up(100 * high):.3g} %"


def at_least(low: float) -> str:
    """Write a lower bound of a share in per cent with three significant digits, rounded down likewise."""
    return f"{_down(100 * low):.3g} %"


def _up(high: float) -> float:
    if high <= 0.0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(high)) - 1)
    return math.ceil(high / unit * (1.0 - 1e-12)) * unit


def _down(low: float) -> float:
    """Return a lower end with three significant digits, rounded down: it must not claim more."""
    if low <= 0.0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(low)) - 2)
    return math.floor(low / unit * (1.0 + 1e-12)) * unit


def _digits(half_width: float) -> int:
    """Return how many decimals show two digits of a half-width, from 1 to 4; 2 where there is no interval."""
    return 2 if half_width < _ROUNDING else min(4, max(1, 1 - math.floor(math.log10(half_width))))


def _zero(value: float, digits: int) -> float:
    return round(value, digits) + 0.0  # no -0.0


def share(value: float | None) -> str:
    """Write a fraction without interval in per cent, with three significant digits."""
    return NONE if value is None else f"{100 * value:.3g} %"


def quantity(estimate: JsonEstimate | None) -> str:
    """Write a figure that is no share as `value [low, high]`, with three significant digits.

    The upper end may be None; where no value is known, as `at least low`, or `low to high`.
    """
    if estimate is None:
        return NONE
    if estimate["value"] is None:
        low = f"{_down(estimate['low']):.3g}"
        return f"at least {low}" if estimate["high"] is None else f"{low} to {_up(estimate['high']):.3g}"
    high = "no upper end" if estimate["high"] is None else f"{estimate['high']:.3g}"
    return f"{estimate['value']:.3g} [{estimate['low']:.3g}, {high}]"


def rate(value: float) -> str:
    """Write a bit error rate, such as 1e-3 or 2.5e-4."""
    mantissa, _, exponent = f"{value:.6e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def probability(value: float | None) -> str:
    """Write a p-value."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None, what: str = "") -> str:
    """Write a whole number with thousands separated, and what it counts."""
    text = "unlimited" if value is None or math.isinf(value) else f"{int(value):,}"
    return f"{text} {what}".strip()


def counted(number: int, what: str) -> str:
    """Write a number and what it counts, in the plural where it must be."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(words: Sequence[Any], last: str = "and") -> str:
    """Join words by commas, the last by a conjunction."""
    texts = [str(word) for word in words]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {last} {texts[-1]}" if texts else ""


def short(digest: str | None) -> str:
    """Return the first twelve digits of a digest."""
    return digest[:12] if digest else NONE


def side_by_side(figures: Sequence[tuple[str, float, str]]) -> str:
    """Write figures of several runs for a heading; beyond three only the lowest and the highest.

    Args:
        figures: (run, figure, figure as text), one or more.
    """
    if len(figures) == 1:
        return figures[0][2]
    if len(figures) > 3:
        low, high = min(figures, key=lambda one: one[1]), max(figures, key=lambda one: one[1])
        return f"between {low[2]} ({low[0]}) and {high[2]} ({high[0]})"
    return listed([f"{text} ({run})" for run, _, text in figures])
