"""`resq-deploy faultcamp`: a fault campaign on a deployed file."""

import pathlib
from typing import Any

import click

from resq_deploy.cli.shared import (
    PATH,
    data_dir_option,
    dataset_option,
    out_option,
    percent,
    print_table,
    progress_bar,
    resume_option,
    seed_option,
    workers_option,
)

_SHOWN = ("masked", "benign", "sdc1", "sdc5", "sdc10", "sdc20", "corrected", "corrupted", "nonfinite")


@click.command()
@click.argument("model", type=PATH)
@dataset_option
@data_dir_option
@out_option("Run folder to write: summary.json, faults.csv, campaign.sqlite, manifest.json.")
@click.option("--images", type=int, default=1000, show_default=True, help="Test images to judge by.")
@click.option(
    "--faults",
    type=click.Choice(["single", "ber"]),
    default="single",
    show_default=True,
    help="single: one flipped bit a fault; ber: every bit flips with a given probability, a mask a chip.",
)
@click.option("--roles", default="all", show_default=True, help="Roles to hit, such as weight,bias.")
@click.option("--layers", metavar="GLOB", default="*", show_default=True, help="Layers to hit, by shell pattern.")
@click.option("--bits", help="Bit positions to hit, such as 7 or 0-3,31; 0 is the least significant.")
@click.option("--ber", metavar="P,P,...", default="1e-6,1e-5,1e-4,1e-3,1e-2", show_default=True, help="Rates for ber.")
@click.option("--chips", type=int, default=20, show_default=True, help="Simulated chips a rate, for ber.")
@click.option("--samples", type=int, help="How many faults to draw.")
@click.option("--margin", type=float, help="Half-width wanted for SDC-1, a fraction.  [default: 0.01]")
@click.option("--exhaustive", is_flag=True, help="Evaluate every fault there is.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Coverage of the intervals.")
@click.option("--time-limit", type=float, metavar="S", help="Seconds before a run counts as due.")
@click.option("--engine", type=click.Choice(["reload"]), default="reload", show_default=True, help="How faults run.")
@workers_option
@seed_option
@resume_option
def command(model: pathlib.Path, dataset: str, out: pathlib.Path, resume: bool, **options: Any) -> None:
    r"""Flip stored bits of MODEL, run it on test images with onnxruntime, and count what happens.

    \b
    Examples:
      resq-deploy faultcamp net.int8.onnx --dataset digits --samples 200 --out run
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --data-dir data --roles bias --margin 0.02 --out run
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --faults ber --ber 1e-4,1e-3,1e-2 --out run
    """
    from resq_deploy.campaign import options as campaign_options
    from resq_deploy.campaign.run import Progress, run_campaign
    from resq_deploy.data import load_dataset
    from resq_deploy.deployed.model import DeployedModel

    data_dir = options.pop("data_dir")
    options.pop("engine")
    asked = campaign_options.CampaignOptions(
        **options
        | {
            "faults": campaign_options.FaultModel(options["faults"]),
            "roles": campaign_options.parse_roles(options["roles"]),
            "bits": campaign_options.parse_bits(options["bits"]) if options["bits"] else (),
            "ber": campaign_options.parse_rates(options["ber"]),
        }
    )
    deployed = DeployedModel.load(model)
    data = load_dataset(dataset, data_dir)
    with progress_bar("faults") as bar:
        task = bar.add_task("faultcamp", total=None)

        def show(progress: Progress) -> None:
            text = f"SDC-1 {100 * progress.sdc1:.2f} %"
            bar.update(task, completed=progress.done, total=progress.total, description=text)

        summary = run_campaign(deployed, data, asked, out, resume=resume, report=show)
    for note in data.notes:
        click.echo(f"note: {note}", err=True)
    _print(summary, out)


def _print(summary: dict[str, Any], out: pathlib.Path) -> None:
    golden, faults, population = summary["golden"], summary["faults"], summary["population"]
    click.echo(f"golden run: accuracy {percent(golden['accuracy'])} on {golden['images']} images")
    drawn = f"of {population['faults']:,}" if population["faults"] else "random masks"
    click.echo(
        f"{faults['evaluated']:,} {drawn} {summary['fault_model']} faults over {population['bits']:,} bits, "
        f"{faults['due']} due; accuracy under fault {percent(summary['accuracy'])}"
    )
    if "curve" in summary:
        rows = [
            (f"{point['ber']:.0e}", percent(point["accuracy"]), f"{100 * point['worst']:.2f} %", str(point["chips"]))
            for point in summary["curve"]
        ]
        print_table("Accuracy over bit error rate", ("BER", "mean", "worst chip", "chips"), rows)
    else:
        print_table("Image runs", ("outcome", "rate"), [(name, percent(summary["rates"][name])) for name in _SHOWN])
        by_role = [
            (role, percent(figures["sdc1"]), str(figures["sdc1"]["n"]) if figures["sdc1"] else "0")
            for role, figures in summary["by_role"].items()
        ]
        print_table("SDC-1 by role", ("role", "SDC-1", "faults"), by_role)
    speed = summary["throughput"]
    click.echo(f"{speed['faults_per_s']:.1f} faults/s, {speed['image_runs_per_s']:,.0f} image runs/s; written to {out}")
