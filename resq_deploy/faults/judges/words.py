"""What the rungs and figures of judges are called for people, in the words of each task."""

from collections.abc import Mapping
from typing import Any

FIGURES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "token_accuracy": "token accuracy",
    "miou": "mIoU",
    "map50": "mAP@50",
    "within": "share within the bound",
    "quality": "quality",
}
"""Quality figures, by their names in the file formats."""

_RUNGS: Mapping[str, str] = {
    "masked": "outputs bit-equal to the fault-free ones",
    "sdc5": "new top-1 outside the golden top 5",
    "sdc10": "top confidence moved by over 10 %",
    "sdc20": "top confidence moved by over 20 %",
    "sdc10_abs": "top confidence moved by over 0.1",
    "sdc20_abs": "top confidence moved by over 0.2",
    "lost": "a golden detection is lost",
    "moved": "a golden detection moved",
    "relabelled": "a golden detection has another class",
    "ghost": "a detection that the golden run has not",
    "nonfinite": "outputs hold NaN or infinity",
    "corrected": "wrong answer became right",
    "corrupted": "right answer became wrong",
}


def meanings(judge: Mapping[str, Any]) -> dict[str, str]:
    """Return what each rung of a judge's ladder means.

    Args:
        judge: as in `summary.json`: name and options.
    """
    same, other = _answers(str(judge["name"]), judge["options"])
    return {**_RUNGS, "benign": f"{same}, outputs not bit-equal", "sdc1": other}


def _answers(name: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the same answer is, and what another one is."""
    if name == "map":
        bound = f"more than {100 * options['share']:g} % of the positions"
        return f"no {bound} have another class", f"{bound} have another class"
    if name in ("embedding", "values"):
        what = "cosine distance" if name == "embedding" else "relative error"
        return f"{what} within {options['bound']:g}", f"{what} beyond {options['bound']:g}"
    return {
        "top1": ("same top-1", "another top-1"),
        "binary": ("same side of the threshold", "another side of the threshold"),
        "labels": ("same classes", "another class"),
        "boxes": ("same detections", "detections lost, moved, relabelled or added"),
    }.get(name, ("same answer", f"another answer, says {options.get('function', name)}"))
