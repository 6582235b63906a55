"""One self-contained HTML page: opens from disk, asks no host for anything."""

import importlib.resources
import re

import jinja2
import markupsafe

from resq_deploy.report.document import Document, Plot
from resq_deploy.report.figures import NARROW, WIDE, as_svg, draw

_FILES = ("page.html", "page.css", "page.js")
_LONG_WORD = 24
_INTERVAL = re.compile(r"\[[^\[\]]*\d\]")


def render(document: Document) -> str:
    """Return a report as HTML."""
    folder = importlib.resources.files("resq_deploy.report") / "templates"
    html, css, script = ((folder / name).read_text(encoding="utf-8") for name in _FILES)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"has_long_word": _has_long_word, "intervals": _intervals}
    return environment.from_string(html).render(
        document=document,
        css=css,
        script=script,
        figures=_figures,
    )


def _has_long_word(text: str) -> bool:
    """Return whether a word must be broken to fit a narrow column, as digests must."""
    return max(map(len, text.split()), default=0) > _LONG_WORD


def _intervals(text: str) -> markupsafe.Markup:
    """Keep the ends of an interval on one line."""
    return markupsafe.Markup(_INTERVAL.sub(r'<span class="interval">\g<0></span>', str(markupsafe.escape(text))))


def _figures(plot: Plot) -> dict[str, str]:
    """Return a plot as SVG, by the width of the page that shows it."""
    return {"wide": as_svg(draw(plot, WIDE)), "narrow": as_svg(draw(plot, NARROW))}
