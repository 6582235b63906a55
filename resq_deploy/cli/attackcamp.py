"""`resq-deploy attackcamp`: what attacks do to a deployed file."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from resq_deploy import api
from resq_deploy.api.words import percent
from resq_deploy.cli.flip_tables import print_bit_flip, print_fault_attack
from resq_deploy.cli.gates import junit_option, print_gates
from resq_deploy.cli.preprocessing import NAMES, preprocessing_options, read_preprocessing
from resq_deploy.cli.sections import SectionedCommand
from resq_deploy.cli.shared import (
    PATH,
    arithmetic_option,
    data_dir_option,
    dataset_option,
    out_option,
    print_table,
    resume_option,
    say,
    seed_option,
    split_option,
)
from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    from resq_deploy.api import AttackOptions


SECTIONS = {
    "What is attacked, and on what": ("dataset", "data_dir", "split", "images", "out"),
    "How the network takes its images": NAMES,
    "Which attacks, and how strong": ("attacks", "norm", "epsilon", "steps", "queries", "seed"),
    "The float network, for transfer-pgd": ("surrogate", "network", "weights"),
    "Faults and attacks together": ("with_faults", "fault_chips"),
    "Attacks that flip bits": (
        "bit_flip_target",
        "bit_flip_roles",
        "bit_flip_loss",
        "bit_flip_batches",
        "bit_flip_limit",
        "flippable",
    ),
    "Gates": ("fail_below", "junit"),
    "How the campaign runs": ("arithmetic", "resume", "workers"),
}
"""Headings of the help, and what is under them."""


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.argument("model", type=PATH)
@dataset_option
@data_dir_option
@split_option
@preprocessing_options
@out_option("Run folder to write: summary.json, manifest.json, adversarial/*.npz, bitflips.csv.")
@click.option(
    "--attacks",
    metavar="A,A,...",
    help="square, hopskipjump, transfer-pgd, twin-pgd, twin-apgd, bit-flip, and corruptions: what sensors do, not "
    "attackers.  [default: square,twin-pgd, and transfer-pgd with --surrogate]",
)
@click.option(
    "--epsilon",
    metavar="E,E,...",
    help="Radii: in 1/255 for linf, in units of [0, 1] pixels for l2.  [default: 2,4,8; for l2 0.25,0.5,1]",
)
@click.option("--norm", type=click.Choice(["linf", "l2"]), default="linf", show_default=True, help="Norm of the radii.")
@click.option("--queries", type=int, default=1000, show_default=True, help="Budget an image of black-box attacks.")
@click.option("--steps", type=int, default=20, show_default=True, help="Steps of the attacks with gradients.")
@click.option("--images", type=int, default=1000, show_default=True, help="Test images to attack.")
@click.option(
    "--surrogate",
    type=PATH,
    metavar="CKPT",
    help="Checkpoint, or train folder, of the float network, for transfer-pgd.",
)
@click.option(
    "--network",
    metavar="N",
    help="What --weights, or a surrogate that is a network of your own, is of: a name, or module:function, whose code "
    "is imported and run.",
)
@click.option(
    "--weights",
    type=PATH,
    metavar="FILE",
    help="In place of --surrogate: a state_dict (torch.save) or .safetensors of --network, as train takes it.",
)
@click.option(
    "--with-faults",
    metavar="LIST|BER",
    help="Run clean and adversarial images on faulty files as well: those of a fault list, or of chips at a bit error "
    "rate of the weights.",
)
@click.option("--fault-chips", type=int, default=20, show_default=True, help="Simulated chips at that rate.")
@click.option(
    "--bit-flip-batches", type=int, default=5, show_default=True, help="Bit-flip attacks, each with its own sample."
)
@click.option(
    "--bit-flip-limit", type=int, default=100, show_default=True, help="Flips after which such an attack is given up."
)
@click.option(
    "--bit-flip-target", metavar="CLASS", help="Class that all images are to be given.  [default: accuracy to chance]"
)
@click.option(
    "--bit-flip-loss",
    type=click.Choice(["gathered", "capped", "cross-entropy"]),
    default="gathered",
    show_default=True,
    help="What flips raise: the cross-entropy, as published, or capped for images that are answered wrong already, "
    "or that until half of the margin is lost and then the commonest class.",
)
@click.option(
    "--flippable",
    type=PATH,
    metavar="CSV",
    help="Fault list tensor,index,bit of the only bits that can be flipped, such as hammering rows finds.  [default: "
    "all]",
)
@click.option("--bit-flip-roles", default="weight", show_default=True, help="Roles whose bits may be flipped, or all.")
@click.option(
    "--fail-below",
    multiple=True,
    metavar="robust@EPSILON=BOUND",
    help="Exit 1 if the interval of robust accuracy begins below a share, or a check found it not to be trusted; also "
    "robust=BOUND (every radius), clean=BOUND, corruptions@SEVERITY=BOUND or corruptions=BOUND (means over "
    "corruptions), and trustworthy: the checks for masked gradients were run and passed.",
)
@junit_option
@arithmetic_option
@click.option("--workers", type=int, help="Processes.  [default: all cores]")
@seed_option
@resume_option
def command(model: pathlib.Path, dataset: str, **given: Any) -> None:
    """Attack MODEL as it is deployed, on onnxruntime, and check that the figures can be trusted.

    square needs the scores of the file, hopskipjump its classes, transfer-pgd the float network, and twin-pgd and
    twin-apgd the file itself, for gradients; all are judged on the file. bit-flip changes the file and not the images.
    corruptions are no attack: noise, blur, brightness, contrast, JPEG and fog at five severities.

    \b
    Examples:
      resq-deploy attackcamp net.int8.onnx --dataset digits --out run
      resq-deploy attackcamp net.int8.onnx --dataset cifar10 --data-dir data --surrogate run/fault.pt --out run
      resq-deploy attackcamp net.int8.onnx --dataset photos --network my_module:build --weights my.pth --out run
      resq-deploy attackcamp net.int8.onnx --dataset cifar10 --norm l2 --epsilon 0.5 --attacks twin-apgd --out run
      resq-deploy attackcamp net.int8.onnx --dataset digits --attacks square --queries 500 --out run  (needs no torch)
      resq-deploy attackcamp net.int8.onnx --dataset digits --fail-below robust@4=0.4 --junit gates.xml --out run
      resq-deploy attackcamp net.int8.onnx --dataset digits --attacks bit-flip --out run
      resq-deploy attackcamp net.int8.onnx --dataset digits --attacks corruptions --fail-below corruptions@3=0.6 --out s
      resq-deploy attackcamp net.int8.onnx --dataset digits --with-faults 1e-3 --out run
    """
    junit, gates = given.pop("junit"), given.pop("fail_below")
    if junit is not None and not gates:
        raise OptionError(f"--junit {junit} is to hold what became of gates: give --fail-below, such as robust@4=0.4")
    on = {name: given.pop(name) for name in ("data_dir", "split", "out", "resume")}
    asked = read_preprocessing(given)
    with api.junit(junit, f"attackcamp {model.name}") as verdicts:
        run = api.attackcamp(model, dataset, **on, preprocessing=asked, gates=gates, progress=True, say=say, **given)
        _print(run, given["seed"])
        verdicts += run.gates
        print_gates("--fail-below", run.gates)


def read_options(given: dict[str, Any]) -> "AttackOptions":
    """Turn the command's options into those of a campaign, as a study does to check them.

    Raises:
        OptionError: if one, or a combination of them, makes no sense.
    """
    read_preprocessing(given)
    return api.attack_options(**given)


def _described(threat: Mapping[str, Any], seed: int) -> str:
    """Say what the figures are about, defaults included."""
    unit = "/255" if threat["norm"] == "linf" else ""
    if list(threat["attacks"]) == ["corruptions"]:
        return f"corruptions: five severities, {threat['images']:,} images, seed {seed}"
    return (
        f"{', '.join(threat['attacks'])}: {threat['norm']} {', '.join(threat['epsilon'])}{unit}, "
        f"{threat['images']:,} images, {threat['queries']:,} queries, {threat['steps']} steps, seed {seed}"
    )


def _print(run: api.AttackRun, seed: int) -> None:
    summary = run.summary
    threat = summary["threat"]
    click.echo(_described(threat, seed))
    click.echo(f"clean accuracy {percent(summary['clean'])} on {threat['images']} images")
    if summary["robust"]:
        _print_robust(summary, "1/255" if threat["norm"] == "linf" else "pixels")
        _print_queries(summary["queries"])
        _print_checks(summary)
    if "corruptions" in summary:
        _print_corruptions(summary["corruptions"])
    if "bit_flip" in summary:
        print_bit_flip(summary["bit_flip"])
    if "fault_attack" in summary:
        print_fault_attack(summary["fault_attack"])
    click.echo(f"written to {run.path}")


def _print_robust(summary: Mapping[str, Any], unit: str) -> None:
    """Print robust accuracy by attack and epsilon; at 8 bits as well where that differs."""
    epsilons = list(summary["worst_case"])
    rows = []
    for attack, exact in [*summary["robust"].items(), ("worst case", summary["worst_case"])]:
        rounded = summary["worst_case_8bit"] if attack == "worst case" else summary["robust_8bit"][attack]
        rows.append((attack, *(percent(exact[epsilon]) for epsilon in epsilons)))
        if rounded != exact:
            rows.append(("  at 8 bits", *(percent(rounded[epsilon]) for epsilon in epsilons)))
    norm = summary["threat"]["norm"]
    print_table(f"Robust accuracy by epsilon, {norm}, {unit}", ("attack", *epsilons), rows)


def _print_corruptions(found: Mapping[str, Any]) -> None:
    """Print accuracy by corruption and severity, and the means over corruptions."""
    severities = list(found["by_severity"])
    rows = [
        (name, *(percent(row[severity], 1) for severity in severities))
        for name, row in [*found["accuracy"].items(), ("mean", found["by_severity"])]
    ]
    print_table(f"Accuracy by severity, {found['definitions']}", ("corruption", *severities), rows)
    click.echo(f"mean corruption accuracy {percent(found['mean'])}: what sensors do, not attackers")


def _print_queries(queries: Mapping[str, Any]) -> None:
    for attack, radii in queries.items():
        spent = ", ".join(f"{found['mean']:,.0f}" for found in radii.values())
        click.echo(f"{attack}: {spent} queries an image")


def _print_checks(summary: Mapping[str, Any]) -> None:
    """Print the checks, the failed ones in red, and what they mean for the figures."""
    words = {True: "passed", False: "FAILED", None: "not run"}
    for name, check in summary["checks"].items():
        text = f"check {name}: {words[check['passed']]}"
        reason = f" ({check['reason']})" if check["reason"] else ""
        click.secho(text + reason, fg="red" if check["passed"] is False else None)
    if summary["trustworthy"] is False:
        click.secho("NOT TRUSTWORTHY: a check failed, so robust accuracy may be too high", fg="red", bold=True)
        return
    if summary["upper_bound"]:
        click.echo("robust accuracy is an upper bound: the file was not attacked with its own gradients")
    if summary["trustworthy"]:
        click.echo("trustworthy: no check failed, those that look for masked gradients among them")
    else:
        missing = ", ".join(summary["trustworthy_missing"])
        click.echo(
            f"not shown to be trustworthy: no check failed, but of those for masked gradients {missing} did not run"
        )
