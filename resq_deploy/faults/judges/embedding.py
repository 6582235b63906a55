"""`embedding`: vectors of which only the direction is used."""

import dataclasses
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import ModelError
from resq_deploy.faults.judges.judge import Answers, Judge, Weighed, option
from resq_deploy.faults.judges.outputs import Flags, Labels, Outputs, Rows, flat
from resq_deploy.faults.judges.quality import Contributions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(Judge):
    """A vector a sample; sdc1: its cosine distance to the golden one, 1 - cos, is beyond a bound, or it is all zero.

    With vectors as labels, `within`: the share of samples within the bound of theirs. Classes rate no vector.
    """

    name: ClassVar[str] = "embedding"

    bound: float = option(0.1, "cosine distance, 0 to 2", "sdc1 beyond it")

    @property
    def figure(self) -> str:
        """The name of its quality figure with labels."""
        return "within"

    def settled(self, golden: Outputs) -> Self:
        """Return the judge itself: nothing is left open."""
        values = self.only(self.chosen(golden))
        if values.dtype == object or values.size == len(values):
            raise ModelError(
                f"judge embedding takes a vector a sample; output {self.outputs[0]!r} has shape {list(values.shape)}"
            )
        return self

    def read(self, outputs: Outputs) -> Answers:
        """Return `vector`, float64 [N, D]."""
        return {"vector": flat(self.only(outputs)).astype(np.float64)}

    def blanked(self, answers: Answers, rows: Rows) -> Answers:
        """Return answers without a direction for some samples."""
        vector = answers["vector"].copy()
        vector[rows] = np.nan
        return {"vector": vector}

    def weigh(self, golden: Answers, found: Answers, labels: Labels | None) -> Weighed:
        """Return which vectors point elsewhere; labels float [N, D], others rate nothing."""
        vector = found["vector"]
        rating = None
        if labels is not None and labels.dtype.kind == "f" and flat(labels).shape == vector.shape:
            near = self._near(flat(labels).astype(np.float64), vector)
            rating = Contributions.even(near, np.ones(len(near)))
        return Weighed(sdc1=~self._near(golden["vector"], vector), contributions=rating)

    def _near(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> Flags:
        with np.errstate(all="ignore"):  # of a vector without a direction no distance is within a bound
            near: Flags = 1.0 - (_directions(one) * _directions(other)).sum(axis=1) <= self.bound
        return near


def _directions(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(vectors).max(axis=1, keepdims=True)  # first, so that no square over- or underflows
    scaled = vectors / largest
    directions: NDArray[np.float64] = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return directions
