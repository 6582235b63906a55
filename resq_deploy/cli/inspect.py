"""`resq-deploy inspect`: what a file stores."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from resq_deploy import api
from resq_deploy.api.words import printable
from resq_deploy.cli import integrity
from resq_deploy.cli.shared import PATH, arithmetic_option, data_dir_option, print_table
from resq_deploy.errors import FailedError, OptionError

if TYPE_CHECKING:
    from resq_deploy.api import Folding, Inspection, Protection


@click.command()
@click.argument("model", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print surfaces, what is left out, guards and warnings as JSON.")
@click.option("--verify", "verifies", is_flag=True, help="Run the file and compare with the logits in its sidecar.")
@click.option(
    "--dataset", metavar="D", help="With --verify: also run the calibration images of this data set, kept by name."
)
@click.option(
    "--selftest",
    type=PATH,
    metavar="BUNDLE",
    help="With --verify: hold the file against the known answers of this bundle, in place of its sidecar's.",
)
@click.option(
    "--check",
    "checks",
    is_flag=True,
    help="Compare the file's bytes, block by block, with the digests in its sidecar or in FILE.digests.json, and name "
    "the tensors that are damaged; it need not load any more.",
)
@click.option("--against", type=PATH, metavar="DIGESTS", help="With --check: the file that holds the digests.")
@click.option(
    "--digests",
    type=PATH,
    metavar="OUT",
    help="Write digests of the file and its external data, by block and tensor, for --check; where no sidecar is.",
)
@data_dir_option
@arithmetic_option
@click.option(
    "--provider",
    "providers",
    multiple=True,
    help="onnxruntime provider that guards are tried with.  [default: CPUExecutionProvider]",
)
def command(
    model: pathlib.Path,
    as_json: bool,
    verifies: bool,
    dataset: str | None,
    selftest: pathlib.Path | None,
    checks: bool,
    against: pathlib.Path | None,
    digests: pathlib.Path | None,
    data_dir: pathlib.Path | None,
    arithmetic: str,
    providers: tuple[str, ...],
) -> None:
    """List what an ONNX file stores, takes and gives: roles, layers, bits; what protects it; what to beware of.

    With --verify, exit status 1 says that this machine may give other answers than the machine the file was exported
    on, or that the file is another. With --check it says that bytes of the file are not what they were.

    \b
    Examples:
      resq-deploy inspect model.int8.onnx
      resq-deploy inspect model.int8.onnx --verify
      resq-deploy inspect model.int8.onnx --verify --dataset cifar10 --data-dir data
      resq-deploy inspect model.int8.onnx --verify --arithmetic native
      resq-deploy inspect model.int8.onnx --verify --selftest bundle.npz
      resq-deploy inspect model.int8.onnx --check
      resq-deploy inspect other.onnx --digests other.digests.json
      resq-deploy inspect model.int8.onnx --json | jq '.surfaces[] | select(.role == "bias")'
    """
    if dataset is not None and not verifies:
        raise OptionError("--dataset goes with --verify: it tells whose calibration images to run")
    if selftest is not None and (dataset is not None or not verifies):
        raise OptionError("--selftest goes with --verify, and without --dataset: the bundle holds its own inputs")
    if against is not None and not checks:
        raise OptionError("--against goes with --check: it names what the file is compared with")
    if (checks and verifies) or (digests is not None and (checks or verifies or as_json)):
        raise OptionError("--check, --digests and --verify are three questions: ask one at a time")
    if digests is not None:
        integrity.write_digests(model, digests)
        return
    if checks:
        integrity.check(model, against, as_json)
        return
    opened = api.load(model)
    found = opened.inspect(providers=providers or ("CPUExecutionProvider",))
    by_sidecar = verifies and selftest is None
    verification = opened.verify(dataset, data_dir=data_dir, arithmetic=arithmetic) if by_sidecar else None
    checked = None if selftest is None else api.check_selftest(selftest, model, arithmetic=arithmetic)
    if as_json:
        report = found.as_dict() | ({"verification": verification.as_dict()} if verification else {})
        report |= {"selftest": checked.as_dict()} if checked else {}
        click.echo(json.dumps(report, indent=2))
    else:
        _print(found)
        if verification:
            click.echo(f"verification: {verification.line}")
            if verification.native and verification.native.line:
                click.echo(verification.native.line)
        if checked:
            click.echo(f"self-test: {checked.line}")
    if checked and not checked.passed:
        raise FailedError(f"{model} does not pass {selftest}: {checked.line}")
    if verification and verification.verdict == "differs":
        raise FailedError(f"{model} does not answer as it did where it was exported: {verification.line}")


def _print(found: "Inspection") -> None:
    _print_surfaces(found)
    for what, ports in (("takes", found.inputs), ("gives", found.outputs)):
        click.echo(f"{what} {printable(', '.join(map(str, ports)) or 'nothing')}")
    click.echo(printable(_told_judge(found.judge)))
    if found.guards:
        _print_guards(found.guards)
        _print_folding(found.folding)
    if found.protection:
        _print_protection(found, found.protection)
    for warning in found.warnings:
        click.echo(f"warning: {warning}")
    for note in found.notes:
        click.echo(f"note: {note}")


def _told_judge(judge: Mapping[str, Any]) -> str:
    if judge["name"] is None:
        return f"how faultcamp would judge it could not be tried out: {judge['reason']}"
    return f"faultcamp would judge it as {judge['name']}, from made-up samples: {judge['reason']}"


_MEANT = {"role": ", which is what a stored value is for", "layer": ""}


def _print_surfaces(found: "Inspection") -> None:
    deployed = found.deployed
    total = sum(surface.bits for surface in deployed.surfaces)
    for key in ("role", "layer"):
        groups: dict[str, list[int]] = {}
        for surface in deployed.surfaces:
            groups.setdefault(str(getattr(surface, key)), []).append(surface.bits)
        rows = [
            (printable(name), str(len(bits)), f"{sum(bits):,}", f"{100 * sum(bits) / total:.3f} %")
            for name, bits in groups.items()
        ]
        print_table(f"Stored bits by {key}{_MEANT[key]}", (key, "tensors", "bits", "share"), rows)
    if deployed.left_out:
        left_out = [(printable(left.tensor), f"{left.bits:,}", left.reason) for left in deployed.left_out]
        print_table("Left out: faults in these are not tried", ("tensor", "bits", "reason"), left_out)
    out = sum(left.bits for left in deployed.left_out)
    click.echo(f"{len(deployed.surfaces)} tensors, {total:,} bits, SHA-256 {deployed.digest}")
    click.echo(f"{len(deployed.left_out)} stored values of {out:,} bits are left out")


def _print_folding(folding: "Sequence[Folding]") -> None:
    """Say where votes cost nothing, and what happens where they do."""
    folded = [found.optimization for found in folding if found.folded]
    where = f"{', '.join(folding[0].providers)} of this machine"
    if folded:
        click.echo(
            f"votes at optimisation {', '.join(folded)} ({where}): taken when the file is loaded; what runs is the "
            "graph of the file without guards"
        )
    for found in folding:
        if not found.folded:
            click.echo(f"votes at optimisation {found.optimization} ({where}): {_unfolded(found)}")


def _unfolded(found: "Folding") -> str:
    if found.left is None:
        return f"not known, as what runs cannot be seen ({found.reason})"
    answers = {True: "answers are the same", False: "ANSWERS DIFFER", None: "answers could not be compared"}
    text = f"{found.left} of {found.votes} run at each inference: faults are voted out, but every run is slower"
    if not found.left:
        text = "taken when the file is loaded, but another graph runs than that of the file without guards"
    return f"{text}; {answers[found.same_outputs]}"


def _print_protection(found: "Inspection", protection: "Protection") -> None:
    """Say what protects which share of the stored bits, by which codes, and at what price."""
    if protection.reason:
        return  # a warning says it
    surfaces = found.deployed.surfaces
    total = sum(surface.bits for surface in surfaces)
    by_kind: dict[str, list[int]] = {}
    for surface in surfaces:
        by_kind.setdefault(protection.by_tensor.get(surface.tensor, "nothing"), []).append(surface.bits)
    rows = [
        (kind, str(len(bits)), f"{sum(bits):,}", f"{100 * sum(bits) / total:.3f} %") for kind, bits in by_kind.items()
    ]
    print_table("Stored bits by what protects them", ("protected by", "tensors", "bits", "share"), rows)
    for code in protection.codes:
        click.echo(
            f"{code['name']}: {code['weights']} weights, {code['values']:,} values of {code['weight_bits']} bits; "
            f"words of {code['word_bits']} bits, {code['check_bits']} of them checks; corrects {code['corrects']} and "
            f"detects {code['detects']} flips of a word"
        )
    folded = [each["optimization"] for each in protection.folding if each["folded"]]
    other = [each["optimization"] for each in protection.folding if each["folded"] is False]
    if folded:
        click.echo(f"decoder at optimisation {', '.join(folded)}: folded when the file is loaded, no cost at run time")
    if other:
        click.echo(f"decoder at optimisation {', '.join(other)}: runs at each inference, as right but slower")
    added = "not known" if protection.bytes_added is None else f"{protection.bytes_added:,}"
    least = protection.least_onnxruntime
    click.echo(f"bytes added by protection: {added}" + (f"; needs onnxruntime {least} or later" if least else ""))
    if protection.health:
        click.echo("the file tells its own health: output resq_health, words corrected and words not correctable")


def _print_guards(guards: Sequence[Mapping[str, Any]]) -> None:
    added: dict[str, list[int]] = {}
    for guard in guards:
        added.setdefault(guard["role"], []).append(guard["bytes_added"])
    rows = [(role, str(len(sizes)), f"{sum(sizes):,}") for role, sizes in added.items()]
    print_table("Guarded: stored three times and voted", ("role", "tensors", "bytes added"), rows)
    click.echo(
        f"{len(guards)} guarded tensors: faults in storage, before the file is loaded, are voted out; "
        "faults in memory, after that, are not"
    )
