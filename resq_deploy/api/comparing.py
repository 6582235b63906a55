"""Which differences between runs are real, and reports of runs."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resq_deploy.api.extras import need_extra
from resq_deploy.api.frames import pandas_or_error
from resq_deploy.api.given import PathLike, as_path
from resq_deploy.api.runs import Run
from resq_deploy.errors import OptionError
from resq_deploy.records import write_atomic

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
    evidence = _gathered(_folders([first, second]), must_compare=True)
    (found,) = evidence.comparisons
    return Compared(differences=found.differences, notes=found.notes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A report that was written; as text, what it is on.

    Attributes:
        path: the file.
        form: one of `FORMATS`.
        runs: how many runs it shows.
        pairs: how many pairs of campaigns it compares.
    """

    path: pathlib.Path
    form: str
    runs: int
    pairs: int

    def __str__(self) -> str:
        from resq_deploy.report.text import counted

        return counted(self.runs, "run") + (f", {counted(self.pairs, 'pair')} compared" if self.pairs else "")


def write_report(
    runs: Sequence[PathLike | Run], out: PathLike, *, form: str | None = None, must_compare: bool = False
) -> Written:
    """Write a report on finished runs.

    Args:
        runs: run folders.
        out: file to write.
        form: `html`, a page that needs no network; `md`, its words and tables; `json` or `csv`. None: by the ending.
        must_compare: take it as an error if a fault campaign cannot be compared with another one.

    Raises:
        RunFolderError: if a folder cannot be used.
        OptionError: if `out` cannot be written, or would cost a run its records.
        MissingExtraError: if what a report needs is not installed.
    """
    path = as_path(out)
    form = form or (path.suffix[1:] if path.suffix[1:] in FORMATS else "html")
    if form not in FORMATS:
        raise OptionError(f"no report {form!r}: there are {', '.join(FORMATS)}")
    need_extra("the report", "report", "jinja2", "jsonschema", "matplotlib")
    folders = _folders(runs)
    check_out(path, folders, form)
    evidence = _gathered(folders, must_compare=must_compare)
    write_atomic(path, _text(evidence, form))
    return Written(path=path, form=form, runs=len(evidence.runs), pairs=len(evidence.comparisons))


def check_out(out: pathlib.Path, folders: Sequence[pathlib.Path], form: str) -> None:
    """Refuse, before anything is read, an output that cannot be written or that would cost a run its records."""
    from resq_deploy.report.runs import is_record

    try:
        folder = out.is_dir()
    except OSError as error:
        raise OptionError(f"cannot write --out {str(out)[:60]}...: {error.strerror}; give another name") from error
    if folder:
        raise OptionError(f"--out {out} is a folder: give a file, such as {out / f'report.{form}'}")
    if is_record(out, folders):
        raise OptionError(f"--out {out} would overwrite a file that the run consists of: give another name")


def _text(evidence: "Evidence", form: str) -> str:
    """Return a report as text, in one of the forms."""
    if form in ("json", "csv"):
        from resq_deploy.report.machine import as_csv, as_json

        return as_json(evidence) if form == "json" else as_csv(evidence)
    from resq_deploy.report.build import document

    if form == "md":
        from resq_deploy.report.markdown import as_markdown

        return as_markdown(document(evidence))
    from resq_deploy.report.page import render

    return render(document(evidence))


def _folders(runs: Sequence[PathLike | Run]) -> list[pathlib.Path]:
    return [run.path if isinstance(run, Run) else as_path(run) for run in runs]


def _gathered(folders: Sequence[pathlib.Path], *, must_compare: bool) -> "Evidence":
    need_extra("the report", "report", "jinja2", "jsonschema", "matplotlib")
    from resq_deploy.report.build import gather

    return gather(folders, must_compare=must_compare)
