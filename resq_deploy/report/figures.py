"""Plots drawn by plotly, their intervals with them, for light and dark pages and colour-blind readers.

Colours of text, axes and grid are the page's (its style sheet); those of the data are drawn here and are legible on
both of its backgrounds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from resq_deploy.report.document import Dots, HeatMap, JsonEstimate, Lines, Plot, Series
from resq_deploy.report.text import rate

# After Okabe and Ito: told apart with every common colour vision; the light ones darkened, so that each has a contrast
# of 3 or more on white and on the page's dark grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#C7619A", "#9A7B00", "#7C8088")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_LONGEST_LABEL = 22
_ROW_HEIGHT = 26
_FEW = 100  # between the ends of a logarithmic axis: decades alone would be too few ticks
_LOWEST = -6  # no share below 1e-6 is worth room on a logarithmic axis


def draw(plot: Plot) -> go.Figure:
    """Draw a plot."""
    if isinstance(plot, Lines):
        return _lines(plot)
    return _dots(plot) if isinstance(plot, Dots) else _heat_map(plot)


def _lines(plot: Lines) -> go.Figure:
    """Each line has its own colour, marker and dash, so that it can be told apart without colour, too."""
    figure = go.Figure()
    for place, line in enumerate(plot.series):
        colour = PALETTE[place % len(PALETTE)]
        known = [(x, e) for x, e in zip(line.x, line.estimates, strict=True) if e is not None]
        positions = [x for x, _ in known]
        if line.dots:
            figure.add_trace(_single(line, colour))
        figure.add_trace(_band(line.name, known, colour))
        figure.add_trace(
            go.Scatter(
                x=positions,
                y=[100 * estimate["value"] for _, estimate in known],
                mode="lines+markers",
                name=line.name,
                legendgroup=line.name,
                line={"color": colour, "dash": _DASHES[place % len(_DASHES)]},
                marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8, "color": colour},
                text=[_interval(estimate) for _, estimate in known],
                hovertemplate="%{x}: %{text}<extra>" + line.name + "</extra>",
            )
        )
    figure.update_xaxes(title=plot.x_title, **_line_axis(plot))
    figure.update_yaxes(title=plot.y_title, range=[-2, 102])
    return _styled(figure, 380, len(plot.series))


def _line_axis(plot: Lines) -> dict[str, Any]:
    """Return the ticks of the axis of positions; a logarithmic one of few decades names the positions drawn."""
    if not plot.log_x:
        return {"type": "linear"}
    drawn = sorted({x for line in plot.series for x in line.x})
    if drawn and drawn[-1] < _FEW * drawn[0]:
        return {"type": "log", "tickvals": drawn, "ticktext": [rate(x) for x in drawn]}
    return {"type": "log", "dtick": 1, "exponentformat": "power"}


def _band(name: str, known: Sequence[tuple[float, JsonEstimate]], colour: str) -> go.Scatter:
    low = [100 * estimate["low"] for _, estimate in known]
    high = [100 * estimate["high"] for _, estimate in known]
    positions = [x for x, _ in known]
    return go.Scatter(
        x=[*positions, *reversed(positions)],
        y=[*high, *reversed(low)],
        mode="lines",
        fill="toself",
        fillcolor=_translucent(colour, 0.18),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
    )


def _single(line: Series, colour: str) -> go.Scatter:
    """Draw the points without interval: small, and pale enough to stay behind the line."""
    return go.Scatter(
        x=[x for x, _ in line.dots],
        y=[100 * value for _, value in line.dots],
        mode="markers",
        marker={"color": _translucent(colour, 0.35), "size": 5},
        name=line.name,
        legendgroup=line.name,
        showlegend=False,
        hovertemplate="%{x}: %{y:.2f} %<extra>" + line.name + ", one chip</extra>",
    )


def _dots(plot: Dots) -> go.Figure:
    figure = go.Figure()
    rows = len(plot.rows)
    floor = _floor(plot) if plot.log_x else 0.0
    step = 0.7 / len(plot.series) if plot.series else 0.0
    for place, series in enumerate(plot.series):
        offset = step * (place - (len(plot.series) - 1) / 2)
        known = [(row, e) for row, e in enumerate(series.estimates) if e is not None]
        figure.add_trace(_dotted(series.name, known, place, offset, floor, plot))
    figure.update_xaxes(title=plot.x_title, type="log" if plot.log_x else "linear")
    if plot.log_x:
        top = max((e["high"] for s in plot.series for e in s.estimates if e is not None), default=1.0)
        ticks = [10.0**power for power in range(math.floor(math.log10(floor)), 3)]
        figure.update_xaxes(
            range=[math.log10(floor) - 0.08, max(math.log10(100 * top), math.log10(floor) + 1) + 0.08],
            tickvals=ticks,
            ticktext=[f"{tick:g}" for tick in ticks],
        )
    else:
        figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(
        tickvals=list(range(rows)),
        ticktext=[_shortened(name) for name in plot.rows],
        range=[rows - 0.4, -0.6],
        zeroline=False,
    )
    height = 110 + int(_ROW_HEIGHT * rows * max(1.0, 0.55 * len(plot.series)))
    figure.update_layout(showlegend=len(plot.series) > 1)
    return _styled(figure, height, len(plot.series))


def _dotted(
    name: str, known: Sequence[tuple[int, JsonEstimate]], place: int, offset: float, floor: float, plot: Dots
) -> go.Scatter:
    """Draw one series of dots with their intervals; zeros on a logarithmic axis as open dots at its lower end."""
    colour, symbol = PALETTE[place % len(PALETTE)], SYMBOLS[place % len(SYMBOLS)]
    values = [max(floor, 100 * estimate["value"]) for _, estimate in known]
    seen = [not plot.log_x or 100 * estimate["value"] >= floor for _, estimate in known]
    return go.Scatter(
        x=values,
        y=[row + offset for row, _ in known],
        mode="markers",
        name=name,
        marker={"color": colour, "size": 9, "symbol": [symbol if s else f"{symbol}-open" for s in seen]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, 100 * e["high"] - v) for (_, e), v in zip(known, values, strict=True)],
            "arrayminus": [v - max(floor, min(v, 100 * e["low"])) for (_, e), v in zip(known, values, strict=True)],
            "color": colour,
            "thickness": 2,
            "width": 4,
        },
        text=[f"{plot.rows[row]}: {_interval(estimate)}" for row, estimate in known],
        hovertemplate="%{text}<extra>" + name + "</extra>",
    )


def _floor(plot: Dots) -> float:
    """Return the lower end of a logarithmic axis in per cent: the decade below the least figure that is no zero."""
    shown = [
        e[end] for s in plot.series for e in s.estimates if e is not None for end in ("value", "low") if e[end] > 0
    ]
    least = math.floor(math.log10(min(shown))) if shown else -3
    return float(100 * 10.0 ** max(least, _LOWEST))


def _heat_map(plot: HeatMap) -> go.Figure:
    least = min((s for row in plot.shares for s in row if s), default=1e-3)
    floor = max(math.floor(math.log10(least)), _LOWEST) + 2  # in per cent
    ticks = list(range(floor, 3))
    pairs = [list(zip(row, counts, strict=True)) for row, counts in zip(plot.shares, plot.counts, strict=True)]
    figure = go.Figure(
        go.Heatmap(
            x=list(plot.columns),
            z=[[None if s is None else _power(s, floor) for s in row] for row in plot.shares],
            zmin=floor,
            zmax=2,
            xgap=1,
            ygap=1,
            colorscale="Cividis",
            colorbar={
                "title": {"text": plot.scale_title, "side": "top"},
                "orientation": "h",
                "y": 1.0,
                "yanchor": "bottom",
                "thickness": 12,
                "tickvals": ticks,
                "ticktext": [f"{10.0**power:g} %" for power in ticks],
            },
            text=[[f"{name}, {_share(*cell)}" for cell in row] for name, row in zip(plot.rows, pairs, strict=True)],
            hovertemplate="%{text} (%{x})<extra></extra>",
        )
    )
    figure.update_xaxes(title=plot.x_title, type="category", showgrid=False)
    figure.update_yaxes(
        tickvals=list(range(len(plot.rows))),
        ticktext=[_shortened(name) for name in plot.rows],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    figure = _styled(figure, 130 + 20 * len(plot.rows), 1)
    return figure.update_layout(margin={"t": 72})


def _power(share: float, floor: int) -> float:
    """Return log10 of a share in per cent, not below a floor."""
    return max(floor, math.log10(100 * share)) if share > 0 else floor


def _share(share: float | None, count: int) -> str:
    return "nothing measured" if share is None else f"{100 * share:.3g} %, n = {count:,}"


def as_json(figure: go.Figure) -> str:
    """Return a figure as JSON that is safe inside a script element."""
    text: str = figure.to_json()
    return text.replace("</", "<\\/")


def _styled(figure: go.Figure, height: int, names: int) -> go.Figure:
    """Give a figure the looks all share; a legend of several lines needs room above the plot."""
    room = 28 + 20 * names if names > 1 else 16
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 16, "t": room, "b": 52},
        legend={"orientation": "v", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hovermode="closest",
        font={"family": "system-ui, sans-serif"},
        modebar={"bgcolor": "rgba(0,0,0,0)"},
        height=height + room,
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def _shortened(name: str) -> str:
    """Shorten a long name in its middle, so that a plot on a phone keeps room for its data."""
    if len(name) <= _LONGEST_LABEL:
        return name
    kept = _LONGEST_LABEL - 1
    return f"{name[: kept // 3]}…{name[-(kept - kept // 3) :]}"


def _interval(estimate: Mapping[str, Any]) -> str:
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.3g} % [{low:.3g}, {high:.3g}], n = {estimate['n']:,}"


def _translucent(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
