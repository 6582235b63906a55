"""One self-contained HTML page: opens from disk, asks no host for anything."""

import importlib.resources
import itertools
import re
from collections.abc import Sequence

import jinja2
import markupsafe

from resq_deploy.report.document import Document, Plot, Statement
from resq_deploy.report.figures import NARROW, WIDE, as_svg, draw
from resq_deploy.report.glossary import mark

_FILES = ("page.html", "page.css", "page.js")
_LONG_WORD = 24
_INTERVAL = re.compile(r"\[[^\[\]]*\d\]")


def render(document: Document) -> str:
    """Return a report as HTML."""
    folder = importlib.resources.files("resq_deploy.report") / "templates"
    html, css, script = ((folder / name).read_text(encoding="utf-8") for name in _FILES)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"has_long_word": _has_long_word, "words": _Words(), "by_file": _by_file}
    return environment.from_string(html).render(
        document=document,
        css=css,
        script=script,
        figures=_figures,
    )


def _by_file(statements: Sequence[Statement]) -> list[tuple[str, list[Statement]]]:
    """Group neighbouring statements about the same."""
    return [(about, list(group)) for about, group in itertools.groupby(statements, key=lambda one: one.about)]


def _has_long_word(text: str) -> bool:
    """Return whether a word must be broken to fit a narrow column, as digests must."""
    return max(map(len, text.split()), default=0) > _LONG_WORD


class _Words:
    """Text as a page shows it: the ends of an interval on one line, each term with its meaning where it comes first."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, text: str) -> markupsafe.Markup:
        plain = _INTERVAL.sub(r'<span class="together">\g<0></span>', str(markupsafe.escape(text)))
        return markupsafe.Markup(mark(plain, self._seen, _marked))


def _marked(term: str, meaning: str) -> str:
    return f'<abbr title="{markupsafe.escape(meaning)}">{term}</abbr>'


def _figures(plot: Plot) -> dict[str, str]:
    """Return a plot as SVG, by the width of the page that shows it."""
    return {"wide": as_svg(draw(plot, WIDE)), "narrow": as_svg(draw(plot, NARROW))}
