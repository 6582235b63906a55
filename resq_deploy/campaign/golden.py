"""The golden run: what the fault-free file answers, which every faulty run is judged against."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.session import Deployment, Session, first_line
from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults.outcomes import Judge


@dataclasses.dataclass(frozen=True, eq=False)
class Golden:
    """The fault-free run.

    Attributes:
        inputs: images as the model takes them, shape [N, ...].
        labels: right classes, shape [N].
        logits: outputs of the fault-free file, shape [N, C].
        judge: compares faulty outputs with these.
        health: what the fault-free file reports of its code words; None where it reports nothing.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    judge: Judge
    health: Health | None = None

    @property
    def right(self) -> int:
        """How many images the fault-free file gets right."""
        return int(self.judge.golden_right.sum())


def golden_run(model: bytes, deployment: Deployment, dataset: Dataset, images: int) -> Golden:
    """Run the fault-free file over test images.

    Args:
        model: the serialised model.
        deployment: how to run it.
        dataset: gives the images and the right classes.
        images: how many test images to run; all where there are fewer.

    Raises:
        ModelError: if the model cannot be run, or its outputs are not finite.
        DataError: if the images or the classes do not fit the model.
    """
    evaluation = dataset.evaluation(images)
    if not len(evaluation):
        raise DataError(f"data set {dataset.name} has no test images")
    return golden_on(model, deployment, dataset, evaluation)


def golden_on(model: bytes, deployment: Deployment, dataset: Dataset, evaluation: Split) -> Golden:
    """Run the fault-free file over some images of a data set, one or more; errors as of `golden_run`."""
    session = Session(model, deployment)
    inputs = session.input.prepare(evaluation.images)
    try:
        logits, health = session.run(inputs), session.health(inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ModelError(f"the model cannot be run on these images: {first_line(error)}") from error
    dataset.check_outputs(logits.shape[1])
    if not np.isfinite(logits).all():
        raise ModelError("the fault-free model gives outputs that are not finite: it cannot serve as a golden run")
    return Golden(inputs, evaluation.labels, logits, Judge(logits, evaluation.labels), health)
