"""What a fault does to each image, judged from golden and faulty outputs alone.

The ladder is that of the field: masked (bit-equal outputs), benign (same top-1), SDC-1 (another top-1); beside it
SDC-5 and SDC-10/20 % (Li et al., "Understanding Error Propagation in Deep Learning Neural Network Accelerators and
Applications", SC'17). masked + benign + sdc1 = images.
"""

import copy
import dataclasses
import enum

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Flags = NDArray[np.bool_]

COUNTS = (
    "masked",
    "benign",
    "sdc1",
    "sdc5",
    "sdc10",
    "sdc20",
    "sdc10_abs",
    "sdc20_abs",
    "nonfinite",
    "corrected",
    "corrupted",
)
"""What is counted per fault, in the order of the file formats."""


class Outcome(enum.StrEnum):
    """What a fault as a whole did: the worst over its images, or `due` (load error, exception, time-out)."""

    MASKED = "masked"
    BENIGN = "benign"
    SDC1 = "sdc1"
    DUE = "due"


def top1(logits: Logits) -> NDArray[np.int64]:
    """Return the winning class of each row; ties go to the lowest index. Shape [N, C] -> [N]."""
    winners: NDArray[np.int64] = np.argmax(logits, axis=1)
    return winners


def are_probabilities(outputs: Logits) -> bool:
    """Return whether every row already is a distribution: values in [0, 1] that sum to 1. Shape [N, C]."""
    if not np.isfinite(outputs).all():
        return False
    inside = (outputs >= 0).all() and (outputs <= 1).all()
    return bool(inside and np.allclose(outputs.sum(axis=1, dtype=np.float64), 1.0, atol=1e-3))


def top_confidence(outputs: Logits, probabilities: bool) -> NDArray[np.float64]:
    """Return the confidence of the winning class, by softmax unless the outputs are probabilities. [N, C] -> [N]."""
    values = outputs.astype(np.float64)
    best: NDArray[np.float64] = values.max(axis=1)
    if probabilities:
        return best
    total: NDArray[np.float64] = np.exp(values - best[:, None]).sum(axis=1)
    return 1.0 / total


class Judge:
    """Judges faulty outputs against the golden run of the same images.

    Args:
        golden: outputs of the fault-free file, shape [N, C].
        labels: right classes, shape [N].
        probabilities: whether outputs are distributions already; None: told by these golden ones.
    """

    def __init__(self, golden: Logits, labels: NDArray[np.int64], probabilities: bool | None = None) -> None:
        self._golden = np.ascontiguousarray(golden)
        self._labels = labels
        self._probabilities = are_probabilities(golden) if probabilities is None else probabilities
        self._winner = top1(golden)
        self.golden_right: Flags = (self._winner == labels) & np.isfinite(golden).all(axis=1)
        with np.errstate(all="ignore"):  # a golden file may itself be broken; its rows are then judged non-finite
            self._confidence = top_confidence(golden, self._probabilities)
        # Position of each class in the golden order, ties to the lowest index: 0 is the winner.
        order = np.argsort(-golden, axis=1, kind="stable")
        self._rank = np.empty_like(order)
        np.put_along_axis(self._rank, order, np.arange(golden.shape[1])[None, :], axis=1)

    def among(self, rows: NDArray[np.int64]) -> "Judge":
        """Return the judge of some of the images, which sees in each what this one does, shape [n]."""
        part = copy.copy(self)
        part._golden = self._golden[rows]
        part._labels = self._labels[rows]
        part._winner = self._winner[rows]
        part.golden_right = self.golden_right[rows]
        part._confidence = self._confidence[rows]
        part._rank = self._rank[rows]
        return part

    def __call__(self, faulty: Logits) -> "Judgement":
        """Judge the outputs of a faulty file, shape [N, C], on the same images.

        A row that is not finite has no winner and no confidence: unless it is masked it counts as non-finite and
        as every kind of SDC, and its answer is wrong.
        """
        faulty = np.ascontiguousarray(faulty)
        equal = (faulty.view(np.uint32) == self._golden.view(np.uint32)).all(axis=1)
        broken = ~np.isfinite(faulty).all(axis=1)
        winner = top1(faulty)
        right = (winner == self._labels) & ~broken
        sdc1 = ~equal & ((winner != self._winner) | broken)
        rank = np.take_along_axis(self._rank, winner[:, None], axis=1)[:, 0]
        with np.errstate(all="ignore"):
            moved = np.abs(top_confidence(faulty, self._probabilities) - self._confidence)
            moved[broken & ~equal] = np.inf
            moved[equal] = 0.0
        return Judgement(
            right=right,
            flags={
                "masked": equal,
                "benign": ~equal & ~sdc1,
                "sdc1": sdc1,
                "sdc5": sdc1 & ((rank >= 5) | broken),
                "sdc10": moved > 0.1 * self._confidence,
                "sdc20": moved > 0.2 * self._confidence,
                "sdc10_abs": moved > 0.1,
                "sdc20_abs": moved > 0.2,
                "nonfinite": broken & ~equal,
                "corrected": sdc1 & right & ~self.golden_right,
                "corrupted": sdc1 & ~right & self.golden_right,
            },
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Judgement:
    """What one fault did to each image.

    Attributes:
        right: whether the faulty answer is the right one, shape [N].
        flags: for each name of `COUNTS`, on which images it happened, shape [N].
    """

    right: Flags
    flags: dict[str, Flags]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images for each name of `COUNTS`."""
        return {name: int(self.flags[name].sum()) for name in COUNTS}

    @property
    def outcome(self) -> Outcome:
        """The worst outcome over the images."""
        if self.flags["sdc1"].any():
            return Outcome.SDC1
        return Outcome.BENIGN if self.flags["benign"].any() else Outcome.MASKED
