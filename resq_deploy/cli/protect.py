"""`resq-deploy protect`: any int8 file, made one that heals itself."""

import functools
import pathlib
from typing import TYPE_CHECKING, Any

import click

from resq_deploy import api
from resq_deploy.api.words import percent, printable
from resq_deploy.cli.preprocessing import preprocessing_options, read_preprocessing
from resq_deploy.cli.shared import PATH, arithmetic_option, data_dir_option, out_option, print_table
from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    from resq_deploy.api import Outcome

_SHOWN = 10  # tensors that are named one by one, where there may be hundreds


@click.command()
@click.argument("model", type=PATH)
@out_option("The protected file to write; the sidecar goes beside it as .json.")
@click.option(
    "--guard",
    type=click.Choice(["parameters", "weights", "all", "auto"]),
    default="all",
    show_default=True,
    help="What heals itself at load: parameters but weights, by votes over three copies; weights, by a code in their "
    "spare bits; all that is stored; or what pays most.",
)
@click.option(
    "--weight-code",
    type=click.Choice(["secded", "dected"]),
    help="Code of weights: corrects a flip in 64 bits, or two in 128 (in 64 of 6-bit weights).  [default: secded]",
)
@click.option(
    "--weight-bits", type=click.Choice(["7", "6"]), help="Bits of a weight; 6 with dected only.  [default: 7]"
)
@click.option(
    "--guard-budget",
    type=float,
    metavar="SHARE",
    help="Bytes that auto may add, as a share of the file's.  [default: 0.05]",
)
@click.option("--guard-campaign", type=PATH, help="faultcamp run of single flips in MODEL that auto plans by.")
@click.option("--health", is_flag=True, help="One more output: words that were corrected, and that could not be.")
@click.option("--opset", type=int, metavar="N", help="Raise the file to this opset first; 13 is needed.")
@click.option(
    "--dataset",
    metavar="D",
    help="Measure accuracy before and after, on its test images: a name, a folder or an .npz, as elsewhere.",
)
@data_dir_option
@preprocessing_options
@click.option("--images", type=int, metavar="N", help="Test images the accuracies are measured on.  [default: all]")
@click.option(
    "--gate",
    metavar="clean=POINTS",
    help="Largest drop of accuracy in points, or clean=off; needs --dataset.  [default: clean=0.5]",
)
@click.option("--no-gate", is_flag=True, help="Write the file even if the gate fails, and record it.")
@arithmetic_option
def command(model: pathlib.Path, out: pathlib.Path, **given: Any) -> None:
    """Protect MODEL, an int8 ONNX file of any origin, so that it corrects flipped bits when it is loaded.

    Weights get a code in their own spare bits: those of 8 bits are narrowed to 7, without training data, with all that
    goes with them. What else is stored gets votes. The file stays standard ONNX, runs as fast, and its weights cannot
    saturate 16-bit sums any more. Faults in storage, before the file is loaded, are corrected; faults in memory, after
    that, are not.

    \b
    Examples:
      resq-deploy protect net.int8.onnx --out healing.int8.onnx
      resq-deploy protect net.int8.onnx --out healing.int8.onnx --dataset cifar10 --data-dir data --gate clean=0.3
      resq-deploy protect net.int8.onnx --out strong.int8.onnx --weight-code dected --weight-bits 6
      resq-deploy protect net.int8.onnx --out small.int8.onnx --guard auto --guard-budget 0.02
      resq-deploy protect old.onnx --out healing.onnx --opset 13
    """
    asked = read_preprocessing(given)
    gate, data = given.pop("gate"), {name: given.pop(name) for name in ("dataset", "data_dir", "images")}
    for option, value in (("images", data["images"]), ("gate", gate), ("data-dir", data["data_dir"])):
        if value is not None and data["dataset"] is None:
            raise OptionError(f"--{option} is about measuring accuracy: give --dataset, too")
    bound = {} if gate is None else {"bound": _bound(gate)}
    judgement = api.Judgement(
        images=data["images"],
        enforced=not given.pop("no_gate"),
        arithmetic=api.Arithmetic(given.pop("arithmetic")),
        **bound,
    )
    given["weight_bits"] = int(given["weight_bits"]) if given["weight_bits"] else None
    outcome = api.protect(
        model,
        out,
        data=data["dataset"],
        data_dir=data["data_dir"],
        judgement=judgement,
        preprocessing=asked,
        say=functools.partial(click.echo, err=True),
        **given,
    )
    _print(outcome, out)


def _bound(text: str) -> float | None:
    """Read a gate's bound in points; None for `off`."""
    name, _, bound = text.partition("=")
    try:
        if name != "clean":
            raise ValueError(name)
        return None if bound == "off" else float(bound)
    except ValueError as error:
        raise OptionError(f"--gate {text!r}: give clean=POINTS, such as clean=0.5, or clean=off") from error


def _print(outcome: "Outcome", out: pathlib.Path) -> None:
    sidecar = outcome.sidecar
    _print_tensors(outcome)
    narrowed = [each for each in outcome.protected.coded if each.channels]
    if narrowed:
        worst = max(narrowed, key=lambda each: each.error)
        click.echo(
            f"{len(narrowed)} weights were narrowed to {sidecar['weights']['bits']} bits: they change by "
            f"{100 * worst.error:.2f} % at most (root mean square; {printable(worst.weight)})"
        )
    if sidecar["guards"]["votes_replaced"]:
        click.echo(f"{sidecar['guards']['votes_replaced']} votes that the file had already were made anew")
    if outcome.protected.plan.code is None and outcome.protected.narrowed:
        click.echo("no weight is under a code: votes on so few take fewer bytes, or none can be coded")
    _print_left_out(outcome)
    if sidecar["accuracy"]:
        before, after = (percent(sidecar["accuracy"][name]) for name in ("before", "after"))
        click.echo(f"accuracy before {before}, after {after}")
    for gate in sidecar["gates"]:
        verdict = "passed" if gate["passed"] else "FAILED"
        click.echo(
            f"gate clean: {verdict} (drop {gate['figure']:.2f} points, bound {gate['bound']:.2f}; "
            f"on {gate['images']} test images)"
        )
    size, source = sidecar["model"]["bytes"], sidecar["source"]["bytes"]
    click.echo(f"{out}: {size:,} bytes ({100 * (size / source - 1):+.2f} % of {source:,}), sidecar beside it")


def _print_tensors(outcome: "Outcome") -> None:
    """Print what protects which tensors, and the bytes they take before and after."""
    plan = outcome.protected.plan
    added = outcome.bytes_of_votes()
    groups: dict[tuple[str, str], list[int]] = {}
    for entry in plan.protected:
        size = entry.bits // 8
        row = groups.setdefault((entry.role, entry.by), [0, 0, 0])
        row[:] = [row[0] + 1, row[1] + size, row[2] + size + added.get(entry.tensor, 0)]
    rows = [[role, by, *(f"{figure:,}" for figure in figures)] for (role, by), figures in groups.items()]
    before, after = (sum(figures[at] for figures in groups.values()) for at in (1, 2))
    rest = outcome.sidecar["guards"]["bytes_added"] - (after - before)
    rows.append(["decoder, padding", "", "", "", f"{rest:+,}"])
    print_table("Protected", ("role", "by", "tensors", "bytes before", "after"), rows)


def _print_left_out(outcome: "Outcome") -> None:
    left_out = outcome.protected.left_out
    for each in outcome.protected.narrowed:
        if each.reason and each.weight not in left_out:
            click.echo(f"{printable(each.weight)} is voted in 8 bits: {printable(each.reason)}")
    for tensor, reason in list(left_out.items())[:_SHOWN]:
        click.echo(f"not protected: {printable(tensor)} ({printable(reason)})")
    if len(left_out) > _SHOWN:
        click.echo(f"not protected: {len(left_out) - _SHOWN} more, all named in the sidecar")
    if outcome.protected.plan.mode == "all":
        click.echo("not protected in any file: attributes of nodes, and the file's framing")
