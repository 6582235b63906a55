"""One self-contained HTML page: opens from disk, asks no host for anything."""

import dataclasses
import importlib.resources
import json
from collections.abc import Sequence

import jinja2
import plotly.graph_objects as go
import plotly.offline

from resq_deploy.report.figures import as_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table: `headers` and `rows` of text; the first column names the row."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        text: paragraphs above table and plot; plain text.
        table: figures in words.
        figure: the plot.
        description: what the plot shows, for readers who cannot see it.
    """

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    figure: go.Figure | None = None
    description: str = ""


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML.

    Args:
        title: heading and window title.
        lead: what the page is about, in a sentence or two.
        sections: the parts, in order.
    """
    templates = importlib.resources.files("resq_deploy.report") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((templates / "page.html").read_text(encoding="utf-8"))
    figures = [as_json(section.figure) if section.figure is not None else None for section in sections]
    needs_plotly = any(figure is not None for figure in figures)
    return template.render(
        title=title,
        lead=lead,
        sections=list(zip(sections, figures, strict=True)),
        plotly_js=plotly.offline.get_plotlyjs() if needs_plotly else "",
        plot_options=json.dumps({"responsive": True, "displaylogo": False, "displayModeBar": "hover"}),
    )
