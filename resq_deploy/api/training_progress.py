"""Training progress on standard error: a line an epoch, and within it a bar on a terminal or lines in a log."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from resq_deploy.progress import Pace

if TYPE_CHECKING:
    from resq_deploy.hardening.events import Event, Report, StepDone


@contextlib.contextmanager
def training_progress() -> Iterator["Report"]:
    """Show training on standard error until left; yields the callback to report to."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from resq_deploy.hardening.events import EpochDone, Measuring, StepDone

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task, pace = progress.add_task(""), Pace(time.monotonic())

        def report(event: "Event") -> None:
            if isinstance(event, StepDone):
                done = (event.epoch - 1) * event.steps + event.step
                total = event.epochs * event.steps
                progress.update(task, description=_describe_step(event), completed=done, total=total)
                line = pace.line(_describe_step(event), done, total, "steps", time.monotonic())
                if line is not None and not console.is_terminal:
                    console.print(line, markup=False)
            elif isinstance(event, Measuring):
                progress.update(task, description=event.what, completed=event.done, total=event.total)
            elif isinstance(event, EpochDone):
                console.print(_describe_epoch(event.record, event.epochs, best=event.best), markup=False)
            else:
                console.print(event.message, markup=False)

        yield report


def _describe_step(event: "StepDone") -> str:
    return (
        f"{event.stage} {event.epoch}/{event.epochs}  loss {event.loss:.3f}  "
        f"accuracy {100 * event.accuracy:.1f} %  {event.images_per_second:,.0f} images/s"
    )


def _describe_epoch(record: Mapping[str, Any], epochs: int, *, best: bool) -> str:
    shown = (("clean_accuracy", "clean"), ("robust_accuracy", "robust"), ("faulty_accuracy", "faulty"))
    figures = "  ".join(f"{label} {100 * record[key]:.1f} %" for key, label in shown if key in record)
    return (
        f"{record['stage']} {record['epoch']}/{epochs}  loss {record['loss']:.3f}  {figures}  "
        f"{record['images_per_second']:,.0f} images/s  {record['seconds']:.0f} s{'  best' if best else ''}"
    )
