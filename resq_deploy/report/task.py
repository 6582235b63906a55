"""Words of the task: what a network answers, what it is called when that becomes another answer, and how good it is.

A campaign says by which judge it judged outputs; earlier ones knew classifiers alone and say nothing. Figures that only
some tasks have are None for the others: nothing here makes up an accuracy where there are no labels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.faults.judges import words
from resq_deploy.faults.judges.words import FIGURES
from resq_deploy.report.document import JsonEstimate
from resq_deploy.report.runs import Run, subsampled
from resq_deploy.report.text import listed, percent, share

_EXACT = ("accuracy", "within")
"""Figures that are shares of right answers: for these it is kept which samples were answered right."""

_LADDER = ("masked", "benign", "sdc1", "sdc5", "sdc10", "sdc20", "sdc10_abs", "sdc20_abs", "nonfinite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """How a report speaks of what a campaign judged.

    Attributes:
        judge: what judged.
        unit: what is judged: an image, a sequence, or a sample of another kind.
        wrong: what units do that a fault gives another answer, after their name in the plural.
        answer: what counts as another answer.
        meanings: what each outcome means.
        ladder: the outcomes it counts, from the mildest.
    """

    judge: str
    unit: str
    wrong: str
    answer: str
    meanings: Mapping[str, str]
    ladder: Sequence[str]

    @property
    def units(self) -> str:
        """What is judged, in the plural."""
        return f"{self.unit}s"


def task_of(run: Run) -> Task:
    """Return how to speak of what a fault campaign judged."""
    judge = _judge(run)
    told = words.meanings(judge)
    unit = "image" if judge["name"] in ("top1", "boxes") else "sample"
    return Task(
        judge=judge["name"],
        unit="sequence" if samples(run).get("states") else unit,
        wrong=_wrong(judge["name"], judge["options"]),
        answer=told["sdc1"],
        meanings=told,
        ladder=judge["ladder"],
    )


def _judge(run: Run) -> Mapping[str, Any]:
    """Return by what a campaign judged; earlier ones knew classifiers alone."""
    ladder = (*_LADDER, "corrected", "corrupted")
    found: Mapping[str, Any] = run.summary.get("judge") or {"name": "top1", "options": {}, "ladder": ladder}
    return found


def _wrong(judge: str, options: Mapping[str, Any]) -> str:
    """Return what samples do that a fault gives another answer, after their name in the plural."""
    if judge == "map":
        return f"have another class at more than {share(options['share'])} of their positions"
    if judge in ("embedding", "values"):
        return f"move further than a {'cosine distance' if judge == 'embedding' else 'relative error'} of " + (
            f"{options['bound']:g}"
        )
    return {
        "labels": "get another class",
        "boxes": "lose, move or relabel a detection, or show a ghost",
        "own": f"are wrong by {options.get('function', 'a judge of your own')}",
    }.get(judge, "get another answer")


def meanings(task: Task) -> dict[str, str]:
    """Return what the outcomes of a task mean, by name, with those that no judge counts."""
    return {
        **task.meanings,
        "sdc1_detected": "sdc1, and the file's health output says that something is wrong",
        "sdc1_silent": "sdc1, and the file's health output is the fault-free one",
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
    return bool(samples(run).get("synthetic"))


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
    return None if name is None else FIGURES.get(name, name)


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
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        task = task_of(run)
        alike = (task.judge, task.unit, task.wrong, quality_name(run) or "", *task.ladder)
        groups.setdefault(alike, []).append(run)
    return list(groups.values())
