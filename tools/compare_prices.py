#!/usr/bin/env python3
r"""Compare two ways to keep to a price in clean accuracy: weights on a line, and a smaller epsilon.

Hardening costs clean accuracy. To stay within a budget of it one can harden once, at full strength, and go back on the
line to the weights that were started from (`train --clean-budget`; WiSE-FT, Wortsman et al., CVPR 2022), or harden at
several smaller radii and take the most resilient network that the budget allows, which takes a training for each. All
are judged alike: quantized, clean, under PGD-10 at one radius, and, with stage 2, at its highest bit error rate.
Validation images choose: the most resilience (the mean of the last two) within the budget of the start's clean
accuracy. Test images give the figures of what was chosen. A comparison that was killed goes on where it was.

Example:
  python tools/compare_prices.py --network resnet8 --dataset cifar10 --data-dir data --epsilons 1,2,4 --judged-at 2 \
      --seeds 0,1 --out prices -- --train-images 8000 --epochs-baseline 10 --epochs-attack 4 --epochs-fault 3
"""

import argparse
import dataclasses
import math
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from command_line import with_one_line_errors

from resq_deploy.data import load_dataset
from resq_deploy.errors import FailedError, InputError
from resq_deploy.faults.statistics import student
from resq_deploy.records import read_json, write_atomic, write_json

if TYPE_CHECKING:
    from resq_deploy.hardening.workbench import Workbench

FIGURES = {"clean_accuracy": "clean", "robust_accuracy": "under attack", "faulty_accuracy": "under faults"}
AT_STAKE = {"attack": "robust_accuracy", "fault": "faulty_accuracy"}
LINE, SMALLER = "line", "smaller epsilon"
_CONFIDENCE = 0.95
_START = "start"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network that may be chosen.

    Attributes:
        epsilon: radius of its stage 1, in 1/255; None for the start itself.
        share: of the hardened weights.
    """

    epsilon: float | None
    share: float

    @property
    def name(self) -> str:
        """What records and tables call it."""
        return _START if self.epsilon is None else f"{self.epsilon:g}/255, {self.share:.0%}"


def candidates(epsilons: Sequence[float], shares: Sequence[float]) -> dict[str, list[Candidate]]:
    """Return what each way may choose from: the start, and weights on the line or whole networks of each radius."""
    start = Candidate(epsilon=None, share=0.0)
    return {
        LINE: [start, *(Candidate(epsilon=max(epsilons), share=share) for share in shares if share > 0)],
        SMALLER: [start, *(Candidate(epsilon=epsilon, share=1.0) for epsilon in sorted(epsilons))],
    }


def train(common: Sequence[str], folder: pathlib.Path, options: Sequence[str]) -> None:
    """Train, or go on with it; what it reports goes to standard error.

    Raises:
        InputError: if the command does not take these options.
        FailedError: if the training fails.
    """
    command = [sys.executable, "-m", "resq_deploy", "train", *common, *options, "--out", str(folder), "--resume"]
    status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if status:
        kind = InputError if status == InputError.exit_status else FailedError
        raise kind(f"the training {folder} ended with status {status}: its own message stands above")


class Judge:
    """The networks of one seed, judged once each and kept.

    Args:
        folder: of the seed; holds the trainings, and gets the figures.
        stages: the hardening that was run.
        radius: of the attack that judges, in 1/255.
        dataset: the images.

    Attributes:
        at_stake: the figures that tell resilience.
    """

    def __init__(self, folder: pathlib.Path, stages: Sequence[str], radius: float, dataset: Any) -> None:
        from resq_deploy.hardening.checkpoint import load_checkpoint

        self.at_stake = [figure for stage, figure in AT_STAKE.items() if stage in stages]
        self._folder, self._last = folder, stages[-1]
        self._path = folder / f"judged-at-{radius:g}.json"
        self._known: dict[str, Any] = read_json(self._path) if self._path.is_file() else {}
        self._start = load_checkpoint(folder / "baseline" / "baseline.pt")
        self._radius, self._dataset = radius, dataset
        self._bench: Workbench | None = None

    def figures(self, candidate: Candidate, split: str) -> Mapping[str, Any]:
        """Return the figures of a network on `validation` or `test` images."""
        key = f"{candidate.name}, {split}"
        if key not in self._known:
            print(f"{self._folder.name}: {key}", file=sys.stderr)
            self._known[key] = self._measured(candidate, split)
            write_json(self._path, self._known)
        found: Mapping[str, Any] = self._known[key]
        return found

    def _measured(self, candidate: Candidate, split: str) -> dict[str, Any]:
        from resq_deploy.hardening.budget import load_mix, weighed
        from resq_deploy.hardening.checkpoint import load_checkpoint

        bench = self._workbench()
        hardened = self._start
        if candidate.epsilon is not None:
            hardened = load_checkpoint(training_of(self._folder, candidate.epsilon) / f"{self._last}.pt")
        load_mix(bench, self._start, hardened, candidate.share)
        return weighed(bench, self.at_stake, bench.validation if split == "validation" else bench.test)

    def _workbench(self) -> "Workbench":
        """Return the surroundings of the hardening, with the radius that judges."""
        if self._bench is None:
            from resq_deploy.hardening.options import TrainOptions
            from resq_deploy.hardening.workbench import Workbench

            asked = read_json(next(self._folder.glob("epsilon-*/manifest.json")))["options"]
            names = {field.name for field in dataclasses.fields(TrainOptions)}
            known: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in asked.items()
                if name in names
            }
            options = TrainOptions(**(known | {"epsilon": self._radius / 255}))
            self._bench = Workbench(options, self._dataset, self._folder, lambda _: None, init=self._start)
        return self._bench


def training_of(folder: pathlib.Path, epsilon: float) -> pathlib.Path:
    """Return the run folder of the hardening at a radius."""
    return folder / f"epsilon-{epsilon:g}"


def choose(judge: Judge, among: Sequence[Candidate], budget: float) -> Candidate:
    """Return the most resilient of some networks whose clean accuracy is within the budget of the first one's."""
    from resq_deploy.hardening import budget as budgets

    found = [judge.figures(candidate, "validation") for candidate in among]
    return among[budgets.choose(found, judge.at_stake, found[0]["clean_accuracy"]["value"] - budget)]


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Train and judge; return what each way chose within each budget, seed by seed, with its test figures."""
    from resq_deploy.hardening.budget import SHARES

    dataset = load_dataset(given.dataset, given.data_dir)
    common = ["--network", given.network, "--dataset", given.dataset, *given.train]
    common += ["--data-dir", str(given.data_dir)] if given.data_dir else []
    ways = candidates(given.epsilons, SHARES)
    rows = []
    for seed in given.seeds:
        folder = given.out / f"seed-{seed}"
        alike = [*common, "--seed", str(seed)]
        train(alike, folder / "baseline", ["--stages", "baseline"])
        for epsilon in given.epsilons:
            options = ["--stages", given.stages, "--init", str(folder / "baseline" / "baseline.pt")]
            train(alike, training_of(folder, epsilon), [*options, "--epsilon", f"{epsilon:g}"])
        judge = Judge(folder, given.stages.split(","), given.judged_at, dataset)
        start = judge.figures(ways[LINE][0], "test")
        for budget in given.budgets:
            for way, among in ways.items():
                chosen = choose(judge, among, budget / 100)
                figures = {"validation": judge.figures(chosen, "validation"), "test": judge.figures(chosen, "test")}
                rows.append({"seed": seed, "budget": budget, "way": way, "chosen": chosen.name, **figures})
        rows.append({"seed": seed, "budget": None, "way": _START, "chosen": _START, "test": start})
        found = {"schema": 1, "judged_at": given.judged_at, "epsilons": list(given.epsilons), "rows": rows}
        write_json(given.out / "prices.json", found)
        write_atomic(given.out / "prices.md", table(found))
    return found


def table(found: Mapping[str, Any]) -> str:
    """Return what was chosen, and the test figures as changes from the start, over the seeds."""
    names = [name for name in FIGURES if name in found["rows"][0]["test"]]
    header = ["budget, points", "way", "chosen", *(f"{FIGURES[name]}, points" for name in names)]
    lines = [header, ["---"] * 3 + ["---:"] * len(names)]
    starts = {row["seed"]: row["test"] for row in found["rows"] if row["way"] == _START}
    groups: dict[tuple[float, str], list[Any]] = {}
    for row in found["rows"]:
        if row["way"] != _START:
            groups.setdefault((row["budget"], row["way"]), []).append(row)
    for (budget, way), rows in groups.items():
        changes = [_over_seeds([_change(row["test"], starts[row["seed"]], name) for row in rows]) for name in names]
        lines.append([f"{budget:g}", way, "; ".join(row["chosen"] for row in rows), *changes])
    for budget in dict.fromkeys(budget for budget, _ in groups):
        pairs = list(zip(groups[budget, LINE], groups[budget, SMALLER], strict=True))
        changes = [_over_seeds([_change(a["test"], b["test"], name) for a, b in pairs]) for name in names]
        lines.append([f"{budget:g}", f"{LINE} less {SMALLER}", "", *changes])
    clean = ", ".join(f"{100 * start['clean_accuracy']['value']:.2f} %" for start in starts.values())
    told = f"Start, clean, seed by seed: {clean}. Under attack: PGD-10 at {found['judged_at']:g}/255."
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{told}\n"


def _change(after: Mapping[str, Any], before: Mapping[str, Any], name: str) -> float:
    return float(after[name]["value"] - before[name]["value"])


def _over_seeds(changes: Sequence[float]) -> str:
    if len(changes) < 2 or len(set(changes)) < 2:
        return f"{100 * math.fsum(changes) / len(changes):+.1f}"
    found = student(changes, _CONFIDENCE, lowest=-1.0)
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _check(given: argparse.Namespace) -> None:
    if len(set(given.epsilons)) < 2 or min(given.epsilons) <= 0:
        raise InputError("--epsilons: give two radii or more, above 0, such as 1,2,4")
    if given.judged_at <= 0:
        raise InputError("--judged-at: give a radius above 0, such as 2")
    if any(not 0 <= budget <= 100 for budget in given.budgets):
        raise InputError("--budgets: give points from 0 to 100, such as 1,2")


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Compare; return 2 if something given cannot be used, 1 if a training fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", required=True, help="as for resq-deploy train")
    parser.add_argument("--dataset", required=True, help="as for resq-deploy train")
    parser.add_argument("--data-dir", type=pathlib.Path, help="where named data sets lie")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the trainings, prices.json and .md")
    parser.add_argument(
        "--stages", choices=["attack", "attack,fault"], default="attack,fault", help="what hardens (default: both)"
    )
    parser.add_argument("--epsilons", type=_numbers, default=[1.0, 2.0, 4.0], help="radii of stage 1 (default: 1,2,4)")
    parser.add_argument("--judged-at", type=float, default=2.0, help="radius of the attack that judges (default: 2)")
    parser.add_argument("--budgets", type=_numbers, default=[1.0, 2.0], help="points of accuracy (default: 1,2)")
    parser.add_argument("--seeds", type=_seeds, default=[0, 1], help="training seeds (default: 0,1)")
    parser.add_argument("train", nargs="*", metavar="TRAIN-OPTION", help="after --: what all trainings have in common")
    given = parser.parse_args(argv)
    _check(given)
    print(table(compare(given)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
