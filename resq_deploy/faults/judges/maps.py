"""`map`: a class a position: segmentation, tags of tokens, text recognition."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults.judges.binary import usual_threshold
from resq_deploy.faults.judges.judge import Answers, Judge, Weighed, option
from resq_deploy.faults.judges.outputs import Labels, Outputs, Rows, flat
from resq_deploy.faults.judges.quality import Contributions

_NONE = -1  # no class


@dataclasses.dataclass(frozen=True, kw_only=True)
class Map(Judge):
    """The best class along an axis, ties to the lowest; sdc1: more than a share of the positions has another one.

    Along an axis of one score, or of none, there is nothing to choose from: a single score a position is yes above the
    threshold; an output of integers holds the classes themselves (`axis` 0, which is that of the samples).

    With labels, a class a position, `miou` of positions in two or more dimensions, else `token_accuracy`. Positions
    labelled below 0 or `ignore` are left out of both.
    """

    name: ClassVar[str] = "map"
    amounts: ClassVar[tuple[str, ...]] = ("changed",)

    axis: int = option(1, "axis of the output", "where the classes are; 0: the output holds classes itself")
    share: float = option(0.01, "share of the positions", "sdc1 where more of them change")
    ignore: int = option(255, "class", "labels that are not rated")
    threshold: float | None = option(None, "as the output", "yes above it, of a single score a position")
    quality: str = option("auto", "miou|token_accuracy", "the figure; auto: by the dimensions of the positions")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("quality", ("auto", "miou", "token_accuracy"))

    @property
    def figure(self) -> str:
        """The name of its quality figure with labels."""
        return "token_accuracy" if self.quality == "auto" else self.quality

    def settled(self, golden: Outputs) -> Self:
        """Return the judge with the figure, and the threshold of a single score, fixed by the golden outputs."""
        values = self.only(self.chosen(golden))
        rank = values.ndim
        if values.dtype == object or not -rank < self.axis < rank or rank < 2:
            raise ModelError(
                f"judge map finds no axis {self.axis} of classes in output {self.outputs[0]!r} {list(values.shape)}: "
                f"give --judge map:axis=A, A from 1 to {max(rank - 1, 1)}, or 0 where the output holds classes"
            )
        changes: dict[str, Any] = {}
        if self.quality == "auto":
            sizes = np.array(values.shape[1:])
            if self.axis:
                sizes = np.delete(sizes, self.axis - 1 if self.axis > 0 else self.axis)
            changes["quality"] = "miou" if (sizes > 1).sum() >= 2 else "token_accuracy"
        if self.axis and values.shape[self.axis] == 1 and self.threshold is None:
            changes["threshold"] = usual_threshold(values)
        return dataclasses.replace(self, **changes)

    def read(self, outputs: Outputs) -> Answers:
        """Return `kind`: the class at each position, int32 [N, P]."""
        values = self.only(outputs)
        if not self.axis:
            kind = values
        elif values.shape[self.axis] == 1:
            kind = values > (usual_threshold(values) if self.threshold is None else self.threshold)
        else:
            kind = np.argmax(values, axis=self.axis)
        return {"kind": flat(kind).astype(np.int32)}

    def blanked(self, answers: Answers, rows: Rows) -> Answers:
        """Return answers with no class at any position for some samples."""
        kind = answers["kind"].copy()
        kind[rows] = _NONE
        return {"kind": kind}

    def weigh(self, golden: Answers, found: Answers, labels: Labels | None) -> Weighed:
        """Return on which samples too many positions changed; labels int [N, ...], a class a position."""
        kind = found["kind"]
        changed = (kind != golden["kind"]).sum(axis=1)
        return Weighed(
            sdc1=changed > self.share * kind.shape[1],
            amounts={"changed": changed.astype(np.int64)},
            contributions=None if labels is None else self._rated(kind, labels),
        )

    def _rated(self, kind: NDArray[np.int32], labels: Labels) -> Contributions:
        if labels.dtype.kind not in "iub" or flat(labels).shape != kind.shape:
            raise DataError(
                f"judge map takes a class a position as labels, {kind.shape[1]} a sample; these are "
                f"{labels.dtype.name} {list(labels.shape)}"
            )
        known = flat(labels).astype(np.int64)
        rated = (known >= 0) & (known != self.ignore)
        if self.figure == "token_accuracy":
            return Contributions.even(((kind == known) & rated).sum(axis=1), rated.sum(axis=1))
        return Contributions.listed([_overlaps(*pair) for pair in zip(kind, known, rated, strict=True)], width=3)


def _overlaps(kind: NDArray[np.int32], known: NDArray[np.int64], rated: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return `class, intersection, union` of each class that one sample's answers or labels have, shape [C, 3]."""
    answers, right = kind[rated].astype(np.int64), known[rated]
    size = int(max(answers.max(initial=-1), right.max(initial=-1))) + 1
    found, wanted, both = (
        np.bincount(classes[classes >= 0], minlength=size) for classes in (answers, right, right[answers == right])
    )
    union = found + wanted - both
    present = np.flatnonzero(union)
    return np.stack([present, both[present], union[present]], axis=1).astype(np.float64)
