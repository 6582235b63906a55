"""`resq-deploy inspect`: what a file stores."""

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from resq_deploy.cli.shared import PATH, arithmetic_option, data_dir_option, print_table, printable
from resq_deploy.errors import FailedError, OptionError

if TYPE_CHECKING:
    from resq_deploy.deployed.folding import Folding
    from resq_deploy.deployed.judging import Chosen
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.protection.inspection import Protection


@click.command()
@click.argument("model", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print surfaces, what is left out, guards and warnings as JSON.")
@click.option("--verify", "verifies", is_flag=True, help="Run the file and compare with the logits in its sidecar.")
@click.option(
    "--dataset", metavar="D", help="With --verify: also run the calibration images of this data set, kept by name."
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
    data_dir: pathlib.Path | None,
    arithmetic: str,
    providers: tuple[str, ...],
) -> None:
    """List what an ONNX file stores, takes and gives: roles, layers, bits; what protects it; what to beware of.

    With --verify, exit status 1 says that this machine may give other answers than the machine the file was exported
    on, or that the file is another.

    \b
    Examples:
      resq-deploy inspect model.int8.onnx
      resq-deploy inspect model.int8.onnx --verify
      resq-deploy inspect model.int8.onnx --verify --dataset cifar10 --data-dir data
      resq-deploy inspect model.int8.onnx --verify --arithmetic native
      resq-deploy inspect model.int8.onnx --json | jq '.surfaces[] | select(.role == "bias")'
    """
    from resq_deploy.data import load_dataset
    from resq_deploy.deployed.advice import notes_for, warnings_for
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.deployed.interface import inputs_of, outputs_of
    from resq_deploy.deployed.judging import guessed
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.deployed.session import Deployment
    from resq_deploy.deployed.verify import Verdict, verify

    if dataset is not None and not verifies:
        raise OptionError("--dataset goes with --verify: it tells whose calibration images to run")
    tried_with = Deployment(providers=providers or ("CPUExecutionProvider",))
    deployed = DeployedModel.load(model)
    protection = _protection(deployed, tried_with.providers)
    warnings, guards = warnings_for(deployed), _guards(deployed)
    warnings += protection.warnings if protection else []
    notes = notes_for(deployed)
    folding = _folding(deployed, tried_with.providers)
    judge = _judge(guessed(deployed, tried_with))
    verification = None
    if verifies:
        data = load_dataset(dataset, data_dir) if dataset is not None else None
        verification = verify(deployed, dataset=data, arithmetic=Arithmetic(arithmetic))
    if as_json:
        by_tensor = protection.by_tensor if protection else {}
        surfaces = [{**each.as_dict(), "protection": by_tensor.get(each.tensor)} for each in deployed.surfaces]
        report: dict[str, Any] = {
            "model": deployed.digest,
            "inputs": [port.as_dict() for port in inputs_of(deployed.proto)],
            "outputs": [port.as_dict() for port in outputs_of(deployed.proto)],
            "judge": judge,
            "surfaces": surfaces,
            "left_out": [left.as_dict() for left in deployed.left_out],
            "protection": protection.as_dict() if protection else None,
            "guards": guards,
            "folding": [found.as_dict() for found in folding],
            "notes": notes,
            "warnings": warnings,
        }
        if verification:
            report["verification"] = verification.as_dict()
        click.echo(json.dumps(report, indent=2))
    else:
        _print_surfaces(deployed)
        for what, ports in (("takes", inputs_of(deployed.proto)), ("gives", outputs_of(deployed.proto))):
            click.echo(f"{what} {printable(', '.join(map(str, ports)) or 'nothing')}")
        click.echo(printable(_told_judge(judge)))
        if guards:
            _print_guards(guards)
            _print_folding(folding)
        if protection:
            _print_protection(protection, deployed)
        for warning in warnings:
            click.echo(f"warning: {warning}")
        for note in notes:
            click.echo(f"note: {note}")
        if verification:
            click.echo(f"verification: {verification.line}")
            if verification.native and verification.native.line:
                click.echo(verification.native.line)
    if verification and verification.verdict is Verdict.DIFFERS:
        raise FailedError(f"{model} does not answer as it did where it was exported: {verification.line}")


def _judge(found: "Chosen | str") -> dict[str, Any]:
    """Return which judge a campaign would take, as JSON values; only the reason where it cannot be told."""
    if isinstance(found, str):
        return {"name": None, "outputs": [], "reason": found}
    return {"name": found.judge.name, "outputs": list(found.judge.outputs), "reason": found.reason}


def _told_judge(judge: dict[str, Any]) -> str:
    if judge["name"] is None:
        return f"how faultcamp would judge it could not be tried out: {judge['reason']}"
    return f"faultcamp would judge it as {judge['name']}, from made-up samples: {judge['reason']}"


_MEANT = {"role": ", which is what a stored value is for", "layer": ""}


def _print_surfaces(deployed: "DeployedModel") -> None:
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


def _guards(deployed: "DeployedModel") -> list[dict[str, Any]]:
    """Return the tensors that are voted from three copies, with role and bytes added."""
    roles = {surface.tensor: str(surface.role) for surface in deployed.surfaces}
    return [
        {
            "tensor": vote.output,
            "copies": list(vote.copies),
            "role": roles[vote.copies[0]],
            "bytes_added": vote.bytes_added,
        }
        for vote in deployed.votes()
    ]


def _folding(deployed: "DeployedModel", providers: tuple[str, ...]) -> "list[Folding]":
    """Return what becomes of the file's votes on this machine, at each level of optimisation; nothing without votes."""
    from resq_deploy.deployed.folding import foldings
    from resq_deploy.deployed.votes import find_votes

    votes = find_votes(deployed.proto)
    return foldings(deployed.proto, votes, providers) if votes else []


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


def _protection(deployed: "DeployedModel", providers: tuple[str, ...]) -> "Protection | None":
    """Return what protects the file; None where nothing does."""
    from resq_deploy.protection.inspection import protection_of

    return protection_of(deployed.path.read_bytes(), providers)


def _print_protection(protection: "Protection", deployed: "DeployedModel") -> None:
    """Say what protects which share of the stored bits, by which codes, and at what price."""
    if protection.reason:
        return  # a warning says it
    total = sum(surface.bits for surface in deployed.surfaces)
    by_kind: dict[str, list[int]] = {}
    for surface in deployed.surfaces:
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


def _print_guards(guards: Sequence[dict[str, Any]]) -> None:
    added: dict[str, list[int]] = {}
    for guard in guards:
        added.setdefault(guard["role"], []).append(guard["bytes_added"])
    rows = [(role, str(len(sizes)), f"{sum(sizes):,}") for role, sizes in added.items()]
    print_table("Guarded: stored three times and voted", ("role", "tensors", "bytes added"), rows)
    click.echo(
        f"{len(guards)} guarded tensors: faults in storage, before the file is loaded, are voted out; "
        "faults in memory, after that, are not"
    )
