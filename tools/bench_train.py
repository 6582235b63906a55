#!/usr/bin/env python3
r"""Measure what a training step of each stage costs, as a multiple of a plain one, side by side in one process.

A plain step is one of stage 0: forward, backward, optimiser. The variants take turns within each repeat, each on a
network of its own that starts from the same weights; figures are medians over the repeats, beside their extremes.
CPU seconds depend less on what else the machine does.
A stage 2 without views is one that follows no stage 1; with views it crafts perturbed images and has a teacher.
--compile adds the compiled steps of stages 0 and 1; like all others they are compared with the plain, eager one.

Example:
  OMP_NUM_THREADS=1 python tools/bench_train.py --network resnet20 --dataset digits --out train.json --markdown train.md
"""

import argparse
import dataclasses
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench_report import begin
from command_line import with_one_line_errors

from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset
from resq_deploy.errors import InputError
from resq_deploy.hardening.options import Stage as StageName
from resq_deploy.hardening.options import TrainOptions, with_recipe
from resq_deploy.records import write_atomic, write_json

if TYPE_CHECKING:
    from resq_deploy.hardening.checkpoint import Checkpoint
    from resq_deploy.hardening.workbench import Workbench

SCHEMA = 1
PLAIN = "plain"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A kind of step: its stage, whether that follows stage 1, the bound on its cost, whether it is compiled."""

    title: str
    stage: StageName
    hardened: bool = False
    bound: float | None = None
    compiled: bool = False


VARIANTS = {
    PLAIN: Variant("stage 0", "baseline"),
    "attack": Variant("stage 1, n-fgsm", "attack", bound=3.2),
    "fault": Variant("stage 2 without views", "fault", bound=2.3),
    "fault_views": Variant("stage 2 with views", "fault", hardened=True, bound=4.0),
    "plain_compiled": Variant("stage 0, compiled", "baseline", compiled=True),
    "attack_compiled": Variant("stage 1, n-fgsm, compiled", "attack", compiled=True),
}
NUMBERS = (  # option, least value, default, meaning
    ("batch-size", 2, 128, "images a step"),
    ("steps", 1, 4, "steps of each variant in a repeat"),
    ("repeats", 1, 7, "how often all is measured, after a repeat that is not counted"),
    ("seed", 0, 0, "seed of weights, images, perturbations and faults"),
)

Result = dict[str, Any]
Step = Callable[[], None]
Series = dict[str, dict[str, list[float]]]


def make_step(variant: Variant, options: TrainOptions, dataset: Dataset, folder: pathlib.Path) -> Step:
    """Return a function that trains on the next batch, as the loop does."""
    from resq_deploy.hardening.stage_run import StageRun
    from resq_deploy.hardening.workbench import Workbench

    folder.mkdir()
    bench = Workbench(dataclasses.replace(options, compile=variant.compiled), dataset, folder, lambda _: None)
    run = StageRun(bench, variant.stage, _hardened(bench) if variant.hardened else None, [])
    batches = (batch for epoch in itertools.count() for batch in bench.batches("bench", epoch, epochs=1, epoch=0))

    def step() -> None:
        run.step(next(batches))

    return step


def _hardened(bench: "Workbench") -> "Checkpoint":
    """Return the network's weights as if they came from stage 1."""
    from resq_deploy.hardening.checkpoint import Checkpoint

    return Checkpoint(
        network=bench.options.network,
        classes=bench.dataset.classes,
        mean=bench.mean,
        std=bench.std,
        image_size=bench.image_size,
        dataset=bench.dataset.name,
        stage="attack",
        lineage=("attack",),
        epoch=1,
        metrics={},
        state=bench.network.state_dict(),
    )


def measure(options: TrainOptions, dataset: Dataset, *, steps: int, repeats: int) -> Series:
    """Return seconds a step, by the clock, of each variant, a value a repeat; compiled ones where options say so."""
    variants = {name: variant for name, variant in VARIANTS.items() if options.compile or not variant.compiled}
    seconds: Series = {clock: {name: [] for name in variants} for clock in CLOCKS}
    with tempfile.TemporaryDirectory(prefix="resq-bench-") as place:
        made = {
            name: make_step(variant, options, dataset, pathlib.Path(place) / name) for name, variant in variants.items()
        }
        for repeat in range(repeats + 1):
            for name in list(made)[:: -1 if repeat % 2 else 1]:  # so that a drift favours none
                began = {clock: read() for clock, read in CLOCKS.items()}
                for _ in range(steps):
                    made[name]()
                if repeat:  # the first one warms up
                    for clock, read in CLOCKS.items():
                        seconds[clock][name].append((read() - began[clock]) / steps)
    return seconds


def assess(seconds: Series) -> dict[str, Result]:
    """Return seconds a step of each variant and, in CPU seconds, their ratio to the plain step of the same repeat."""
    figures = {}
    for name in seconds["wall"]:
        variant = VARIANTS[name]
        series = {clock: of[name] for clock, of in seconds.items()}
        ratios = {
            f"{clock}_ratio": _figure([value / plain for value, plain in zip(of[name], of[PLAIN], strict=True)])
            for clock, of in seconds.items()
        }
        within = None if variant.bound is None else ratios["cpu_ratio"]["median"] <= variant.bound
        times = {clock: _figure(values) for clock, values in series.items()}
        figures[name] = {**times, **ratios, "bound": variant.bound, "within": within}
    return figures


def _figure(values: Sequence[float]) -> Result:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "raw": list(values)}


def table(report: Result) -> str:
    """Return the report as a Markdown table, a row a kind of step."""
    options, host = report["options"], report["machine"]
    header = ["step", "seconds", "CPU seconds", "images/s", "times a plain step", "in CPU seconds", "bound"]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name, found in report["variants"].items():
        row = [VARIANTS[name].title, _spread(found["wall"], 3), _spread(found["cpu"], 3)]
        row += [f"{options['batch_size'] / found['wall']['median']:.0f}"]
        row += [_spread(found["wall_ratio"], 2), _spread(found["cpu_ratio"], 2)]
        rows.append([*row, f"{found['bound']:.1f}" if found["bound"] else ""])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{lines}\n\n{options['network']}, {options['precision']}, batches of {options['batch_size']} "
        f"{options['dataset']} images; {host['cpu']}, {options['threads']} threads, torch {options['torch']}. Medians "
        f"of {options['repeats']} repeats of {options['steps']} steps, with their extremes.\n"
    )


def _spread(figure: Result, digits: int) -> str:
    return f"{figure['median']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="as for resq-deploy train (default: resnet20)")
    parser.add_argument("--dataset", default="digits", help="as for resq-deploy train (default: digits)")
    parser.add_argument("--data-dir", type=pathlib.Path, help="where named data sets lie")
    parser.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto", help="(default: auto)")
    parser.add_argument("--compile", action="store_true", help="measure compiled steps as well")
    for name, _, default, meaning in NUMBERS:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default: {default})")
    parser.add_argument("--out", required=True, help="JSON file to write", type=pathlib.Path)
    parser.add_argument("--markdown", help="Markdown file to write, too", type=pathlib.Path)
    return parser


def run(given: argparse.Namespace) -> tuple[dict[str, Result], Result]:
    """Measure; return the figures and what they were taken with."""
    import torch

    for name, least, *_ in NUMBERS:
        value = getattr(given, name.replace("-", "_"))
        if value < least:
            raise InputError(f"--{name} {value}: give a whole number from {least} up")
    dataset = load_dataset(given.dataset, given.data_dir)
    options = with_recipe(
        dataset.name,
        {
            "network": given.network,
            "precision": given.precision,
            "compile": given.compile,
            "batch_size": given.batch_size,
            "seed": given.seed,
            "criticality_batches": 1,
            "validation_images": 10,
            "curriculum": 1e6,  # faults from the first step on
        },
    )
    figures = assess(measure(options, dataset, steps=given.steps, repeats=given.repeats))
    names = ("batch_size", "steps", "repeats", "seed", "network", "precision")
    described = {name: getattr(given, name) for name in names}
    described |= {"dataset": dataset.name, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return figures, described


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; return 2 if something given cannot be used."""
    given, report = begin("bench_train.py", _parser(), argv, SCHEMA)
    report["variants"], report["options"] = run(given)
    write_json(given.out, report)
    text = table(report)
    if given.markdown:
        write_atomic(given.markdown, text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
