"""The whole line in one call: a network hardened, its files exported, protected, attacked and hit by faults."""

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resq_deploy.api.extras import need_extra
from resq_deploy.api.given import PathLike, Say, as_dataset, as_path, silent
from resq_deploy.api.images import unit_normalisation
from resq_deploy.errors import FailedError, OptionError
from resq_deploy.records import check_free, write_atomic

if TYPE_CHECKING:
    from resq_deploy.pipeline.own_demo import OwnOptions

_PRESENTED = ("channels", "scale", "mean", "std", "preprocess")
_TRAINING = ("epochs_baseline", "epochs_attack", "epochs_fault", "train_images")

RunCommand = Callable[[Sequence[str]], object]
"""Runs a command of `resq-deploy`, given its name and arguments; raises where it fails."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoRun:
    """What came of it.

    Attributes:
        path: the run folder.
        summary: `summary.json`: every figure, file by file.
        page: the page to open.
        commands: the commands that were run; None for the demo on digits.
    """

    path: pathlib.Path
    summary: Mapping[str, Any]
    page: pathlib.Path
    commands: pathlib.Path | None

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return headings and rows of the figures that count, a column a file."""
        from resq_deploy.report.demo import demo_table

        found = demo_table(self.summary)
        return found.headers, found.rows


def demo(
    out: PathLike,
    *,
    network: str | None = None,
    dataset: str | None = None,
    data_dir: PathLike | None = None,
    split: float | None = None,
    weights: PathLike | None = None,
    clean_budget: float | None = None,
    images: int = 200,
    seed: int = 0,
    arithmetic: str = "exact",
    resume: bool = False,
    progress: bool = False,
    say: Say = silent,
    run_command: RunCommand | None = None,
    **named: Any,
) -> DemoRun:
    """Harden a network, protect its file, and test three files side by side: baseline, hardened, protected.

    Without a network this is resnet8 on digits: about three minutes on two cores, and nothing to download.

    Args:
        out: run folder to write.
        network: one of your own: a name, or `module:function`, as `harden` takes it.
        dataset: images for it: a name, a folder or an `.npz`.
        data_dir: where named data sets lie.
        split: share of each class to test on, of a folder DIR/CLASS/*.
        weights: its weights: a state_dict or safetensors file; None trains fresh ones first.
        clean_budget: what hardening may cost, in points of accuracy.
        images: test images of attacks and faults, of a network of your own.
        seed: of everything.
        arithmetic: in which the int8 files are run, `exact` or `native`.
        resume: go on with the run in `out`.
        progress: whether to show training as the command does.
        say: told each step as it begins.
        run_command: runs one step of a network of your own; None for a process of its own each.
        named: how the network wants its images (`channels`, `scale`, `mean`, `std`, `preprocess`), and of its training
            `epochs_baseline`, `epochs_attack`, `epochs_fault` and `train_images`.

    Raises:
        ResqError: if an option cannot be used, or a step fails.
    """
    folder = as_path(out)
    given = {
        "dataset": dataset,
        "data_dir": data_dir,
        "split": split,
        "weights": weights,
        "clean_budget": clean_budget,
        **named,
    }
    own = _own_options(network, given, images, seed, arithmetic)
    if own is not None:
        from resq_deploy.networks.names import check_name

        check_name(own.network)
        as_dataset(own.dataset, own.data_dir, own.split)
    check_free(folder, resume=resume)
    need_extra("the demo", "train", "torch", "torchvision", "onnxscript")
    need_extra("the demo's page", "report", "jinja2", "jsonschema", "matplotlib")
    from resq_deploy.report.demo import demo_page

    if own is None:
        summary = _digits(folder, seed, arithmetic, resume=resume, progress=progress, say=say)
    else:
        from resq_deploy.pipeline.own_demo import run_own

        summary = run_own(folder, own, run_command or _in_a_process, resume=resume, say=say)
    page = folder / "report.html"
    write_atomic(page, demo_page(summary))
    return DemoRun(path=folder, summary=summary, page=page, commands=None if own is None else folder / "commands.sh")


def _digits(out: pathlib.Path, seed: int, arithmetic: str, *, resume: bool, progress: bool, say: Say) -> dict[str, Any]:
    """Run the demo on digits."""
    from resq_deploy.api.training import reporting
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.pipeline.demo import DemoOptions, run_demo

    with reporting(progress, silent) as report:
        options = DemoOptions(seed=seed, arithmetic=Arithmetic(arithmetic))
        return run_demo(out, options, resume=resume, say=say, report=report)


def _in_a_process(arguments: Sequence[str]) -> None:
    """Run a command in a process of its own.

    Raises:
        FailedError: with the last line that it printed, if it fails.
    """
    line = [sys.executable, "-m", "resq_deploy", *arguments]
    done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise FailedError(f"{arguments[0]} failed: {last.removeprefix('resq-deploy: ')}")


def _own_options(
    network: str | None, given: Mapping[str, Any], images: int, seed: int, arithmetic: str
) -> "OwnOptions | None":
    """Return what the line is run on; None for the demo on digits.

    Raises:
        OptionError: if one, or a combination of them, makes no sense.
    """
    known = ("dataset", "data_dir", "split", "weights", "clean_budget", *_PRESENTED, *_TRAINING)
    said = {name: value for name, value in given.items() if value is not None}
    if unknown := next((name for name in said if name not in known), None):
        raise OptionError(f"no option {unknown!r}; there are {', '.join(known)}")
    if network is None:
        if said:
            raise OptionError(
                f"--{next(iter(said)).replace('_', '-')} is about a network of yours: give --network, too"
            )
        return None
    if "dataset" not in said:
        raise OptionError(f"--network {network}: say with --dataset what images it is for")
    from resq_deploy.pipeline.own_demo import OwnOptions

    # What makes no sense is told now.
    unit_normalisation(*(said.get(name) for name in ("preprocess", "mean", "std", "scale")))
    presented = _as_typed(said, _PRESENTED)
    if not {"--preprocess", "--mean", "--scale"} & set(presented):
        presented += ("--preprocess", "dataset")  # to training and export alike
    paths = {name: as_path(said[name]) for name in ("data_dir", "weights") if name in said}
    return OwnOptions(
        network=network,
        dataset=said["dataset"],
        split=said.get("split"),
        clean_budget=said.get("clean_budget"),
        presented=presented,
        training=_as_typed(said, _TRAINING),
        images=images,
        seed=seed,
        arithmetic=arithmetic,
        **paths,
    )


def _as_typed(given: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return options as they are typed."""
    named = [(f"--{name.replace('_', '-')}", given[name]) for name in names if name in given]
    return tuple(word for flag, value in named for word in (flag, _typed(value)))


def _typed(value: Any) -> str:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return ",".join(map(str, value)) if several else str(value)
