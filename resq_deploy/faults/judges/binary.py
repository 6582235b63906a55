"""`binary`: one sigmoid or logit a sample, or several that are asked one by one."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults.judges.judge import Answers, Judge, Weighed, option
from resq_deploy.faults.judges.outputs import Labels, Outputs, Rows, flat
from resq_deploy.faults.judges.quality import Contributions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binary(Judge):
    """Scores that each say yes above a threshold, [N], [N, 1] or [N, K]; sdc1: any of a sample's answers differs.

    With labels, 0 or 1 each, `accuracy`: all answers of the sample are right.
    """

    name: ClassVar[str] = "binary"

    threshold: float | None = option(None, "as the output", "yes above it; left open: told by `usual_threshold`")

    def settled(self, golden: Outputs) -> Self:
        """Return the judge with the threshold fixed by the golden outputs."""
        values = self.only(self.chosen(golden))
        if values.dtype == object:
            raise ModelError(f"judge binary takes numbers, of the same shape for every sample, not {self.outputs[0]!r}")
        return self if self.threshold is not None else dataclasses.replace(self, threshold=usual_threshold(values))

    def read(self, outputs: Outputs) -> Answers:
        """Return `side`: 1 above the threshold, else 0, int8 [N, K]."""
        values = self.only(outputs)
        threshold = usual_threshold(values) if self.threshold is None else self.threshold
        return {"side": (flat(values) > threshold).astype(np.int8)}

    def blanked(self, answers: Answers, rows: Rows) -> Answers:
        """Return answers with -1, neither side, for some samples."""
        side = answers["side"].copy()
        side[rows] = -1
        return {"side": side}

    def weigh(self, golden: Answers, found: Answers, labels: Labels | None) -> Weighed:
        """Return on which samples any side differs; labels 0 or 1, shape [N] or [N, K]."""
        side = found["side"]
        rating = None
        if labels is not None:
            known = flat(labels) if labels.ndim > 1 else labels[:, None]
            if known.shape != side.shape or not np.isin(known, (0, 1)).all():
                raise DataError(
                    f"judge binary takes labels 0 or 1, {side.shape[1]} a sample; these have shape {list(labels.shape)}"
                    f"{f' and values up to {labels.max()}' if labels.size and labels.dtype != object else ''}"
                )
            rating = Contributions.even((side == known).all(axis=1), np.ones(len(side)))
        return Weighed(sdc1=(side != golden["side"]).any(axis=1), contributions=rating)


def usual_threshold(values: NDArray[Any]) -> float:
    """Return what parts yes and no: 0.5 where all finite values are in [0, 1], 0 for logits.

    Integers are taken for a sigmoid over the whole of their type, as quantizers store it: the middle.
    """
    if np.issubdtype(values.dtype, np.integer):
        limits = np.iinfo(values.dtype)
        return float((limits.max + limits.min + 1) // 2)
    known = values[np.isfinite(values)] if np.issubdtype(values.dtype, np.floating) else values
    return 0.5 if ((known >= 0) & (known <= 1)).all() else 0.0
