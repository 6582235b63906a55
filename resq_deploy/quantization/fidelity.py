"""How near an int8 file comes to the float model it was made from, on calibration images."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy import stats

from resq_deploy.cores import usable_cores
from resq_deploy.data.dataset import Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import Estimate, share

_PORTION = 100  # images prepared at a time
_LEVEL = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fidelity:
    """What an int8 file keeps of the float model.

    Attributes:
        squared_error: mean squared difference of the logits; of other tasks, the mean of the outputs' squared relative
            errors.
        agreement: share of images with the same top-1, or with the same answer by the judge of another task.
        accuracy: share of images the int8 file gets right; None for other tasks.
        agrees: the images with the same answer, shape [N].
    """

    squared_error: float
    agreement: Estimate
    accuracy: Estimate | None
    agrees: NDArray[np.bool_]

    def is_no_farther(self, other: "Fidelity") -> bool:
        """Return whether this file's logits are as near to the float model's as those of another, or nearer."""
        return self.squared_error <= other.squared_error  # false for NaN

    def keeps_answers(self, other: "Fidelity") -> bool:
        """Return whether this file agrees with the float model as often as another, or more seldom by chance alone.

        By the sign test on the images where only one of them agrees, at 5 %. Both are judged on the same images.
        """
        lost = int((other.agrees & ~self.agrees).sum())
        won = int((self.agrees & ~other.agrees).sum())
        by_chance = stats.binom.cdf(won, won + lost, 0.5) > _LEVEL
        return bool(np.isfinite(self.squared_error) and (won >= lost or by_chance))

    def as_dict(self) -> dict[str, Any]:
        """Return what the sidecar says."""
        figures: dict[str, Any] = {"squared_error": self.squared_error, "agreement": self.agreement.as_dict()}
        return figures if self.accuracy is None else figures | {"accuracy": self.accuracy.as_dict()}


class Referee(Protocol):
    """Holds int8 files against a float model on samples."""

    def judge(self, int8: bytes) -> Fidelity:
        """Return how near a file comes to the float model.

        Raises:
            ModelError: if onnxruntime refuses the file.
        """

    def right(self, int8: bytes, count: int) -> NDArray[np.bool_]:
        """Return which of the first `count` samples a file answers right, shape [count] or fewer.

        That is as they are labelled or, where answers are no classes, as the float model answers them.

        Raises:
            ModelError: if onnxruntime refuses the file.
        """


class Reference:
    """A float classifier's answers to some images, for int8 files to be held against.

    Args:
        model: the float model.
        judged: images, and labels, to compare on.
    """

    def __init__(self, model: onnx.ModelProto, judged: Split) -> None:
        self._judged = judged
        self._logits = logits(model.SerializeToString(), judged.images)

    def judge(self, int8: bytes) -> Fidelity:
        """Compare an int8 file with the float model.

        Raises:
            ModelError: if onnxruntime refuses the file.
        """
        found = logits(int8, self._judged.images)
        winners, n = top1(found), len(found)
        agrees = winners == top1(self._logits)
        difference = found.astype(np.float64) - self._logits
        return Fidelity(
            squared_error=float(np.square(difference).mean()),
            agreement=share(int(agrees.sum()), n),
            accuracy=share(int((winners == self._judged.labels).sum()), n),
            agrees=agrees,
        )

    def right(self, int8: bytes, count: int) -> NDArray[np.bool_]:
        """Return which of the first `count` images a file answers right, with finite scores.

        Raises:
            ModelError: if onnxruntime refuses the file.
        """
        judged = self._judged.head(count)
        scores = logits(int8, judged.images)
        right: NDArray[np.bool_] = (top1(scores) == judged.labels) & np.isfinite(scores).all(axis=1)
        return right


def logits(model: bytes, images: NDArray[Any]) -> NDArray[np.float32]:
    """Return a model's class scores on every core, images as the data set holds them: [N, ...] -> [N, C].

    Raises:
        ModelError: if onnxruntime refuses the model, or its scores are not one row an image.
    """
    session = Session(model, every_core())
    portion = max(_PORTION, session.batch)
    parts = (images[start : start + portion] for start in range(0, len(images), portion))
    with running():
        return np.concatenate([session.run(session.input.prepare(part)) for part in parts])


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Turn an error of onnxruntime into one of ours.

    Raises:
        ModelError: in its place.
    """
    try:
        yield
    except RUNTIME_ERRORS as error:
        raise ModelError(f"onnxruntime cannot run the float model: {first_line(error)}") from error


def every_core() -> Deployment:
    """Return how models are run while exporting: one session on every core."""
    return Deployment(threads=len(usable_cores()))
