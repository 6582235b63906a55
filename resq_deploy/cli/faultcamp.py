"""`resq-deploy faultcamp`: a fault campaign on a deployed file."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from resq_deploy.cli.fault_figures import print_plan, print_summary, told_audit
from resq_deploy.cli.junit import Case, junit_file, junit_option, print_gates
from resq_deploy.cli.preprocessing import preprocessing_options, read_preprocessing, tell_accuracy
from resq_deploy.cli.samples import read_data, sample_options
from resq_deploy.cli.shared import (
    PATH,
    arithmetic_option,
    data_dir_option,
    out_option,
    percent,
    resume_option,
    seed_option,
    split_option,
    tell_arithmetic,
    workers_option,
)
from resq_deploy.errors import OptionError
from resq_deploy.progress import progress_bar
from resq_deploy.records import check_free

if TYPE_CHECKING:
    from resq_deploy.campaign.options import CampaignOptions
    from resq_deploy.campaign.run import Campaign

_MODELS = ("single", "ber", "burst", "stuck-at-0", "stuck-at-1", "word")


@click.command()
@click.argument("model", type=PATH)
@sample_options
@data_dir_option
@split_option
@preprocessing_options
@out_option("Run folder to write: summary.json, faults.csv, campaign.sqlite, manifest.json.", required=False)
@click.option("--images", type=int, default=1000, show_default=True, help="Samples to judge by, such as test images.")
@click.option(
    "--judge",
    metavar="NAME[:OPTION=VALUE,...]",
    help="What counts as wrong: top1 (classifiers), binary, labels, map (segmentation, tags), boxes (detectors), "
    "embedding, values (relative error), or module:function of your own.  [default: guessed from the outputs]",
)
@click.option("--outputs", metavar="NAME,...", help="Outputs to judge.  [default: those that the judge reads]")
@click.option(
    "--images-per-fault",
    metavar="auto|N|all",
    help="How many of them, drawn by seed and fault, each fault is judged on; auto: as many as are cheapest.  "
    "[default: auto with --margin where bits are drawn, else all]",
)
@click.option(
    "--faults",
    type=click.Choice(_MODELS),
    help="single: one flipped bit a fault; ber: every bit flips with a given probability, one mask a chip; burst: "
    "adjacent bits of one value; stuck-at: a bit forced to 0 or 1; word: a value replaced.  [default: single]",
)
@click.option(
    "--draw",
    type=click.Choice(["bits", "layers"]),
    default="bits",
    show_default=True,
    help="bits: every stored bit alike; layers: every layer alike, whatever its size, then a bit of it, as several "
    "published campaigns do: figures are then means over layers, and --ber counts draws.",
)
@click.option("--burst", type=int, default=2, show_default=True, metavar="N", help="Bits of a burst.")
@click.option("--fault-list", type=PATH, metavar="CSV", help="Faults to run: tensor,index,bit[,fault,op,value].")
@click.option("--roles", default="all", show_default=True, help="Roles to hit, such as weight,bias.")
@click.option("--layers", metavar="GLOB", default="*", show_default=True, help="Layers to hit, by shell pattern.")
@click.option("--bits", help="Bit positions to hit, such as 7 or 0-3,31; 0 is the least significant.")
@click.option(
    "--ber",
    metavar="P,P,...",
    default="1e-6,1e-5,1e-4,1e-3,1e-2",
    show_default=True,
    help="Bit error rates: of ber's masks, and of the exposure that other models end with.",
)
@click.option(
    "--chips", type=int, default=20, show_default=True, help="Simulated chips a rate, for ber without --margin."
)
@click.option("--samples", type=int, help="How many faults to draw, evenly from the population.")
@click.option(
    "--margin",
    type=float,
    help="Half-width wanted for SDC-1, a fraction; draws in strata, of ber chips, until reached.  [default: 0.01]",
)
@click.option(
    "--refine",
    type=PATH,
    metavar="RUN",
    help="Go on with a finished campaign that was run with --margin: its faults are kept, and further ones drawn where "
    "roles and larger layers have the widest intervals, until each has --margin, or --samples more; RUN stays as it "
    "is.",
)
@click.option("--exhaustive", is_flag=True, help="Evaluate every fault there is.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Coverage of the intervals.")
@click.option(
    "--ecc",
    type=click.Choice(["none", "secded"]),
    default="none",
    show_default=True,
    help="Memory: secded corrects one and detects two flips in 64 bits.",
)
@click.option("--fit-per-mbit", type=float, metavar="R", help="Raw failures in 10^9 hours and 10^6 bits of the memory.")
@click.option(
    "--scrub-hours",
    type=float,
    metavar="T",
    help="With --fit-per-mbit: hours after which the stored file is made sound again (healed by scrub, or written "
    "anew), which bounds how many flips gather in one word of a code.",
)
@click.option(
    "--lifetime-hours",
    type=float,
    default=87_600.0,
    show_default=True,
    metavar="L",
    help="Hours that flips gather where it never is, to compare --scrub-hours with.",
)
@click.option(
    "--failing-share",
    type=float,
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="Count in the exposure, beside faults that change any answer, those that change more than this share.",
)
@click.option("--time-limit", type=float, metavar="S", help="Seconds before a run counts as due.  [default: none]")
@click.option(
    "--engine",
    type=click.Choice(["replay", "reload"]),
    default="replay",
    show_default=True,
    help="reload: every fault in a session of its own over all images; replay: the same figures, from what a fault "
    "changes alone.",
)
@click.option(
    "--audit",
    type=float,
    metavar="SHARE",
    help="Share of the faults to run again by reload-and-run and compare bit by bit: 20 at least, and one of each way, "
    "role and layer; 0 for none.  [default: 0.01 with replay]",
)
@click.option("--memory", type=int, metavar="BYTES", default=2_000_000_000, show_default=True, help="Memory to use.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler whose workers run the faults, such as tcp://host:8786; local starts one here, with "
    "--workers processes.",
)
@click.option("--provider", "providers", multiple=True, help="onnxruntime provider.  [default: CPUExecutionProvider]")
@click.option(
    "--optimization",
    type=click.Choice(["all", "extended", "basic", "none"]),
    default="all",
    show_default=True,
    help="onnxruntime's graph optimisation, as deployed.",
)
@arithmetic_option
@click.option(
    "--dry-run", is_flag=True, help="Print population, planned faults and an estimate of the time; write nothing."
)
@click.option(
    "--fail-above",
    multiple=True,
    metavar="METRIC[@BER]=BOUND",
    help="Exit 1 if the interval of an outcome ends above a share, such as sdc1=0.01; of ber at every rate, or at one.",
)
@junit_option
@workers_option
@seed_option
@resume_option
def command(model: pathlib.Path, dataset: str, **given: Any) -> None:
    """Flip stored bits of MODEL, run it on test images or other samples with onnxruntime, and count what happens.

    A fault is one or more flipped bits of the stored file; what it does is what the file answers once loaded again. A
    role is what a stored value is for: weight, bias, scale, zero point, code. A chip is one drawing of all bits, each
    flipped with the probability that --ber gives.

    \b
    Examples:
      resq-deploy faultcamp net.int8.onnx --dataset digits --samples 200 --out run
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --data-dir data --margin 0.02 --out run
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --faults ber --ber 1e-4,1e-3,1e-2 --out run
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --faults ber --ber 1e-5,3e-4 --draw layers --out even
      resq-deploy faultcamp net.int8.onnx --dataset digits --fault-list run/faults.csv --out again
      resq-deploy faultcamp net.int8.onnx --dataset digits --out run --margin 0.005 --fail-above sdc1=0.01
      resq-deploy faultcamp net.int8.onnx --dataset digits --faults ber --dry-run --fail-above sdc1@1e-5=0.01
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --out run --scheduler tcp://host:8786
      resq-deploy faultcamp net.int8.onnx --dataset digits --refine run --margin 0.02 --out finer
      resq-deploy faultcamp tagger.onnx --dataset sentences.npz --samples 200 --out run
      resq-deploy faultcamp detr.onnx --dataset pictures.npz --feed sizes=640,640 --samples 200 --out run
      resq-deploy faultcamp voice.onnx --dataset synthetic --state h_out=h --state c_out=c --samples 200 --out run
    """
    data_dir, out, resume, dry_run = (given.pop(name) for name in ("data_dir", "out", "resume", "dry_run"))
    split = given.pop("split")
    given_gates, refine, junit = (given.pop(name) for name in ("fail_above", "refine", "junit"))
    feeds, states, sizes = (given.pop(name) for name in ("feed", "state", "size"))
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out'.", click.get_current_context())
    from resq_deploy.campaign.gates import needs, parse_gate
    from resq_deploy.campaign.refine import Base
    from resq_deploy.campaign.run import Campaign
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.deployed.sidecar import made_ready

    gates = [parse_gate(text) for text in given_gates]
    asked = read_preprocessing(given)
    options = read_options(given)
    if out is not None:
        check_free(out, resume=resume)
    deployed = DeployedModel.load(model)
    data = read_data(deployed, dataset, options.deployment, data_dir=data_dir, feeds=feeds, states=states, sizes=sizes)
    data, options, notes = made_ready(options, deployed, data, asked.on(data), split=split)
    base = None if refine is None else Base.read(refine)
    if base is not None:
        options = base.refined(options)
    held = () if dry_run else gates  # a dry run says what they need instead
    campaign = Campaign(deployed, data, options, lambda text: click.echo(text, err=True), held, base)
    for line in (*notes, *(f"note: {note}" for note in campaign.golden.notes)):
        click.echo(line, err=True)
    tell_accuracy(deployed, data, campaign.golden.right, campaign.golden.labels)
    told = needs(gates, campaign.plan)
    if dry_run:
        print_plan(campaign.estimate())
        for need in told:
            click.echo(f"{need}{'' if need.reachable else ': it cannot pass'}")
        return
    tell_arithmetic(options.deployment)
    for need in told:
        if need.margin is not None and need.gate.bound <= need.margin:
            click.echo(f"note: {need}, which may leave its upper end above the bound: give a lower --margin", err=True)
    with junit_file(junit, f"faultcamp {model.name}") as cases:
        summary = _run(campaign, out, resume)
        print_summary(summary, out)
        held_gates = [_case(gate) for gate in summary["gates"]]
        cases += [*held_gates, _audit_case(summary["audit"], options.confidence)]
        print_gates("--fail-above", held_gates)


def read_options(given: dict[str, Any]) -> "CampaignOptions":
    """Turn the command's options into those of a campaign.

    Raises:
        OptionError: if one, or a combination of them, makes no sense.
    """
    from resq_deploy.campaign.options import (
        CampaignOptions,
        FaultModel,
        parse_bits,
        parse_draw,
        parse_images_per_fault,
        parse_rates,
        parse_roles,
    )
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.deployed.session import Deployment

    read_preprocessing(given)
    listed = given["fault_list"] is not None
    given["deployment"] = Deployment(
        providers=given.pop("providers") or ("CPUExecutionProvider",),
        optimization=given.pop("optimization"),
        arithmetic=Arithmetic(given.pop("arithmetic")),
    )
    if listed and given["faults"]:
        raise OptionError("--fault-list names the faults itself: leave --faults out")
    given["faults"] = FaultModel.LIST if listed else FaultModel(given["faults"] or "single")
    if given["images_per_fault"] is not None:
        given["images_per_fault"] = parse_images_per_fault(given["images_per_fault"])
    given["roles"] = parse_roles(given["roles"])
    given["bits"] = () if given["bits"] is None else parse_bits(given["bits"])
    given["ber"] = parse_rates(given["ber"])
    given["draw"] = parse_draw(given["draw"])
    names = (name.strip() for name in (given["outputs"] or "").split(","))
    given["outputs"] = tuple(name for name in names if name)
    return CampaignOptions(**given)


def _run(campaign: "Campaign", out: pathlib.Path, resume: bool) -> dict[str, Any]:
    from resq_deploy.campaign.run import Progress

    with progress_bar("faults") as bar:
        task = bar.add_task("faultcamp", total=None)

        def show(progress: Progress) -> None:
            # Bit error rates are never pooled, not even here.
            text = "bit errors" if campaign.plan.masks else f"SDC-1 {100 * progress.sdc1:.2f} %"
            bar.update(task, completed=progress.done, total=progress.total, description=text)

        return campaign.run(out, resume=resume, report=show)


def _audit_case(audit: Mapping[str, Any], confidence: float) -> Case:
    """Say what became of the audit, which is an error of its own where it fails."""
    checked = bool(audit["checked"])
    told = told_audit(audit, confidence) if checked else "no fault was audited"
    return Case(name="faults equal reload-and-run", passed=True if checked else None, told=told)


def _case(gate: Mapping[str, Any]) -> Case:
    """Say what became of a gate."""
    at = "" if gate["ber"] is None else f"@{gate['ber']:g}"
    found = percent(gate["estimate"]) if gate["estimate"] else "no fault that could be judged"
    told = f"{found}, bound {100 * gate['bound']:g} %"
    return Case(
        name=f"{gate['metric']}{at}={gate['bound']:g}",
        passed=gate["passed"],
        told=told if gate["passed"] else f"{told}; the upper end is above the bound",
    )
