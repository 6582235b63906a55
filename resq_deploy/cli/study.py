"""`resq-deploy study`: a grid of trainings, exports, campaigns and attacks, and the tables that come of it."""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

import click

from resq_deploy.cli.shared import arithmetic_option, data_dir_option, need_extra, out_option, resume_option
from resq_deploy.errors import FailedError, ResqError

_WHERE = {
    *("model", "source", "init", "dataset", "data_dir", "feed", "state", "size", "out", "resume", "dry_run"),
    *("fail_above", "fail_below", "junit", "refine", "split"),
}
"""What of a command is no option of what it computes."""


@click.command()
@click.argument("recipe")
@out_option("Run folder to write: a folder for every cell, logs, study.{md,csv,html}, summary.json, manifest.json.")
@data_dir_option
@click.option("--profile", metavar="NAME", help="Profile of the recipe, such as cpu.")
@click.option(
    "--cells",
    multiple=True,
    default=("*",),
    metavar="GLOB",
    help="Run only cells NETWORK/DATASET/seed-S/VARIANT that match; the others are marked as not run. May be repeated.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Run N steps at once, each on its share of the cores.",
)
@arithmetic_option
@click.option("--dry-run", is_flag=True, help="Print the commands, and run none.")
@resume_option
def command(
    recipe: str,
    out: pathlib.Path,
    data_dir: pathlib.Path | None,
    profile: str | None,
    cells: tuple[str, ...],
    jobs: int,
    arithmetic: str,
    dry_run: bool,
    resume: bool,
) -> None:
    """Run RECIPE, a TOML file or one of ablation, demo and paper, and write its tables.

    Every step is a command of its own with its own run folder. A killed study goes on with --resume: what is done, by
    the digests of arguments, data and files, is not done again. A step that fails leaves out what needs it, and the
    study ends with status 1 when all the rest is done.

    \b
    Examples:
      resq-deploy study demo --out study
      resq-deploy study ablation --data-dir data --out ablation --dry-run
      resq-deploy study ablation --data-dir data --out ablation --jobs 2
      resq-deploy study paper --profile cpu --cells 'resnet18-stride2/gtsrb/*' --data-dir data --out paper
      resq-deploy study my.toml --data-dir data --out mine --resume
    """
    from resq_deploy.pipeline.study import Study, StudyOptions, command_lines
    from resq_deploy.pipeline.study_recipe import read_recipe

    options = StudyOptions(data_dir=data_dir, cells=cells, jobs=jobs, arithmetic=arithmetic)
    study = Study(read_recipe(recipe, profile, check_options), options)
    if dry_run:
        click.echo("\n".join(command_lines(study, out, data_dir)))
        return
    need_extra("a study", "train", "torch", "onnxscript")
    need_extra("the tables of a study", "report", "jinja2", "matplotlib")
    try:
        study.run(out, resume=resume, report=lambda line: click.echo(line, err=True))
    except FailedError:
        _write_tables(out)
        raise
    _write_tables(out)


def check_options(name: str, given: Mapping[str, Any]) -> str | None:
    """Return what is wrong with options of a command as a recipe gives them, or None; reads no data and no model."""
    from resq_deploy.pipeline.study_recipe import arguments, needs_surrogate

    module = importlib.import_module(f"resq_deploy.cli.{name.replace('-', '_')}")
    options = {
        flag.removeprefix("--"): option
        for option in module.command.params
        for flag in (*option.opts, *option.secondary_opts)
        if isinstance(option, click.Option)
    }
    for option, value in given.items():
        wrong = _value_problem(options.get(option), value)
        if wrong:
            return f"{option}: {wrong}"
    line = ["--network", "-"] if name == "train" else ["-"]
    line += ["--surrogate", "-"] if name == "attackcamp" and needs_surrogate(given) else []
    try:
        context = module.command.make_context(name, [*line, "--dataset", "-", "--out", "-", *arguments(given)])
        module.read_options({key: value for key, value in context.params.items() if key not in _WHERE})
    except click.UsageError as error:
        return error.format_message()
    except ResqError as error:
        return str(error)
    return None


def _value_problem(option: click.Option | None, value: object) -> str | None:
    """Return why a TOML value cannot be given to an option of a command, or None."""
    if option is None:
        return "no such option"
    if isinstance(value, list) and not option.multiple:
        return "takes one value, not a list"
    if isinstance(value, bool) and not option.is_flag:
        return f"takes a value; {str(value).lower()} is for flags"
    if any(not isinstance(single, str | int | float) for single in (value if isinstance(value, list) else [value])):
        return "give text, a number, true, or a list of them"
    return None


def _write_tables(out: pathlib.Path) -> None:
    """Write the tables of what has been run."""
    from resq_deploy.records import write_atomic
    from resq_deploy.report.markdown import as_markdown
    from resq_deploy.report.page import render
    from resq_deploy.report.study import study_csv, study_document
    from resq_deploy.report.study_figures import read_study

    summary, corners = read_study(out)
    document = study_document(summary, corners)
    written: dict[str, Any] = {"md": as_markdown(document), "csv": study_csv(corners), "html": render(document)}
    for form, text in written.items():
        write_atomic(out / f"study.{form}", text)
    click.echo(written["md"])
