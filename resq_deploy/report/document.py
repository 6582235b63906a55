"""What a report is made of, free of how it is drawn or written: sections of paragraphs, tables and plots."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

JsonEstimate = Mapping[str, Any]
"""A figure with its interval, as in the file formats: `value`, `low`, `high`, `n`, `confidence`.

Value and upper end are None where the lower end alone is known.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notice:
    """A paragraph that nobody may overlook, such as a failed check."""

    kind: ClassVar[str] = "notice"
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """How to read the plots that follow; left out where plots are."""

    kind: ClassVar[str] = "caption"
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commands:
    """What to type into a shell, to the letter.

    Attributes:
        lines: one command each.
        folded: where not empty, they are folded away under this line.
    """

    kind: ClassVar[str] = "commands"
    lines: Sequence[str]
    folded: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list of statements."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; the first column names the row.

    Attributes:
        headers: one a column.
        rows: as many texts each as there are headers.
        folded: where not empty, the table is folded away under this line.
    """

    kind: ClassVar[str] = "table"
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Figures of one thing, such as a file, along the positions or rows of a plot.

    Attributes:
        name: what it stands for.
        estimates: a fraction with interval for each position or row; None where there is none.
        x: the positions, for a line.
        dots: further points without interval, such as single chips: (position, fraction).
    """

    name: str
    estimates: Sequence[JsonEstimate | None]
    x: Sequence[float] = ()
    dots: Sequence[tuple[float, float]] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines with markers, and a band for the intervals; y in per cent.

    Attributes:
        series: the lines.
        x_title: what the positions are.
        y_title: what the figures are.
        description: what is to be seen, for readers who cannot see it.
        log_x: whether positions are drawn on a logarithmic axis.
    """

    kind: ClassVar[str] = "plot"
    series: Sequence[Series]
    x_title: str
    y_title: str
    description: str
    log_x: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dots:
    """A dot and its interval for each row and series; x in per cent.

    Attributes:
        rows: names of the rows, from the top.
        series: figures for the rows, in order.
        x_title: what the figures are.
        description: what is to be seen, for readers who cannot see it.
        log_x: whether figures are drawn on a logarithmic axis; zeros then are open dots at its lower end.
    """

    kind: ClassVar[str] = "plot"
    rows: Sequence[str]
    series: Sequence[Series]
    x_title: str
    description: str
    log_x: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Shares by two properties, by colour on a logarithmic scale.

    Attributes:
        rows: names of the rows, from the top.
        columns: names of the columns, from the left.
        shares: fractions, shape [rows][columns]; None where nothing was measured.
        counts: how many units each share rests on, shape [rows][columns].
        x_title: what the columns are.
        scale_title: what the shares are.
        description: what is to be seen, for readers who cannot see it.
    """

    kind: ClassVar[str] = "plot"
    rows: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float | None]]
    counts: Sequence[Sequence[int]]
    x_title: str
    scale_title: str
    description: str


Plot = Lines | Dots | HeatMap
Block = str | Notice | Caption | Commands | Bullets | Table | Plot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report.

    Attributes:
        title: its heading; says the finding where there is one.
        topic: what it is about, in a word or two; may be empty.
        blocks: its paragraphs, notices, tables and plots, in order.
    """

    title: str
    topic: str = ""
    blocks: Sequence[Block] = ()


class Tone(enum.StrEnum):
    """What a statement is to its reader."""

    ALARM = "alarm"
    """Figures that must not be used."""
    FAILED = "failed"
    """Something was asked for, and is not so."""
    HARM = "harm"
    """It was shown that the file does not withstand something."""
    OPEN = "open"
    """The figures leave it open, or say it of some attacks or chips alone."""
    SHOWN = "shown"
    """It was shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """What figures say, in a sentence or two of plain words.

    Attributes:
        about: the file or network that it is about.
        tone: what it is to its reader.
        label: the same in a word or two.
        text: the statement, with its bound.
        reservations: what it does not say, each a phrase or a sentence.
    """

    about: str
    tone: Tone
    label: str
    text: str
    reservations: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a report comes to: it stands before everything else.

    Attributes:
        statements: those that nobody may overlook first.
        grounds: what all of them rest on: level, machine, arithmetic, and what was not looked at.
    """

    statements: Sequence[Statement]
    grounds: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report.

    Attributes:
        title: its heading.
        lead: what it is about, in a sentence or two.
        sections: its parts, in order.
        verdict: what it comes to; None where there is nothing to say.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    verdict: Verdict | None = None
