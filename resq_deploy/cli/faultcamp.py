"""`resq-deploy faultcamp`: a fault campaign on a deployed file."""

import pathlib
from typing import TYPE_CHECKING, Any

import click

from resq_deploy import api
from resq_deploy.cli.fault_figures import print_plan, print_summary
from resq_deploy.cli.gates import junit_option, print_gates
from resq_deploy.cli.preprocessing import NAMES, preprocessing_options, read_preprocessing
from resq_deploy.cli.samples import sample_options
from resq_deploy.cli.sections import SectionedCommand
from resq_deploy.cli.shared import (
    PATH,
    arithmetic_option,
    data_dir_option,
    out_option,
    resume_option,
    say,
    seed_option,
    split_option,
    workers_option,
)

if TYPE_CHECKING:
    from resq_deploy.api import CampaignOptions

_MODELS = (
    "single",
    "ber",
    "burst",
    "stuck-at-0",
    "stuck-at-1",
    "word",
    "cluster",
    *(f"stuck-{line}-{value}" for line in ("row", "column") for value in (0, 1)),
)


SECTIONS = {
    "What is run, and on what": ("dataset", "data_dir", "split", "images", "feed", "state", "size", "out"),
    "How the network takes its images": NAMES,
    "What counts as wrong": ("judge", "decode", "outputs"),
    "What is hit": (
        "faults",
        "ber",
        "burst",
        "cluster_shares",
        "memory_layout",
        "flip_direction",
        "true_cells",
        "fault_list",
        "roles",
        "layers",
        "bits",
        "draw",
        "ecc",
    ),
    "How many faults, on how many images": (
        "samples",
        "margin",
        "exhaustive",
        "chips",
        "refine",
        "images_per_fault",
        "confidence",
        "seed",
    ),
    "Failures in time": ("fit_per_mbit", "scrub_hours", "lifetime_hours", "failing_share"),
    "Gates": ("fail_above", "junit"),
    "How the file is deployed": ("arithmetic", "optimization", "providers", "time_limit"),
    "How the campaign runs": ("dry_run", "resume", "workers", "scheduler", "memory", "engine", "audit"),
}
"""Headings of the help, and what is under them."""


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.argument("model", type=PATH)
@sample_options
@data_dir_option
@split_option
@preprocessing_options
@out_option("Run folder to write: summary.json, faults.csv, campaign.sqlite, manifest.json.", required=False)
@click.option("--images", type=int, help="Samples to judge by, such as test images.  [default: 1000]")
@click.option(
    "--judge",
    metavar="NAME[:OPTION=VALUE,...]",
    help="What counts as wrong: top1 (classifiers), binary, labels, map (segmentation, tags), boxes (detectors), "
    "embedding, values (relative error), or module:function of your own.  [default: guessed from the outputs]",
)
@click.option(
    "--decode",
    metavar="NAME|MODULE:FUNCTION",
    help="How a detector's outputs become boxes: yolov5, yolov8, ssd, detr, decoded, or code of your own.  [default: "
    "told by the outputs]",
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
    "adjacent bits of one value; stuck-at: a bit forced to 0 or 1; word: a value replaced; cluster: neighbouring cells "
    "of the memory, as one particle upsets them; stuck-row and "
    "stuck-column: each line of the memory, held at 0 or 1.  [default: single]",
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
@click.option(
    "--flip-direction",
    metavar="both|0to1|1to0|1to0:SHARE",
    default="both",
    show_default=True,
    help="Which way bits may flip, or that share of the strikes from 1 to 0 and the others from 0 to 1; a strike on a "
    "cell that holds the value already counts as a fault that is masked.",
)
@click.option(
    "--true-cells",
    metavar="SHARE|rows:N",
    help="With --flip-direction, which cells flip that way, and the others the other way: each with that probability, "
    "by the seed, or N rows of --memory-layout of each kind by turns.  [default: all, or a table's column cells]",
)
@click.option(
    "--cluster-shares",
    metavar="CELLS=SHARE,...",
    default="2=1",
    show_default=True,
    help="Of cluster: how many cells of a row, or ROWSxCOLUMNS, and how often, such as 2=0.6,3=0.25,2x2=0.15.",
)
@click.option(
    "--memory-layout",
    metavar="file|interleaved:N|rows:BYTES|CSV",
    default="file",
    show_default=True,
    help="Of cluster, rows, columns and true cells: which bits are neighbours; words as the file has them, N words "
    "interleaved bit by bit, rows of so many bytes, or a table tensor,byte,bytes,row,column[,cells].",
)
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
      resq-deploy faultcamp net.int8.onnx --dataset digits --faults cluster --cluster-shares 2=0.7,3=0.2,4=0.1 \
          --memory-layout interleaved:4 --ecc secded --out upsets
      resq-deploy faultcamp net.int8.onnx --dataset digits --fault-list run/faults.csv --out again
      resq-deploy faultcamp net.int8.onnx --dataset digits --out run --margin 0.005 --fail-above sdc1=0.01
      resq-deploy faultcamp net.int8.onnx --dataset digits --faults ber --dry-run --fail-above sdc1@1e-5=0.01
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --out run --scheduler tcp://host:8786
      resq-deploy faultcamp net.int8.onnx --dataset digits --refine run --margin 0.02 --out finer
      resq-deploy faultcamp tagger.onnx --dataset sentences.npz --samples 200 --out run
      resq-deploy faultcamp detr.onnx --dataset pictures.npz --feed sizes=640,640 --samples 200 --out run
      resq-deploy faultcamp voice.onnx --dataset synthetic --state h_out=h --state c_out=c --samples 200 --out run
    """
    out, resume, dry_run, junit = (given.pop(name) for name in ("out", "resume", "dry_run", "junit"))
    on = {name: given.pop(name) for name in ("data_dir", "split", "feed", "state", "size", "refine")}
    on["gates"] = given.pop("fail_above")
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out'.", click.get_current_context())
    on["preprocessing"] = read_preprocessing(given)
    named = {name: value for name, value in given.items() if value is not None and value != ()}
    if dry_run:
        print_plan(api.estimate_faultcamp(model, dataset, **on, say=say, **named))
        return
    with api.junit(junit, f"faultcamp {model.name}") as verdicts:
        run = api.faultcamp(model, dataset, out=out, resume=resume, progress=True, say=say, **on, **named)
        print_summary(run)
        verdicts += [*run.gates, run.audit]
        print_gates("--fail-above", run.gates)


def read_options(given: dict[str, Any]) -> "CampaignOptions":
    """Turn the command's options into those of a campaign, as a study does to check them.

    Raises:
        OptionError: if one, or a combination of them, makes no sense.
    """
    read_preprocessing(given)
    return api.fault_options(**{name: value for name, value in given.items() if value != ()})
