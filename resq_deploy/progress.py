"""Progress on standard error: a bar on a terminal, and a plain line every so often where a log is written."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FIRST_LINE = 10.0
"""Seconds until the first line: what is done by then needs none."""
_BETWEEN = 30.0
_OF_ELAPSED = 0.05
"""Lines come further apart as time goes by: a night of work is some dozens of them."""


class Pace:
    """When the next line of progress is due, and how long the rest will take.

    Args:
        now: seconds, by any clock that goes forward.
    """

    def __init__(self, now: float) -> None:
        self._begin = now
        self._due = now + FIRST_LINE
        self._first: tuple[float, float] | None = None
        self._last = 0.0

    def line(self, what: str, done: float, total: float | None, unit: str, now: float) -> str | None:
        """Return a line on how far the work is, or None where none is due yet.

        Args:
            what: what is being done.
            done: units that are; those of an earlier session, which were done at the first call, took no time here.
            total: of how many; None where that is not known.
            unit: what they are, in the plural.
            now: by the same clock.
        """
        if self._first is None or done < self._last:  # a stage of its own begins anew
            self._first = now, done
        self._last = done
        if now < self._due:
            return None
        elapsed = now - self._begin
        self._due = now + max(_BETWEEN, _OF_ELAPSED * elapsed)
        if not total:
            return f"{what}: {done:,.0f} {unit}, {_clock(elapsed)} passed"
        share = f"{done:,.0f} of {total:,.0f} {unit} ({100 * done / total:.0f} %)"
        return f"{what}: {share}, {_clock(elapsed)} passed{self._left(done, total, now)}"

    def _left(self, done: float, total: float, now: float) -> str:
        begun, before = self._first or (now, done)
        if done <= before or now <= begun:
            return ""
        return f", about {_clock((total - done) * (now - begun) / (done - before))} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def progress_bar(unit: str) -> Iterator["Progress"]:
    """Show progress on standard error, with speed and time left: a bar, or plain lines where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


def _lines(unit: str) -> "Progress":
    """Return what is told like a bar, and prints lines."""
    from rich.progress import Progress

    class Lines(Progress):
        def __init__(self) -> None:
            super().__init__(disable=True)
            self._pace = Pace(time.monotonic())

        def update(self, task_id: "TaskID", **fields: Any) -> None:
            super().update(task_id, **fields)
            self._tell(task_id)

        def advance(self, task_id: "TaskID", advance: float = 1) -> None:
            super().advance(task_id, advance)
            self._tell(task_id)

        def _tell(self, task_id: "TaskID") -> None:
            task = self._tasks[task_id]
            line = self._pace.line(task.description, task.completed, task.total, unit, time.monotonic())
            if line is not None:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()

    return Lines()
