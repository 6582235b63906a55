"""`resq-deploy selftest`: a known-answer test of a deployed file, made from a campaign, or run."""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import click

from resq_deploy import api
from resq_deploy.api.words import percent
from resq_deploy.cli.samples import sample_options
from resq_deploy.cli.shared import PATH, data_dir_option, print_table, seed_option, split_option
from resq_deploy.errors import FailedError, OptionError


@click.command()
@click.argument("model", type=PATH)
@click.option("--check", type=PATH, metavar="BUNDLE", help="Hold MODEL against the known answers of this bundle.")
@click.option("--campaign", type=PATH, metavar="RUN", help="Run folder of a finished faultcamp on all images.")
@functools.partial(sample_options, required=False)
@data_dir_option
@split_option
@click.option("--out", type=PATH, metavar="BUNDLE", help="Bundle to write, an .npz that Python also runs.")
@click.option("--images", type=int, default=8, show_default=True, metavar="K", help="Inputs to choose.")
@click.option(
    "--held-out",
    metavar="SHARE|RUN",
    default="0.5",
    show_default=True,
    help="Faults that coverage is measured on and that choose no input: a share of the campaign's, drawn by --seed, or "
    "a second campaign that differs in its faults alone.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="T",
    help="How far an answer may lie from the known one, as a share of the output's largest magnitude.  [default: "
    "1/4096, or what half of the images need where the file is run at other levels of optimisation]",
)
@click.option(
    "--harm-above",
    type=float,
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="A fault does harm if it changes more than this share of the answers.",
)
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Coverage of the intervals.")
@click.option(
    "--arithmetic",
    type=click.Choice(["exact", "native"]),
    help="With --check: sums of 8-bit products as int32 gives them, or as this CPU's kernels do.  [default: as the "
    "bundle wants them]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@seed_option
def command(model: pathlib.Path, check: pathlib.Path | None, as_json: bool, **given: Any) -> None:
    """Choose the few inputs that reveal most harmful faults of a campaign, as a test for start-up or a periodic task.

    The bundle holds inputs, known answers and tolerance, and the program that checks them with numpy and onnxruntime
    alone: python BUNDLE MODEL. Exit status of a check: 0 all answers are the known ones, 1 some are not or the file
    cannot be loaded, 2 it cannot be told here.

    \b
    Examples:
      resq-deploy selftest net.int8.onnx --dataset digits --campaign run --out selftest.npz
      resq-deploy selftest net.int8.onnx --dataset digits --campaign run --held-out second --out selftest.npz
      resq-deploy selftest net.int8.onnx --check selftest.npz
      python selftest.npz net.int8.onnx
    """
    if check is not None:
        _refuse_others("check", "arithmetic")
        _check(model, check, given["arithmetic"], as_json)
        return
    missing = [f"--{name}" for name in ("dataset", "campaign", "out") if given[name] is None]
    if missing:
        raise OptionError(f"{missing[0]} is missing: to make a bundle takes it; to run one, give --check BUNDLE")
    if given.pop("arithmetic") is not None:
        raise OptionError("--arithmetic goes with --check: a bundle's answers are in that of its campaign")
    held_out = given.pop("held_out")
    try:
        given["held_out"] = float(held_out)
    except ValueError:
        given["held_out"] = pathlib.Path(held_out)
    out, campaign = given["out"], given["campaign"]
    found = api.selftest(model, given.pop("dataset"), **given)
    click.echo(json.dumps(found, indent=2)) if as_json else _print(found, campaign, out)


def _refuse_others(*kept: str) -> None:
    """Refuse options that only make a bundle where one is checked.

    Raises:
        OptionError: naming the first of them.
    """
    context = click.get_current_context()
    for name in context.params:
        told = context.get_parameter_source(name)
        if name not in ("model", "as_json", *kept) and told is click.core.ParameterSource.COMMANDLINE:
            raise OptionError(f"--{name.replace('_', '-')} makes a bundle, and --check runs one: leave one of them out")


def _check(model: pathlib.Path, bundle: pathlib.Path, arithmetic: str | None, as_json: bool) -> None:
    checked = api.check_selftest(bundle, model, arithmetic=arithmetic)
    if as_json:
        click.echo(json.dumps(checked.as_dict(), indent=2))
    elif checked.passed:
        click.echo(f"{model}: {checked.line}")
    if not checked.passed:
        raise FailedError(f"{model} does not pass {bundle}: {checked.line}")


def _print(found: Mapping[str, Any], campaign: pathlib.Path, out: pathlib.Path) -> None:
    training, held = found["campaign"], found["held_out"]
    rows = [
        (str(point["images"]), f"{100 * point['training']:.2f} %", percent(point["held_out"]))
        for point in found["curve"]
    ]
    print_table("Harmful faults revealed", ("images", "that chose them", "held out"), rows)
    click.echo(
        f"inputs chosen by {training['harmful']:,} harmful faults of {campaign}, coverage measured on "
        f"{held['harmful']:,} others; all {found['qualified']:,} inputs that qualify: {percent(found['all_qualified'])}"
    )
    click.echo(
        f"of the wrong answers under held-out faults, {100 * found['of_wrong_answers']:.2f} % are under revealed ones"
    )
    for role, estimate in found["by_role"].items():
        click.echo(f"  {role}: {percent(estimate)} of {estimate['n']:,}")
    if held["due"]:
        click.echo(f"{held['due']:,} faults left the file unusable, which needs no test to see; they are not counted")
    click.echo(
        f"tolerance {found['tolerance']:.3g} of the largest magnitude; a fault counts as revealed from twice that on; "
        f"the fault-free file passes at optimisation {', '.join(found['passed'])}"
    )
    click.echo(f"written: {out}; on a device: python {out} MODEL.onnx")
