"""Plots with their intervals drawn, for light and dark pages and colour-blind readers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito's palette: told apart with every common colour vision, on white and on dark grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a plot.

    Attributes:
        name: what it stands for, in the legend.
        x: positions.
        estimates: a figure with interval for each position (`value`, `low`, `high`, `n`), fractions.
    """

    name: str
    x: Sequence[float]
    estimates: Sequence[Mapping[str, float]]


def lines(series: Sequence[Series], *, x_title: str, y_title: str, log_x: bool = False) -> go.Figure:
    """Draw lines with markers and a band for each interval; y in per cent.

    Each line has its own colour, marker and dash, so that it can be told apart without colour, too.
    """
    figure = go.Figure()
    for place, line in enumerate(series):
        colour = PALETTE[place % len(PALETTE)]
        low = [100 * estimate["low"] for estimate in line.estimates]
        high = [100 * estimate["high"] for estimate in line.estimates]
        figure.add_trace(
            go.Scatter(
                x=[*line.x, *reversed(line.x)],
                y=[*high, *reversed(low)],
                mode="lines",
                fill="toself",
                fillcolor=_translucent(colour),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=line.name,
            )
        )
        figure.add_trace(
            go.Scatter(
                x=list(line.x),
                y=[100 * estimate["value"] for estimate in line.estimates],
                mode="lines+markers",
                name=line.name,
                legendgroup=line.name,
                line={"color": colour, "dash": _DASHES[place % len(_DASHES)]},
                marker={"symbol": _SYMBOLS[place % len(_SYMBOLS)], "size": 8, "color": colour},
                text=[_interval(estimate) for estimate in line.estimates],
                hovertemplate="%{x}: %{text}<extra>" + line.name + "</extra>",
            )
        )
    figure.update_xaxes(title=x_title, type="log" if log_x else "linear", dtick=1 if log_x else None)
    figure.update_xaxes(exponentformat="power" if log_x else None)
    figure.update_yaxes(title=y_title, range=[-2, 102])
    return _styled(figure)


def bars(names: Sequence[str], groups: Sequence[Series], *, y_title: str) -> go.Figure:
    """Draw grouped bars, one group of bars a name, with their intervals; y in per cent.

    The positions of each series are not used: its estimates stand for `names`, in order.
    """
    figure = go.Figure()
    for place, group in enumerate(groups):
        values = [100 * estimate["value"] for estimate in group.estimates]
        figure.add_trace(
            go.Bar(
                x=list(names),
                y=values,
                name=group.name,
                marker={
                    "color": PALETTE[place % len(PALETTE)],
                    "pattern": {"shape": ("", "/", ".", "x")[place % 4]},
                },
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * e["high"] - v for e, v in zip(group.estimates, values, strict=True)],
                    "arrayminus": [v - 100 * e["low"] for e, v in zip(group.estimates, values, strict=True)],
                },
                text=[_interval(estimate) for estimate in group.estimates],
                textposition="none",
                hovertemplate="%{x}: %{text}<extra>" + group.name + "</extra>",
            )
        )
    figure.update_layout(barmode="group")
    figure.update_yaxes(title=y_title, rangemode="tozero")
    return _styled(figure)


def as_json(figure: go.Figure) -> str:
    """Return a figure as JSON that is safe inside a script element."""
    text: str = figure.to_json()
    return text.replace("</", "<\\/")


def _styled(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 16, "t": 16, "b": 52},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)"},
        height=380,
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def _interval(estimate: Mapping[str, Any]) -> str:
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.2f} % [{low:.2f}, {high:.2f}], n = {estimate['n']}"


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
