"""`resq-deploy demo`: the whole line in a few minutes."""

import pathlib
import time

import click

from resq_deploy.cli.shared import arithmetic_option, need_extra, out_option, print_table, resume_option, seed_option


@click.command()
@out_option("Run folder to write; report.html in it is the page to open.")
@arithmetic_option
@seed_option
@resume_option
def command(out: pathlib.Path, arithmetic: str, seed: int, resume: bool) -> None:
    """Train resnet8 on digits, harden it, protect its file, and test all three files side by side.

    Takes about three minutes on two cores, needs no download, and ends with a table and a page of plots.

    \b
    Example:
      resq-deploy demo --out demo
    """
    need_extra("the demo", "train", "torch", "torchvision", "onnxscript")
    need_extra("the demo's page", "report", "jinja2", "matplotlib")
    from resq_deploy.cli.training_progress import training_progress
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.pipeline.demo import DemoOptions, run_demo
    from resq_deploy.records import write_atomic
    from resq_deploy.report.demo import demo_page, demo_table

    begin = time.monotonic()

    def say(step: str) -> None:
        click.echo(f"[{time.monotonic() - begin:5.1f} s] {step}", err=True)

    with training_progress() as report:
        options = DemoOptions(seed=seed, arithmetic=Arithmetic(arithmetic))
        summary = run_demo(out, options, resume=resume, say=say, report=report)
    page = out / "report.html"
    write_atomic(page, demo_page(summary))
    table = demo_table(summary)
    print_table("resnet8 on digits, 95 % intervals", table.headers, table.rows)
    click.echo(f"page with the curves: {page}  ({time.monotonic() - begin:.0f} s)")
