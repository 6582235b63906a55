"""`resq-deploy demo`: the whole line in a few minutes, on digits or on a network of the user's own."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from resq_deploy.api.images import unit_normalisation
from resq_deploy.cli.preprocessing import (
    channels_option,
    mean_option,
    preprocess_option,
    scale_option,
    std_option,
)
from resq_deploy.cli.shared import (
    PATH,
    arithmetic_option,
    data_dir_option,
    need_extra,
    out_option,
    print_table,
    resume_option,
    seed_option,
    split_option,
)
from resq_deploy.errors import OptionError
from resq_deploy.records import check_free

if TYPE_CHECKING:
    from resq_deploy.cli.own_demo import OwnOptions

_PRESENTED = ("channels", "scale", "mean", "std", "preprocess")
_TRAINING = ("epochs_baseline", "epochs_attack", "epochs_fault", "train_images")


@click.command()
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
def command(out: pathlib.Path, arithmetic: str, seed: int, resume: bool, **given: Any) -> None:
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
    own = _own_options(given, seed, arithmetic)
    check_free(out, resume=resume)
    need_extra("the demo", "train", "torch", "torchvision", "onnxscript")
    need_extra("the demo's page", "report", "jinja2", "jsonschema", "matplotlib")
    from resq_deploy.records import write_atomic
    from resq_deploy.report.demo import demo_page, demo_table

    begin = time.monotonic()

    def say(step: str) -> None:
        click.echo(f"[{time.monotonic() - begin:5.1f} s] {step}", err=True)

    run: Callable[..., dict[str, Any]] = functools.partial(_digits, seed, arithmetic)
    if own is not None:
        from resq_deploy.cli.own_demo import run_own

        run = functools.partial(run_own, options=own)
    summary = run(out, resume=resume, say=say)
    page = out / "report.html"
    write_atomic(page, demo_page(summary))
    table = demo_table(summary)
    print_table(f"{summary['network']} on {summary['dataset']}, 95 % intervals", table.headers, table.rows)
    if own is not None:
        click.echo(f"the commands that were run: {out / 'commands.sh'}; all their runs: {out / 'runs.html'}")
    click.echo(f"page with the curves: {page}  ({time.monotonic() - begin:.0f} s)")


def _digits(
    seed: int, arithmetic: str, out: pathlib.Path, *, resume: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run the demo on digits."""
    from resq_deploy.cli.training_progress import training_progress
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.pipeline.demo import DemoOptions, run_demo

    with training_progress() as report:
        options = DemoOptions(seed=seed, arithmetic=Arithmetic(arithmetic))
        return run_demo(out, options, resume=resume, say=say, report=report)


def _own_options(given: dict[str, Any], seed: int, arithmetic: str) -> "OwnOptions | None":
    """Return what the line is run on; None for the demo on digits.

    Raises:
        OptionError: if one, or a combination of them, makes no sense.
    """
    network, dataset = given["network"], given["dataset"]
    if network is None:
        said = [name for name, value in given.items() if value is not None and name != "images"]
        if said:
            raise OptionError(f"--{said[0].replace('_', '-')} is about a network of yours: give --network, too")
        return None
    if dataset is None:
        raise OptionError(f"--network {network}: say with --dataset what images it is for")
    from resq_deploy.cli.own_demo import OwnOptions

    unit_normalisation(
        *(given[name] for name in ("preprocess", "mean", "std", "scale"))
    )  # what makes no sense is told now
    presented = _as_typed(given, _PRESENTED)
    if not {"--preprocess", "--mean", "--scale"} & set(presented):
        presented += ("--preprocess", "dataset")  # to training and export alike
    return OwnOptions(
        network=network,
        dataset=dataset,
        data_dir=given["data_dir"],
        split=given["split"],
        weights=given["weights"],
        clean_budget=given["clean_budget"],
        presented=presented,
        training=_as_typed(given, _TRAINING),
        images=given["images"],
        seed=seed,
        arithmetic=arithmetic,
    )


def _as_typed(given: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return options as they are typed."""
    named = [(f"--{name.replace('_', '-')}", given[name]) for name in names if given[name] is not None]
    return tuple(
        word for flag, value in named for word in (flag, f"{value:g}" if isinstance(value, float) else str(value))
    )
