"""The golden run: what the fault-free file answers, which every faulty run is judged against."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.inputs import Given, Inputs, rounded_up
from resq_deploy.deployed.session import Deployment, Session, first_line
from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults.fault import Share
from resq_deploy.faults.outcomes import Judge
from resq_deploy.faults.partition import Partition


@dataclasses.dataclass(frozen=True, eq=False)
class Golden:
    """The fault-free run.

    Attributes:
        inputs: samples as the model takes them, N of them.
        labels: right classes, shape [N].
        logits: outputs of the fault-free file, shape [N, C].
        judge: compares faulty outputs with these.
        partition: the parts that images are run in, each in batches of its own; None for one part.
        health: what the fault-free file reports of its code words; None where it reports nothing.
    """

    inputs: Given
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    judge: Judge
    partition: Partition | None = None
    health: Health | None = None

    @property
    def parts(self) -> Partition:
        """The partition, of one part where there is no other."""
        return self.partition or Partition(images=len(self.labels))

    def whole(self, share: Share | None) -> bool:
        """Return whether a share holds all images."""
        return share is None or share.parts >= self.parts.parts

    def pieces(self, share: Share | None) -> list[slice]:
        """Return the images of each part of a share, in the order of the ring; None for all."""
        return [self.parts.part(number) for number in self.parts.numbers(share or self.parts.whole())]

    def logits_on(self, share: Share | None) -> NDArray[np.float32]:
        """Return the golden outputs for the images of a share, in the order of its parts, shape [n, C]."""
        return self.logits if share is None or self.whole(share) else self.logits[self.parts.rows(share)]

    def judge_on(self, share: Share | None) -> Judge:
        """Return what compares faulty outputs for the images of a share, in that order, with the golden ones."""
        return self.judge if share is None or self.whole(share) else self.judge.among(self.parts.rows(share))

    @property
    def right(self) -> int:
        """How many images the fault-free file gets right."""
        return int(self.judge.golden_right.sum())


def golden_run(model: bytes, deployment: Deployment, dataset: Dataset, images: int, part: int | None = None) -> Golden:
    """Run the fault-free file over test images.

    Args:
        model: the serialised model.
        deployment: how to run it.
        dataset: gives the images, in a fixed random order, and the right classes.
        images: how many test images to run; all where there are fewer.
        part: how many of them are run by themselves; more for a file with larger batches of a fixed size. None for all.

    Raises:
        ModelError: if the model cannot be run, or its outputs are not finite.
        DataError: if the images or the classes do not fit the model.
    """
    evaluation = dataset.evaluation(images)
    if not len(evaluation):
        raise DataError(f"data set {dataset.name} has no test images")
    return golden_on(model, deployment, dataset, evaluation, part)


def golden_on(
    model: bytes, deployment: Deployment, dataset: Dataset, evaluation: Split, part: int | None = None
) -> Golden:
    """Run the fault-free file over some images of a data set, one or more; as `golden_run`, with the same errors."""
    session = Session(model, deployment)
    inputs = Inputs.of(session.input, session.input.prepare(evaluation.images))
    size = len(inputs) if part is None else rounded_up(part, inputs.fixed)
    partition = Partition.of(len(inputs), min(size, len(inputs)))
    try:
        pieces = [partition.part(number) for number in range(partition.parts)]
        logits = run_in_pieces(session, inputs, pieces)
        health = session.health(inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ModelError(f"the model cannot be run on these images: {first_line(error)}") from error
    dataset.check_outputs(logits.shape[1])
    if not np.isfinite(logits).all():
        raise ModelError("the fault-free model gives outputs that are not finite: it cannot serve as a golden run")
    return Golden(inputs, evaluation.labels, logits, Judge(logits, evaluation.labels), partition, health)


def run_in_pieces(
    session: Session, inputs: Given, pieces: Sequence[slice], terminate: ort.RunOptions | None = None
) -> NDArray[np.float32]:
    """Return the outputs for some samples, piece by piece, each in batches of its own, shape [n, C].

    Raises:
        Exception: whatever onnxruntime raises; its types have no common base.
    """
    return np.concatenate([session.run(inputs[piece], terminate) for piece in pieces])
