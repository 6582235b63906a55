"""The figures of a study: read from its run folders, put together over seeds, and held against each other."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from resq_deploy.errors import RunFolderError
from resq_deploy.faults.statistics import Estimate, difference, student
from resq_deploy.records import read_json, read_manifest
from resq_deploy.report.runs import check_schema

_CONFIDENCE = 0.95

CONTRASTS: tuple[tuple[str, str, str], ...] = (
    ("stage 1 alone", "baseline", "attack"),
    ("stage 2 alone", "baseline", "fault"),
    ("both stages", "baseline", "attack+fault"),
    ("stage 2 after stage 1", "attack", "attack+fault"),
    ("stage 1 before stage 2", "fault", "attack+fault"),
    ("stage 3 after both", "attack+fault", "resq"),
    ("all three stages", "baseline", "resq"),
    ("stage 3 alone", "baseline", "baseline+stage3"),
    ("training, with stage 3 on both sides", "baseline+stage3", "resq"),
    ("protection after all", "resq", "protected"),
    ("training, with protection on both sides", "baseline+protected", "protected"),
)
"""What is compared in the 2x2 table and beside it: name, from, to."""

Kind = Literal["clean", "attack", "fault", "sdc"]


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Metric:
    """A column of the tables.

    Attributes:
        kind: clean accuracy, accuracy under attack, accuracy under bit errors, or the share of silent corruptions.
        campaign: the name of the recipe's campaign; empty for clean accuracy.
        level: radius or bit error rate, as the record has it; empty where there is none.
        norm: of a radius, `linf` (in 1/255) or `l2` (in units of [0, 1] pixels); empty where there is none.
        draw: of faults, `layers` where layers were drawn evenly; empty where bits were, and for other kinds.
    """

    kind: Kind
    campaign: str = ""
    level: str = ""
    norm: str = ""
    draw: str = ""

    @property
    def place(self) -> str:
        """Return the level, with what it is of."""
        if self.kind == "fault":
            return f"bit error rate {self.level}{self._drawing}"
        return {"linf": f"{self.level}/255 Linf", "l2": f"{self.level} L2"}.get(self.norm, self.level)

    def __str__(self) -> str:
        """Return the column's heading."""
        named = {
            "clean": "clean accuracy",
            "attack": f"accuracy under attack, {self.place}, {self.campaign}",
            "fault": f"accuracy at {self.place}, {self.campaign}",
            "sdc": f"SDC-1{self._drawing}, {self.campaign}",
        }
        return named[self.kind]

    @property
    def _drawing(self) -> str:
        return ", layers drawn evenly" if self.draw else ""


Figures = Mapping[Metric, Estimate]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corner:
    """One corner of the 2x2 table of one network and data set, or all three stages.

    Attributes:
        network: the network.
        dataset: the data set.
        variant: the stages.
        asked: seeds that the recipe asks for.
        seeds: what each seed that is done found.
        failed: seeds of which a step failed.
        seconds: time of the steps that are done, those that corners share counted in each.
        untrusted: seeds whose robust accuracy failed a validity check.
        unchecked: seeds whose robust accuracy was not shown to be trustworthy, since checks did not run.
        chance: the accuracy of guessing evenly among the classes; None where they are not known.
    """

    network: str
    dataset: str
    variant: str
    asked: int
    seeds: Mapping[int, Figures]
    failed: int
    seconds: float
    untrusted: tuple[int, ...]
    unchecked: tuple[int, ...]
    chance: float | None = None

    def mean(self, metric: Metric) -> Estimate | None:
        """Return a figure over the seeds: their mean with Student's interval; of one seed its own interval.

        Seeds that agree to the last digit, as where none answers right, say nothing of their spread: then it is the
        widest interval of theirs.
        """
        values = [figures[metric] for figures in self.seeds.values() if metric in figures]
        if _agree(value.value for value in values):
            return max(values, key=_width, default=None)
        return student([value.value for value in values], _CONFIDENCE)


def change(before: Corner, after: Corner, metric: Metric) -> Estimate | None:
    """Return the second corner's figure less the first's, seed by seed.

    Of one seed, or where all seeds agree to the last digit, the interval follows from both figures' own.
    """
    shared = [
        (before.seeds[seed][metric], after.seeds[seed][metric])
        for seed in sorted(before.seeds.keys() & after.seeds.keys())
        if metric in before.seeds[seed] and metric in after.seeds[seed]
    ]
    changes = [second.value - first.value for first, second in shared]
    if _agree(changes):
        return max((difference(*pair) for pair in shared), key=_width, default=None)
    return student(changes, _CONFIDENCE, lowest=-1.0)


def _agree(values: Iterable[float]) -> bool:
    """Return whether there are no two values that differ by more than their arithmetic rounds."""
    return len({round(value, 12) for value in values}) < 2


def _width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def read_study(folder: pathlib.Path) -> tuple[dict[str, Any], list[Corner]]:
    """Read what a study found.

    Args:
        folder: the study's run folder.

    Returns:
        The study's summary, and its corners in the order of the recipe.

    Raises:
        RunFolderError: if the folder or one of its records is missing or broken.
    """
    if read_manifest(folder).get("command") != "study":
        raise RunFolderError(f"{folder} is not a run of study")
    summary = read_json(folder / "summary.json")
    check_schema(summary, "study", folder / "summary.json")
    corners: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    try:
        for cell in summary["cells"]:
            corners.setdefault((cell["network"], cell["dataset"], cell["variant"]), []).append(cell)
        return summary, [_corner(folder, key, cells) for key, cells in corners.items()]
    except (KeyError, TypeError, IndexError) as error:
        raise RunFolderError(f"a record in {folder} is broken or half-written ({error}): --resume the study") from error


def metrics_of(corners: Sequence[Corner]) -> list[Metric]:
    """Return every metric that some corner has, in the order of the records."""
    return list(dict.fromkeys(metric for corner in corners for found in corner.seeds.values() for metric in found))


def _corner(folder: pathlib.Path, key: tuple[str, str, str], cells: Sequence[Mapping[str, Any]]) -> Corner:
    done = [cell for cell in cells if cell["status"] == "done"]
    return Corner(
        network=key[0],
        dataset=key[1],
        variant=key[2],
        asked=len(cells),
        seeds={cell["seed"]: dict(figures_of(folder, cell)) for cell in done},
        failed=sum(cell["status"] == "failed" for cell in cells),
        seconds=sum(step["seconds"] for cell in cells for step in cell["steps"].values()),
        untrusted=tuple(cell["seed"] for cell in done if False in _verdicts(folder, cell)),
        unchecked=tuple(cell["seed"] for cell in done if None in _verdicts(folder, cell)),
        chance=_chance(folder, done),
    )


def _chance(folder: pathlib.Path, done: Sequence[Mapping[str, Any]]) -> float | None:
    """Return one over the number of classes, of the data that the files were exported on."""
    steps = [step for cell in done for step in cell["steps"].values() if step["command"] == "export-int8"]
    classes = read_json(folder / steps[0]["wrote"][1]).get("dataset", {}).get("classes") if steps else None
    return 1 / len(classes) if classes else None


def figures_of(folder: pathlib.Path, cell: Mapping[str, Any]) -> Iterator[tuple[Metric, Estimate]]:
    """Yield the figures of a cell that is done, in the order of its steps."""
    for name, step in cell["steps"].items():
        campaign = name.rpartition("/")[2].partition("-")[2]
        if step["command"] == "export-int8":
            yield Metric(kind="clean"), Estimate(**read_json(folder / step["wrote"][1])["accuracy"]["int8"])
        elif step["command"] == "attackcamp":
            summary = read_json(folder / step["wrote"][0])
            for epsilon, found in summary["worst_case"].items():
                norm = summary["threat"]["norm"]
                yield Metric(kind="attack", campaign=campaign, level=epsilon, norm=norm), Estimate(**found)
        elif step["command"] == "faultcamp":
            summary = read_json(folder / step["wrote"][0])
            of = Metric(kind="sdc", campaign=campaign, draw="layers" if summary.get("draw") == "layers" else "")
            for point in summary.get("curve", ()):
                at = dataclasses.replace(of, kind="fault", level=f"{point['ber']:g}")
                yield at, Estimate(**point["accuracy"])
            if "curve" not in summary and summary["rates"]["sdc1"] is not None:
                yield of, Estimate(**summary["rates"]["sdc1"])


def _verdicts(folder: pathlib.Path, cell: Mapping[str, Any]) -> list[bool | None]:
    """Return whether the robust accuracy of each attack campaign is to be trusted; None where that was not shown."""
    attacks = [step for step in cell["steps"].values() if step["command"] == "attackcamp"]
    return [read_json(folder / step["wrote"][0])["trustworthy"] for step in attacks]
