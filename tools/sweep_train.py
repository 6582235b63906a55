#!/usr/bin/env python3
r"""Train with every combination of some options, from one checkpoint, and compare what comes out.

Each cell is a run of `resq-deploy train` in a folder of its own, named after its options; a sweep that was killed goes
on where it was when it is started again. The table holds, for the last stage of each cell, the clean and the PGD-10
accuracy of its summary.json, and the accuracy with flipped bits in the int8 codes of all weights (per output channel,
batch-norm folded; activations in float), the same flips in every cell.

Example:
  python tools/sweep_train.py --dataset cifar10 --data-dir data --set epsilon=2,4 --set adversarial-weight=0.3,0.5 \
      --out sweep -- --network resnet20 --stages attack --init base/baseline.pt --epochs-attack 4
"""

import argparse
import itertools
import math
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from command_line import with_one_line_errors

from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset
from resq_deploy.errors import FailedError, InputError
from resq_deploy.faults.statistics import cluster
from resq_deploy.hardening.options import STAGES
from resq_deploy.records import read_json, write_atomic, write_json

if TYPE_CHECKING:
    from resq_deploy.hardening.checkpoint import Checkpoint

_CONFIDENCE = 0.95
_FIRST_CHIP = 100
_BATCH = 250

Cell = Mapping[str, str]


def cells(settings: Sequence[str]) -> list[dict[str, str]]:
    """Return every combination of settings, each `option=value,value,...`.

    Raises:
        InputError: if one is not of that form, or an option occurs twice.
    """
    axes: dict[str, list[str]] = {}
    for setting in settings:
        option, sign, values = setting.partition("=")
        parts = values.split(",")
        if not sign or not re.fullmatch(r"[a-z][a-z-]*", option) or not all(parts) or option in axes:
            raise InputError(f"--set {setting}: give OPTION=VALUE,VALUE,... , each option once, such as epsilon=2,4")
        axes[option] = parts
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def name_of(cell: Cell) -> str:
    """Return the folder's name of a cell."""
    return "_".join(f"{option}-{value}" for option, value in cell.items()) or "defaults"


def train_cell(cell: Cell, common: Sequence[str], folder: pathlib.Path) -> None:
    """Train one cell, or go on with it; what it reports goes to standard error.

    Raises:
        InputError: if the command does not take these options.
        FailedError: if the training fails.
    """
    options = [word for option, value in cell.items() for word in (f"--{option}", value)]
    command = [sys.executable, "-m", "resq_deploy", "train", *common, *options, "--out", str(folder), "--resume"]
    status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if status:
        kind = InputError if status == InputError.exit_status else FailedError
        raise kind(f"the cell {folder.name} ended with status {status}: its own message stands above")


def accuracies_under_flips(
    checkpoint: "Checkpoint", dataset: Dataset, *, rate: float, chips: int, images: int
) -> Iterator[float]:
    """Yield the accuracy of each simulated chip: the checkpoint with flips in its int8 weight codes."""
    import torch

    from resq_deploy.hardening.fake_quant import WeightGrid
    from resq_deploy.hardening.folding import FoldedNetwork, find_pairs
    from resq_deploy.hardening.workbench import as_images

    network = checkpoint.build()
    test = as_images(dataset.evaluation(images), "test")
    pixels = test.pixels.permute(0, 3, 1, 2)
    inputs = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    pairs = find_pairs(network, inputs[:2])
    grid, folded = WeightGrid(network, pairs), FoldedNetwork(network, pairs)
    stored = grid.stored()
    for chip in range(_FIRST_CHIP, _FIRST_CHIP + chips):
        flips = grid.draw_flips(list(grid.layers), rate, torch.Generator().manual_seed(chip))
        with torch.no_grad():
            tensors = folded.tensors(grid.weights(stored, flips))
            logits = torch.cat([folded.run(part, tensors) for part in torch.split(inputs, _BATCH)])
        yield (logits.argmax(1) == test.labels).double().mean().item()


def judge(folder: pathlib.Path, dataset: Dataset, given: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a finished cell, measured once and kept in its folder."""
    from resq_deploy.hardening.checkpoint import load_checkpoint

    place = folder / "flips.json"
    asked = {"ber": given.ber, "chips": given.chips, "images": given.images}
    known = read_json(place) if place.is_file() else {}
    stages = read_json(folder / "summary.json")["stages"]
    stage = next(name for name in reversed(STAGES) if name in stages)
    if known.get("asked") != asked:
        checkpoint = load_checkpoint(folder / f"{stage}.pt")
        faulty = {}
        for rate in given.ber:
            found = list(accuracies_under_flips(checkpoint, dataset, rate=rate, chips=given.chips, images=given.images))
            faulty[f"{rate:g}"] = cluster(found, math.inf, _CONFIDENCE).as_dict()
        known = {"asked": asked, "faulty": faulty}
        write_json(place, known)
    return {"stage": stage, **stages[stage]["test"], "faulty": known["faulty"]}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as a Markdown table, a row a cell."""
    rates = list(next(iter(results.values()))["faulty"])
    header = ["cell", "stage", "clean, %", "PGD-10, %", *(f"at {rate}, %" for rate in rates)]
    rows = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for name, found in results.items():
        figures = [found["clean"], found["robust"], *found["faulty"].values()]
        rows.append([name, found["stage"], *map(_percent, figures)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _percent(figure: Mapping[str, float]) -> str:
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _rates(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def sweep(given: argparse.Namespace) -> str:
    """Train and judge every cell; return the table, which is written after each."""
    if not given.ber or not all(0 < rate < 1 for rate in given.ber):
        raise InputError("--ber: give bit error rates between 0 and 1, such as 1e-3,1e-2")
    if given.chips < 1 or given.images < 1:
        raise InputError("--chips, --images: give 1 or more")
    dataset = load_dataset(given.dataset, given.data_dir)
    common = ["--dataset", given.dataset, *given.train]
    common += ["--data-dir", str(given.data_dir)] if given.data_dir else []
    results = {}
    for cell in cells(given.set):
        name = name_of(cell)
        folder = given.out / name
        train_cell(cell, common, folder)
        results[name] = {"options": dict(cell), **judge(folder, dataset, given)}
        write_json(given.out / "sweep.json", {"schema": 1, "cells": results})
        write_atomic(given.out / "sweep.md", table(results))
    return table(results)


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Sweep; return 2 if something given cannot be used, 1 if a training fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUES", help="an axis of the sweep")
    parser.add_argument("--dataset", required=True, help="as for resq-deploy train")
    parser.add_argument("--data-dir", type=pathlib.Path, help="where named data sets lie")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the cells, sweep.json and sweep.md")
    parser.add_argument("--ber", type=_rates, default=[1e-3, 1e-2], help="bit error rates (default: 1e-3,1e-2)")
    parser.add_argument("--chips", type=int, default=10, help="simulated chips a rate (default: 10)")
    parser.add_argument("--images", type=int, default=1000, help="test images of the flips (default: 1000)")
    parser.add_argument("train", nargs="*", metavar="TRAIN-OPTION", help="after --: what all cells have in common")
    given = parser.parse_args(argv)
    print(sweep(given), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
