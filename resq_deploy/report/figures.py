"""Plots as matplotlib figures, their intervals with them, and as SVG for light and dark pages and colour-blind readers.

The page needs no script to show them. Colours of text and grid are the page's (its style sheet): SVG names no colour
for black text, and the lines of the grid have a class. Those of the data are drawn here and are legible on both of its
backgrounds. What a mark stands for is said in words where a pointer rests on it.
"""

import io
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from resq_deploy.report.document import Dots, HeatMap, JsonEstimate, Lines, Plot, Series
from resq_deploy.report.text import rate

# After Okabe and Ito: told apart with every common colour vision; the light ones darkened, so that each has a contrast
# of 3 or more on white and on the page's dark grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#C7619A", "#9A7B00", "#7C8088")
SYMBOLS = ("o", "s", "D", "^", "X", "*")
WIDE = 9.2
"""Inches of a plot on a desktop's page, or on paper."""
NARROW = 4.4
"""Inches of the same on a phone, so that its words need not shrink."""

_DASHES = ("-", "--", ":", "-.", (0, (8, 3)), (0, (8, 3, 2, 3)))
_LONGEST_LABEL = 22
_MOST_CELLS = 4000  # some 200 bytes each
_FEW = 100  # between the ends of a logarithmic axis: decades alone would be too few ticks
_LOWEST = -6  # no share below 1e-6 is worth room on a logarithmic axis
_LINES_HEIGHT, _ROW_HEIGHT, _CELL_HEIGHT, _LINE_OF_TEXT = 3.3, 0.27, 0.19, 0.19  # inches
_GRID, _TOLD = "grid", "told:"
_STYLE: Any = {
    "font.size": 9,
    "text.parse_math": False,  # a name may hold dollars
    "svg.fonttype": "none",
    "svg.hashsalt": "resq-deploy",  # the same plot has the same bytes
}
_NEEDLESS = re.compile(r"\s*\n\s*|font-family: [^;\"]*; ?| transform=\"rotate\(-0 [^\"]*\"|; stroke-linejoin: miter")
"""What the page says once for all of them, and what says nothing."""
_DIGITS = re.compile(r"(\.\d\d)\d+")
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def draw(plot: Plot, width: float = WIDE) -> Figure:
    """Draw a plot, so many inches wide."""
    with mpl.rc_context(_STYLE):
        if isinstance(plot, Lines):
            return _lines(plot, width)
        return _dots(plot, width) if isinstance(plot, Dots) else _heat_map(plot, width)


def as_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for a page: without size, and with what its marks stand for as titles."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    stream = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the reader's fonts may have it
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    for parent in list(root.iter()):
        if "d" in parent.attrib:
            parent.set("d", _DIGITS.sub(r"\1", parent.attrib["d"]))
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):  # a style would be that of the whole page
                parent.remove(child)
        _name(parent)
    return _NEEDLESS.sub("", ElementTree.tostring(root, encoding="unicode"))


def _name(element: ElementTree.Element) -> None:
    """Turn the name that a group was drawn by into a class or a title: on a page of many plots it is no longer one."""
    if element.tag != f"{{{_SVG}}}g":
        return
    name = element.attrib.pop("id", "")
    if name == _GRID:
        element.set("class", _GRID)
    elif name.startswith(_TOLD):
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = name.removeprefix(_TOLD)
        element.insert(0, title)


def _blank(width: float, height: float, names: Sequence[str]) -> tuple[Figure, Axes]:
    """Return a figure without any line but those of the grid; names that a legend shows need room."""
    room = _LINE_OF_TEXT * len(names) if len(names) > 1 else 0.0
    figure = Figure(figsize=(width, height + room), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.minorticks_off()
    axes.set_axisbelow(True)
    return figure, axes


def _finished(figure: Figure, axes: Axes, names: Sequence[str]) -> Figure:
    """Name the lines of the grid, which the page colours, and the series, where there are several."""
    for line in (*axes.get_xgridlines(), *axes.get_ygridlines()):
        line.set_gid(_GRID)
    if len(names) > 1:
        figure.legend(loc="outside upper left", frameon=False, borderaxespad=0.0, labelspacing=0.3)
    return figure


def _lines(plot: Lines, width: float) -> Figure:
    """Each line has its own colour, marker and dash, so that it can be told apart without colour, too."""
    names = [line.name for line in plot.series]
    figure, axes = _blank(width, _LINES_HEIGHT, names)
    axes.set_xscale("log" if plot.log_x else "linear")
    for place, line in enumerate(plot.series):
        _line(axes, line, place)
    axes.set_xlabel(plot.x_title)
    axes.set_ylabel(plot.y_title)
    axes.set_ylim(-2, 102)
    axes.grid(visible=True, linewidth=0.6)
    if plot.log_x:
        ticks = _ticks(sorted({x for line in plot.series for x in line.x}))
        axes.set_xticks(ticks, [rate(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
    return _finished(figure, axes, names)


def _line(axes: Axes, line: Series, place: int) -> None:
    """Draw the single points first, small and pale, then the band, then the means."""
    colour, symbol = PALETTE[place % len(PALETTE)], SYMBOLS[place % len(SYMBOLS)]
    known = [(x, e) for x, e in zip(line.x, line.estimates, strict=True) if e is not None]
    if line.dots:
        across, up = zip(*line.dots, strict=True)
        axes.plot(across, 100 * np.array(up), linestyle="", marker=".", color=colour, alpha=0.35, markeredgewidth=0)
    positions = [x for x, _ in known]
    low, value, high = ([100 * estimate[key] for _, estimate in known] for key in ("low", "value", "high"))
    axes.fill_between(positions, low, high, color=colour, alpha=0.18, linewidth=0)
    style = _DASHES[place % len(_DASHES)]
    axes.plot(positions, value, linestyle=style, marker=symbol, markersize=5, color=colour, label=line.name)
    for (x, estimate), y in zip(known, value, strict=True):
        (mark,) = axes.plot([x], [y], marker=symbol, markersize=5, color=colour)
        mark.set_gid(f"{_TOLD}{line.name}, {x:g}: {_interval(estimate)}")


def _ticks(drawn: Sequence[float]) -> list[float]:
    """Return the ticks of a logarithmic axis: the positions drawn if they span few decades, else the decades."""
    if not drawn or drawn[-1] < _FEW * drawn[0]:
        return list(drawn)
    return [10.0**power for power in range(math.ceil(math.log10(drawn[0])), math.floor(math.log10(drawn[-1])) + 1)]


def _dots(plot: Dots, width: float) -> Figure:
    names, rows = [series.name for series in plot.series], len(plot.rows)
    height = max(1.4, 0.8 + rows * max(_ROW_HEIGHT, 0.13 * len(names)))
    figure, axes = _blank(width, height, names)
    floor = _floor(plot) if plot.log_x else 0.0
    step = 0.7 / len(names) if names else 0.0
    axes.set_xscale("log" if plot.log_x else "linear")
    for place, series in enumerate(plot.series):
        _row_marks(axes, plot, series, place, step * (place - (len(names) - 1) / 2), floor)
    axes.set_xlabel(plot.x_title)
    axes.set_yticks(range(rows), [_shortened(name) for name in plot.rows])
    axes.set_ylim(rows - 0.5, -0.5)
    axes.grid(visible=True, linewidth=0.6)
    if plot.log_x:
        top = max((e["high"] for s in plot.series for e in s.estimates if e is not None), default=1.0)
        last = math.log10(max(100 * top, 10 * floor))  # all faults tried, none of them harmful: the top is 0
        axes.set_xlim(floor * 0.85, 10.0 ** (last + 0.08))
        powers = range(round(math.log10(floor)), math.floor(last + 0.08) + 1)
        axes.set_xticks([10.0**power for power in powers], [f"{10.0**power:g}" for power in powers])
        axes.set_xticks([], minor=True)
    return _finished(figure, axes, names)


def _row_marks(axes: Axes, plot: Dots, series: Series, place: int, offset: float, floor: float) -> None:
    """Draw one series of dots with their intervals; zeros on a logarithmic axis as open dots at its lower end."""
    colour, symbol = PALETTE[place % len(PALETTE)], SYMBOLS[place % len(SYMBOLS)]
    axes.plot([], [], linestyle="", marker=symbol, color=colour, label=series.name)
    for row, estimate in enumerate(series.estimates):
        if estimate is None:
            continue
        value, low, high = (max(floor, 100 * estimate[key]) for key in ("value", "low", "high"))
        seen = not plot.log_x or 100 * estimate["value"] >= floor
        (bar,) = axes.plot([low, high], [row + offset] * 2, color=colour, linewidth=1.4, solid_capstyle="butt")
        (mark,) = axes.plot([value], [row + offset], marker=symbol, markersize=5.5, color=colour)
        if not seen:
            mark.set_markerfacecolor("none")
        for drawn in (bar, mark):
            drawn.set_gid(f"{_TOLD}{series.name}, {plot.rows[row]}: {_interval(estimate)}")


def _floor(plot: Dots) -> float:
    """Return the lower end of a logarithmic axis in per cent: the decade below the least figure that is no zero."""
    shown = [
        e[end] for s in plot.series for e in s.estimates if e is not None for end in ("value", "low") if e[end] > 0
    ]
    least = math.floor(math.log10(min(shown))) if shown else -3
    return float(100 * 10.0 ** max(least, _LOWEST))


def _heat_map(plot: HeatMap, width: float) -> Figure:
    least = min((s for row in plot.shares for s in row if s), default=1e-3)
    floor = min(max(math.floor(math.log10(least)), _LOWEST) + 2, 1)  # in per cent
    colours = mpl.colormaps["cividis"]
    figure, axes = _blank(width, 1.3 + _CELL_HEIGHT * len(plot.rows), ())
    known = np.array([[np.nan if s is None else _power(s, floor) for s in row] for row in plot.shares])
    painted = colours((known - floor) / (2 - floor))
    painted[np.isnan(known), 3] = 0.0
    if width <= NARROW or known.size > _MOST_CELLS:  # a phone has no pointer to rest on a cell
        axes.imshow(painted, aspect="auto", interpolation="none")
    else:
        _cells(axes, plot, painted)
    axes.set_xlim(-0.6, len(plot.columns) - 0.4)
    axes.set_ylim(len(plot.rows) - 0.4, -0.6)
    every = math.ceil(len(plot.columns) / 16) if width <= NARROW else 1
    axes.set_xticks(range(0, len(plot.columns), every), plot.columns[::every])
    axes.set_yticks(range(len(plot.rows)), [_shortened(name) for name in plot.rows])
    axes.set_xlabel(plot.x_title)
    scale = ScalarMappable(Normalize(floor, 2), colours)
    bar = figure.colorbar(scale, ax=axes, location="top", shrink=0.6, fraction=0.05, aspect=40, label=plot.scale_title)
    bar.set_ticks(list(range(floor, 3)), labels=[f"{10.0**power:g} %" for power in range(floor, 3)])
    bar.ax.spines[:].set_visible(False)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    return figure


def _cells(axes: Axes, plot: HeatMap, painted: NDArray[np.float64]) -> None:
    """Draw each cell by itself, so that it can say what it stands for."""
    for down, (name, shares, counts) in enumerate(zip(plot.rows, plot.shares, plot.counts, strict=True)):
        for across, (share, count) in enumerate(zip(shares, counts, strict=True)):
            if share is None:
                continue
            where = (across - 0.48, down - 0.46)
            cell = Rectangle(where, 0.96, 0.92, facecolor=tuple(painted[down, across]), linewidth=0, clip_on=False)
            cell.set_gid(f"{_TOLD}{name}, bit {plot.columns[across]}: {100 * share:.3g} %, n = {count:,}")
            axes.add_patch(cell)


def _power(share: float, floor: int) -> float:
    """Return log10 of a share in per cent, not below a floor."""
    return max(floor, math.log10(100 * share)) if share > 0 else floor


def _shortened(name: str) -> str:
    """Shorten a long name in its middle, so that a plot on a phone keeps room for its data."""
    if len(name) <= _LONGEST_LABEL:
        return name
    kept = _LONGEST_LABEL - 1
    return f"{name[: kept // 3]}…{name[-(kept - kept // 3) :]}"


def _interval(estimate: JsonEstimate | Mapping[str, Any]) -> str:
    """Write a figure with its interval; one that is no estimate has none."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    if "n" not in estimate:
        return f"{value:.3g} %"
    return f"{value:.3g} % [{low:.3g}, {high:.3g}], n = {estimate['n']:,}"
