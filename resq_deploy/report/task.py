"""Words of the task: what a network answers, what it is called when that becomes another answer, and how good it is.

A campaign says by which judge it judged outputs; earlier ones knew classifiers alone and say nothing. Figures that only
some tasks have are None for the others: nothing here makes up an accuracy where there are no labels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.report.document import JsonEstimate
from resq_deploy.report.runs import Run, subsampled
from resq_deploy.report.text import listed, percent, share

_EXACT = ("accuracy", "within")
"""Figures that are shares of right answers: for these it is kept which samples were answered right."""

_FIGURES = {
    "accuracy": "accuracy",
    "token_accuracy": "accuracy of positions",
    "miou": "mIoU",
    "map50": "mAP@50",
    "within": "share of samples near enough",
    "quality": "quality",
}
_SAME_TOP1 = "same top-1, outputs not bit-equal"
_SAME = "same answer, outputs not bit-equal"
_LADDER = ("masked", "benign", "sdc1", "sdc5", "sdc10", "sdc20", "sdc10_abs", "sdc20_abs", "nonfinite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """How a report speaks of what a campaign judged.

    Attributes:
        judge: what judged.
        unit: what is judged: an image, a sequence, or a sample of another kind.
        wrong: what units do that a fault gives another answer, after their name in the plural.
        answer: what counts as another answer.
        benign: what counts as the same one.
        ladder: the outcomes it counts, from the mildest.
    """

    judge: str
    unit: str
    wrong: str
    answer: str
    benign: str
    ladder: Sequence[str]

    @property
    def units(self) -> str:
        """What is judged, in the plural."""
        return f"{self.unit}s"


def task_of(run: Run) -> Task:
    """Return how to speak of what a fault campaign judged."""
    judge = run.summary.get("judge") or {"name": "top1", "ladder": (*_LADDER, "corrected", "corrupted")}
    wrong, answer, benign = _words(judge["name"], judge.get("options", {}))
    unit = "image" if judge["name"] in ("top1", "boxes") else "sample"
    return Task(
        judge=judge["name"],
        unit="sequence" if samples(run).get("states") else unit,
        wrong=wrong,
        answer=answer,
        benign=benign,
        ladder=judge["ladder"],
    )


def _words(judge: str, options: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what happens where a fault gives another answer, what that is, and what the same one is."""
    if judge == "map":
        allowed = share(options.get("share"))
        wrong = f"have another class at more than {allowed} of their positions"
        return wrong, f"another class at more than {allowed} of the positions", f"another class at {allowed} at most"
    if judge in ("embedding", "values"):
        bound = f"{options.get('bound', 0):g}"
        what = "cosine distance" if judge == "embedding" else "relative error"
        return f"move further than a {what} of {bound}", f"a {what} above {bound}", f"a {what} up to {bound}"
    words = {
        "top1": ("get another answer", "another top-1", _SAME_TOP1),
        "binary": ("get another answer", "another side of the threshold", _SAME),
        "labels": ("get another class", "another class", _SAME),
        "boxes": (
            "lose, move or relabel a detection, or show a ghost",
            "a detection lost, moved or of another class, or a ghost",
            "the same detections, outputs not bit-equal",
        ),
        "own": (f"are wrong by {options.get('function', 'a judge of your own')}", "wrong, as your judge says", _SAME),
    }
    return words.get(judge, ("get another answer", "another answer", _SAME))


def meanings(task: Task) -> dict[str, str]:
    """Return what the outcomes of a task mean, by name."""
    unit = task.unit
    return {
        "masked": "outputs bit-equal to the fault-free ones",
        "benign": task.benign,
        "sdc1": task.answer,
        "sdc5": "new top-1 outside the golden top 5",
        "sdc10": "top confidence moved by over 10 %",
        "sdc20": "top confidence moved by over 20 %",
        "sdc10_abs": "top confidence moved by over 0.1",
        "sdc20_abs": "top confidence moved by over 0.2",
        "lost": f"{unit} with a lost detection",
        "moved": f"{unit} with a detection whose box moved",
        "relabelled": f"{unit} with a detection of another class",
        "ghost": f"{unit} with a ghost: a detection that is none without the fault",
        "nonfinite": "outputs hold NaN or infinity",
        "corrected": "wrong answer became right",
        "corrupted": "right answer became wrong",
        "sdc1_detected": f"{task.answer}, and the file's health output says that something is wrong",
        "sdc1_silent": f"{task.answer}, and the file's health output is the fault-free one",
        "due": "file no longer loads or runs (share of faults)",
    }


AMOUNTS = {
    "lost": "lost detections",
    "moved": "moved detections",
    "relabelled": "detections of another class",
    "ghost": "ghosts",
    "changed": "positions of another class",
}
"""What a judge counts within a sample."""


def amounts_told(figures: Mapping[str, Any], task: Task) -> str:
    """Return in words how much of something a fault does on average; empty where nothing is counted."""
    found = figures.get("amounts", {})
    told = [f"{1000 * value:.2g} {AMOUNTS.get(name, name)}" for name, value in found.items() if value]
    return f"{listed(told)} in 1,000 {task.units}, on average" if told else ""


def samples(run: Run) -> Mapping[str, Any]:
    """Return what a campaign recorded of its samples; nothing of earlier ones, which had images of a data set."""
    found: Mapping[str, Any] = run.summary.get("data") or {}
    return found


def synthetic(run: Run) -> bool:
    """Return whether a campaign's inputs were made up, so that no figure says anything of its quality."""
    return bool(samples(run).get("synthetic")) or run.options.get("dataset") == "synthetic"


def judged_on(run: Run) -> str:
    """Return in a sentence on which images, or other samples, each fault of a campaign was judged."""
    of, units = run.summary["golden"]["images"], task_of(run).units
    if not subsampled(run):
        return f"Each fault was judged on all {of:,} {units}."
    few = run.summary["images"]["per_fault"]
    number = "all" if few is None else f"about {few:,} of"
    pilot = ", those of a pilot on fewer or more" if run.summary["design"] == "stratified" else ""
    return f"Each fault was judged on {number} {of:,} {units}, drawn by seed and fault{pilot}."


# How good a file is.


def quality(figures: Mapping[str, Any]) -> JsonEstimate | None:
    """Return the quality under faults, of a campaign or of a point of its curve; None where nothing was labelled."""
    found: JsonEstimate | None = figures.get("quality") or figures.get("accuracy")
    return found


def quality_name(run: Run) -> str | None:
    """Return what the quality of a campaign is called; None where nothing was labelled."""
    name = quality_column(run)
    return None if name is None else _FIGURES.get(name, name)


def quality_column(run: Run) -> str | None:
    """Return the name of the quality in the file formats; None where faults have none."""
    figures = run.summary["curve"][0] if "curve" in run.summary else run.summary
    found = quality(figures)
    return None if found is None else str(found.get("name", "accuracy"))


def knows_right_answers(run: Run) -> bool:
    """Return whether it is kept which samples were answered right under each fault."""
    return quality_column(run) in _EXACT


def clean(run: Run) -> JsonEstimate | None:
    """Return the accuracy without faults with its interval; None of other tasks, and without labels."""
    found: JsonEstimate | None = run.summary["golden"].get("accuracy")
    return found


def clean_value(run: Run) -> float | None:
    """Return the quality without faults; None where nothing was labelled."""
    golden = run.summary["golden"]
    found = golden.get("accuracy") or golden.get("quality")
    return None if found is None else float(found["value"])


def clean_told(run: Run) -> str:
    """Write the quality without faults: with its interval where it is a share of right answers."""
    accuracy = clean(run)
    return percent(accuracy) if accuracy else share(clean_value(run))


def spread_of(point: Mapping[str, Any]) -> Mapping[str, float]:
    """Return what the chips drawn look like: by their quality, or else by SDC-1."""
    found = point["spread"]
    kept: Mapping[str, float] = found.get("accuracy") or found.get("quality") or found.get("sdc1") or {}
    return kept


def by_task(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs that are judged alike and rated by the same figure, in the order given."""
    groups: dict[tuple[Task, str | None], list[Run]] = {}
    for run in runs:
        task = task_of(run)
        groups.setdefault((dataclasses.replace(task, ladder=tuple(task.ladder)), quality_name(run)), []).append(run)
    return list(groups.values())
