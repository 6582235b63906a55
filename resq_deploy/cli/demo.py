"""`resq-deploy demo`: the whole line in a few minutes, on digits or on a network of the user's own."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import click

from resq_deploy import api
from resq_deploy.cli.preprocessing import channels_option, mean_option, preprocess_option, scale_option, std_option
from resq_deploy.cli.sections import SectionedCommand
from resq_deploy.cli.shared import (
    PATH,
    arithmetic_option,
    data_dir_option,
    out_option,
    print_table,
    resume_option,
    seed_option,
    split_option,
)

SECTIONS = {
    "A network of yours": ("network", "weights", "dataset", "data_dir", "split"),
    "How it takes its images": ("channels", "scale", "mean", "std", "preprocess"),
    "How it is hardened": ("clean_budget", "epochs_baseline", "epochs_attack", "epochs_fault", "train_images"),
    "How it is tested": ("images", "arithmetic", "seed"),
    "Where": ("out", "resume"),
}
"""Headings of the help, and what is under them."""


@click.command(cls=SectionedCommand, sections=SECTIONS)
@out_option("Run folder to write; report.html in it is the page to open.")
@click.option("--network", metavar="N", help="A network of your own: a name, or module:function as train takes it.")
@click.option("--weights", type=PATH, metavar="FILE", help="Its weights: a state_dict or .safetensors.")
@click.option("--dataset", metavar="D", help="Images for it: a name, a folder or an .npz, as for train.")
@data_dir_option
@split_option
@channels_option
@scale_option
@mean_option
@std_option
@preprocess_option
@click.option("--clean-budget", type=float, metavar="POINTS", help="What hardening may cost, in points of accuracy.")
@click.option("--epochs-baseline", type=int, help="As for train; so the next three.")
@click.option("--epochs-attack", type=int)
@click.option("--epochs-fault", type=int)
@click.option("--train-images", type=int)
@click.option(
    "--images", type=int, default=200, show_default=True, help="Test images of attacks and faults, with --network."
)
@arithmetic_option
@seed_option
@resume_option
def command(out: pathlib.Path, **given: Any) -> None:
    """Harden a network, protect its file, and test three files side by side: baseline, hardened, protected.

    Without options this is resnet8 on digits: about three minutes on two cores, and nothing to download. With
    --network and --dataset it is yours. Each step is a command that is printed and can be taken alone; a run that was
    stopped goes on with --resume. Ends with a table and a page of plots.

    \b
    Examples:
      resq-deploy demo --out demo
      resq-deploy demo --network my_module:build --weights my.pth --preprocess imagenet --dataset photos --out mine
      resq-deploy demo --network resnet20 --dataset cifar10 --data-dir data --clean-budget 2 --out mine
    """
    begin = time.monotonic()

    def tell(step: str) -> None:
        click.echo(f"[{time.monotonic() - begin:5.1f} s] {step}", err=True)

    run = api.demo(out, **given, progress=True, say=tell, run_command=_run)
    headers, rows = run.table()
    print_table(f"{run.summary['network']} on {run.summary['dataset']}, 95 % intervals", headers, rows)
    if run.commands is not None:
        click.echo(f"the commands that were run: {run.commands}; all their runs: {out / 'runs.html'}")
    click.echo(f"page with the curves: {run.page}  ({time.monotonic() - begin:.0f} s)")


def _run(arguments: Sequence[str]) -> None:
    """Run a command in this process, where torch is loaded already."""
    from resq_deploy.cli import group

    group.main(list(arguments), standalone_mode=False)
