"""`resq-deploy study`: a grid of trainings, exports, campaigns and attacks, and the tables that come of it."""

import functools
import importlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import click

from resq_deploy import api
from resq_deploy.cli.shared import arithmetic_option, data_dir_option, out_option, resume_option
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
    request = api.StudyRequest(
        recipe=recipe, profile=profile, data_dir=data_dir, cells=cells, jobs=jobs, arithmetic=arithmetic
    )
    if dry_run:
        click.echo("\n".join(api.study_commands(request, out, check=check_options)))
        return
    say = functools.partial(click.echo, err=True)
    try:
        click.echo(api.study(request, out, resume=resume, check=check_options, say=say))
    except FailedError:
        click.echo((out / "study.md").read_text(encoding="utf-8"))  # of what did not fail
        raise


def check_options(name: str, given: Mapping[str, Any], line: Sequence[str]) -> str | None:
    """Return what is wrong with options of a command as a recipe gives them, or None; reads no data and no model.

    Args:
        name: the command.
        given: its options, by name.
        line: the same as arguments, with what the study adds.
    """
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
    try:
        context = module.command.make_context(name, list(line))
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
