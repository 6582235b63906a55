"""Which differences between runs are real, and reports of runs."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resq_deploy.api.frames import pandas_or_error
from resq_deploy.api.given import PathLike, as_path
from resq_deploy.api.runs import Run
from resq_deploy.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    import pandas as pd

    from resq_deploy.report.build import Evidence
    from resq_deploy.report.difference import Difference

FORMATS = ("html", "json", "csv", "md")
"""What a report can be written as."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """What two campaigns differ in; second less first.

    Attributes:
        differences: figure by figure, each with its interval, a p value adjusted for their number, and a verdict.
        notes: what a reader must know to judge them.
    """

    differences: "Sequence[Difference]"
    notes: Sequence[str]

    def frame(self) -> "pd.DataFrame":
        """Return a row a figure.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        frame: pd.DataFrame = pandas_or_error().json_normalize([one.as_dict() for one in self.differences])
        return frame


def compare(first: PathLike | Run, second: PathLike | Run) -> Compared:
    """Compare two fault campaigns that judged the same faults on the same images, fault by fault and image by image.

    Raises:
        RunFolderError: if a folder cannot be read, or the campaigns cannot be compared.
    """
    evidence = _gathered([first, second], must_compare=True)
    (found,) = evidence.comparisons
    return Compared(differences=found.differences, notes=found.notes)


def write_report(
    runs: Sequence[PathLike | Run], out: PathLike, *, form: str | None = None, must_compare: bool = False
) -> None:
    """Write a report on finished runs.

    Args:
        runs: run folders.
        out: file to write.
        form: `html`, a page that needs no network; `md`, its words and tables; `json` or `csv`. None: by the ending.
        must_compare: take it as an error if a fault campaign cannot be compared with another one.

    Raises:
        RunFolderError: if a folder cannot be used.
        MissingExtraError: if what a report needs is not installed.
    """
    path = as_path(out)
    form = form or (path.suffix[1:] if path.suffix[1:] in FORMATS else "html")
    if form not in FORMATS:
        raise OptionError(f"no report {form!r}: there are {', '.join(FORMATS)}")
    evidence = _gathered(runs, must_compare=must_compare)
    from resq_deploy.records import write_atomic

    write_atomic(path, written(evidence, form))


def written(evidence: "Evidence", form: str) -> str:
    """Return a report as text.

    Args:
        evidence: runs and comparisons.
        form: one of `FORMATS`.
    """
    if form in ("json", "csv"):
        from resq_deploy.report.machine import as_csv, as_json

        return as_json(evidence) if form == "json" else as_csv(evidence)
    from resq_deploy.report.build import document

    if form == "md":
        from resq_deploy.report.markdown import as_markdown

        return as_markdown(document(evidence))
    from resq_deploy.report.page import render

    return render(document(evidence))


def _gathered(runs: Sequence[PathLike | Run], *, must_compare: bool) -> "Evidence":
    try:
        from resq_deploy.report.build import gather
    except ImportError as error:
        raise MissingExtraError("the report", "report") from error
    return gather([run.path if isinstance(run, Run) else as_path(run) for run in runs], must_compare=must_compare)
