"""Studies: a grid of trainings, exports, campaigns and attacks, and the tables that come of it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resq_deploy.api.extras import need_extra
from resq_deploy.api.given import PathLike, Say, as_path, silent
from resq_deploy.errors import FailedError
from resq_deploy.records import write_atomic

if TYPE_CHECKING:
    from resq_deploy.pipeline.study import Study

Check = Callable[[str, Mapping[str, Any], list[str]], str | None]
"""Told a command, its options as a recipe has them, and as arguments; returns what is wrong with them, or None."""

TABLES = ("md", "csv", "html")
"""What the tables of a study are written as, beside its records: `study.md` and so on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """A study, as it is asked for.

    Attributes:
        recipe: a TOML file, or the name of a recipe that comes with the package: `ablation`, `demo`, `paper`.
        profile: which of its profiles, such as `cpu`.
        data_dir: where named data sets lie.
        cells: patterns for `NETWORK/DATASET/seed-S/VARIANT`; what matches none is not run.
        jobs: how many steps run at once, each on its share of the cores.
        arithmetic: in which int8 files are run, `exact` or `native`.
    """

    recipe: str
    profile: str | None = None
    data_dir: PathLike | None = None
    cells: Sequence[str] = ("*",)
    jobs: int = 1
    arithmetic: str = "exact"


def study_commands(request: StudyRequest, out: PathLike, *, check: Check = lambda *_: None) -> list[str]:
    """Return the commands that a study would run, as one would type them; runs none.

    Args:
        request: the study.
        out: run folder that it would write.
        check: looks at each command's options.

    Raises:
        OptionError: if recipe or request cannot be used, with everything that is wrong in it.
    """
    from resq_deploy.pipeline.study import command_lines

    return command_lines(_study(request, check), as_path(out), _folder(request.data_dir))


def study(
    request: StudyRequest,
    out: PathLike,
    *,
    resume: bool = False,
    check: Check = lambda *_: None,
    say: Say = silent,
) -> str:
    """Run a study, each step a process of its own, and write its tables, those of what did not fail in any case.

    Args:
        request: the study.
        out: run folder; gets a folder for every cell, with its card, logs, `study.{md,csv,html}`, `summary.json`.
        resume: go on with the study in `out`: what is done is not done again.
        check: looks at each command's options before anything is run.
        say: told of each step.

    Returns:
        The tables, as Markdown.

    Raises:
        InputError: if recipe, request or data cannot be used.
        FailedError: after all that can be run, if a step failed; the tables are in `out` then.
        MissingExtraError: if what training or tables need is not installed.
    """
    made, folder = _study(request, check), as_path(out)
    need_extra("a study", "train", "torch", "onnxscript")
    need_extra("the tables of a study", "report", "jinja2", "matplotlib")
    try:
        made.run(folder, resume=resume, report=say)
    except FailedError:
        _write_tables(folder)
        raise
    return _write_tables(folder)


def _study(request: StudyRequest, check: Check) -> "Study":
    from resq_deploy.pipeline.study import Study, StudyOptions
    from resq_deploy.pipeline.study_recipe import read_recipe

    options = StudyOptions(
        data_dir=_folder(request.data_dir),
        cells=tuple(request.cells),
        jobs=request.jobs,
        arithmetic=request.arithmetic,
    )
    return Study(read_recipe(request.recipe, request.profile, check), options)


def _folder(given: PathLike | None) -> pathlib.Path | None:
    return None if given is None else as_path(given)


def _write_tables(out: pathlib.Path) -> str:
    """Write the tables of what has been run; return them as Markdown."""
    from resq_deploy.report.markdown import as_markdown
    from resq_deploy.report.page import render
    from resq_deploy.report.study import study_csv, study_document
    from resq_deploy.report.study_card import CARD, cell_card
    from resq_deploy.report.study_cells import read_layered
    from resq_deploy.report.study_figures import read_study

    summary, corners = read_study(out)
    document = study_document(summary, corners, read_layered(out, summary))
    written = {"md": as_markdown(document), "csv": study_csv(corners), "html": render(document)}
    for cell in summary["cells"]:
        if cell["status"] == "done":
            write_atomic(out / cell["folder"] / CARD, as_markdown(cell_card(out, cell)))
    for form in TABLES:
        write_atomic(out / f"study.{form}", written[form])
    return written["md"]
