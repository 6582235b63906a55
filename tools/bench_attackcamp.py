#!/usr/bin/env python3
r"""Measure what the Square attack costs beside the bare inference of as many images, and beside the toolbox's own.

`square` is the attack as `resq-deploy attackcamp` runs it, start of its worker processes included. `bare` runs as many
images as the attack sent, in full batches, on as many one-thread sessions in threads. `toolbox` is SquareAttack of the
Adversarial Robustness Toolbox around the same session, as its users type it, on `--toolbox-images` images in one
process; `square on them` is ours on the same, likewise. All take turns within each repeat, in one run; ratios are those
of the medians. CPU seconds depend less on what else the machine does.

Example:
  python tools/bench_attackcamp.py resnet20.int8.onnx --dataset cifar10 --data-dir data --epsilon 4 --out bench.json
"""

import argparse
import concurrent.futures
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bench_report import begin, told
from command_line import with_one_line_errors

from resq_deploy.attacks.ball import Norm
from resq_deploy.attacks.units import Attacked, shards
from resq_deploy.attacks.workers import run_units
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.errors import InputError
from resq_deploy.pipeline.attack_kit import AttackKit
from resq_deploy.progress import progress_bar
from resq_deploy.records import write_json

SCHEMA = 1
NUMBERS = (  # option, least value, default, meaning
    ("images", 1, 1000, "test images"),
    ("queries", 3, 1000, "budget an image"),
    ("workers", 1, 2, "processes of the attack, threads of the bare inference"),
    ("repeats", 1, 3, "how often all is measured"),
    ("toolbox-images", 0, 100, "images for the toolbox; 0 leaves it out"),
    ("seed", 0, 0, "seed of the attack"),
)

Result = dict[str, Any]


class Bench:
    """The variants that are measured.

    Args:
        given: the command's options.

    Attributes:
        sent: images that the attack sent, on all images and on those of the toolbox.
        robust: robust accuracy under each variant.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        model = DeployedModel.load(given.model)
        self._file = model.patcher().golden
        self._test = load_dataset(given.dataset, given.data_dir).evaluation(given.images)
        self._inputs = Session(self._file, Deployment()).input.prepare(self._test.images)
        self._kit = AttackKit(
            path=model.path,
            model=self._file,
            deployment=Deployment(),
            images=self._test.images,
            labels=self._test.labels,
            norm=Norm.LINF,
            queries=given.queries,
            steps=1,
            seed=given.seed,
            surrogate=None,
            white_box="",
        )
        self.sent: dict[str, int] = {}
        self.robust: dict[str, float] = {}

    def variants(self) -> dict[str, Callable[[], None]]:
        """Return what is measured, in an order in which it can run for the first time."""
        given = self._given
        found: dict[str, Callable[[], None]] = {
            "square": lambda: self._square("square", len(self._inputs), given.workers),
            "bare": lambda: self._bare(self.sent["square"], given.workers),
        }
        if given.toolbox_images:
            few = min(given.toolbox_images, len(self._inputs))
            found["square_few"] = lambda: self._square("square_few", few, 1)
            found["bare_few"] = lambda: self._bare(self.sent["square_few"], 1)
            found["toolbox"] = lambda: self._toolbox(few)
        return found

    def _square(self, name: str, images: int, workers: int) -> None:
        units = shards("square", "", self._given.epsilon / 255, images)
        result = Attacked.joined([found for _, found in run_units(self._kit, units, workers)])
        self.sent[name] = int(result.queries.sum())
        self.robust[name] = float(result.robust.mean())

    def _bare(self, images: int, workers: int) -> None:
        """Run as many images, in full batches."""
        batch = self._inputs[: Deployment().batch]

        def run(batches: int) -> None:
            session = Session(self._file, Deployment())
            for _ in range(batches):
                session.run(batch)

        batches = -(-images // len(batch))
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, [len(part) for part in np.array_split(np.arange(batches), workers)]))

    def _toolbox(self, images: int) -> None:
        from art.attacks.evasion import SquareAttack
        from art.estimators.classification import BlackBoxClassifierNeuralNetwork

        session, inputs, labels = Session(self._file, Deployment()), self._inputs[:images], self._test.labels[:images]
        classifier = BlackBoxClassifierNeuralNetwork(
            session.run,
            input_shape=inputs.shape[1:],
            nb_classes=session.run(inputs[:1]).shape[1],
            channels_first=not session.input.channels_last,
            clip_values=(0.0, 1.0),
            preprocessing=None,
        )
        epsilon, steps = self._given.epsilon / 255, self._given.queries - 2
        attack = SquareAttack(classifier, eps=epsilon, max_iter=steps, batch_size=100, verbose=False)
        state = np.random.get_state()  # noqa: NPY002 - the state the toolbox draws from
        np.random.seed(self._given.seed)  # noqa: NPY002 - as above
        try:
            attacked = attack.generate(inputs, labels)
        finally:
            np.random.set_state(state)  # noqa: NPY002 - as above
        self.robust["toolbox"] = float((session.run(attacked).argmax(axis=1) == labels).mean())


def clock(run: Callable[[], None]) -> dict[str, float]:
    """Return the seconds of a run, and the CPU seconds of this process and of those that it started."""
    begin, cpu = time.perf_counter(), _cpu()
    run()
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": _cpu() - cpu}


def _cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(given: argparse.Namespace) -> Result:
    """Take all measurements."""
    for name, least, *_ in NUMBERS:
        value = getattr(given, name.replace("-", "_"))
        if value < least:
            raise InputError(f"--{name} {value}: give a whole number from {least} up")
    bench = Bench(given)
    variants = bench.variants()
    series: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    with progress_bar("measurements") as progress:
        task = progress.add_task("measuring", total=given.repeats * len(variants))
        for _ in range(given.repeats):
            for name, run in variants.items():
                progress.update(task, description=name)
                series[name].append(clock(run))
                progress.advance(task)
    figures = {name: _median(runs) for name, runs in series.items()}
    pairs = {"square": "bare", "square_few": "bare_few", "toolbox": "bare_few"}
    return {
        "figures": figures,
        "raw": series,
        "ratios": {
            f"{name}_to_{base}": {unit: figures[name][unit] / figures[base][unit] for unit in figures[name]}
            for name, base in pairs.items()
            if name in figures
        },
        "sent": bench.sent,
        "robust": bench.robust,
    }


def _median(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {unit: statistics.median(run[unit] for run in runs) for unit in runs[0]}


def table(report: Result) -> str:
    """Return the report as a Markdown table."""
    result, options = report["result"], report["options"]
    few = min(options["toolbox_images"], options["images"])
    titles = {
        "square": f"square, {options['images']} images, {options['workers']} workers",
        "square_few": f"square, {few} images, 1 worker",
        "toolbox": f"SquareAttack of the toolbox, {few} images",
    }
    rows = [
        "| attack | seconds | CPU seconds | to bare, wall | to bare, CPU | robust accuracy |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for pair, ratio in result["ratios"].items():
        name = pair.partition("_to_")[0]
        cost = result["figures"][name]
        rows.append(
            f"| {titles[name]} | {cost['seconds']:.1f} | {cost['cpu_seconds']:.1f} | {ratio['seconds']:.2f} | "
            f"{ratio['cpu_seconds']:.2f} | {100 * result['robust'][name]:.1f} % |"
        )
    host = report["machine"]
    return (
        "\n".join(rows) + f"\n\n{told(host)}. "
        f"Linf {options['epsilon']:g}/255, {options['queries']} queries, medians of {options['repeats']} repeats. "
        "Bare: inference of as many images as square sent, in full batches.\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.onnx", help="file under attack", type=pathlib.Path)
    parser.add_argument("--dataset", required=True, help="as for resq-deploy attackcamp")
    parser.add_argument("--data-dir", help="where named data sets lie", type=pathlib.Path)
    parser.add_argument("--epsilon", type=float, default=4.0, help="Linf radius in 1/255 (default: 4)")
    for name, _, default, meaning in NUMBERS:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default: {default})")
    parser.add_argument("--out", required=True, help="JSON file to write", type=pathlib.Path)
    return parser


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; return 2 if something given cannot be used."""
    given, head = begin("bench_attackcamp.py", _parser(), argv, SCHEMA)
    options = {name: value for name, value in vars(given).items() if name not in ("model", "out", "data_dir")}
    report: Result = {**head, "model": given.model.name, "options": options, "result": measure(given)}
    write_json(given.out, report)
    print(table(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
