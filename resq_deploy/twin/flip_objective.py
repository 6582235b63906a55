"""What the bit-flip attack raises: an objective on the attack batch, from the scores of a session or of the twin."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resq_deploy.faults.outcomes import are_probabilities

Loss = Literal["gathered", "capped", "cross-entropy"]

_LEAST = 1e-300  # probabilities below it are taken for it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AttackBatch:
    """The sample that an attacker searches with.

    Attributes:
        images: as `session.input.prepare` gives them, [N, ...].
        labels: right classes, shape [N].
        target: class that the attacker wants all images to be given; None to raise the cross-entropy instead.
        loss: what is raised where no class is wanted: `cross-entropy`, as published, or `capped`: an image that is
            answered wrong already counts up to the cross-entropy of a uniform answer only, which no image answered
            right exceeds. The published search may spend its flips on these, since they can be made ever more wrong.
            `gathered` is capped until half of the margin above chance is lost, and then drives all images to the class
            most of them are given: the last images still right are those of that class, and turning them away brings
            others back. A baseline ResNet-20 fell to 11 % in 20 and 24 flips instead of 40 and 83.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    target: int | None = None
    loss: Loss = "gathered"


class Harm(NamedTuple):
    """What the attacker has reached on the attack batch; the larger the better for the attacker.

    Attributes:
        nonfinite: images with non-finite scores; negative where the attacker wants a class, which they are not.
        objective: mean over the other images of the loss, or of the negative cross-entropy towards a wanted class.
    """

    nonfinite: int
    objective: float


class Aim(NamedTuple):
    """What the next flip is to do.

    Attributes:
        classes: the class of each image whose cross-entropy counts, shape [N].
        sign: 1 to raise it, -1 to lower it.
        ceilings: up to what it counts, shape [N].
    """

    classes: Tensor
    sign: int
    ceilings: Tensor


class Objective:
    """The objective of an attacker with one batch.

    Args:
        batch: the sample.
        golden: scores of the fault-free file for it, shape [N, C]; they tell whether scores are probabilities.
    """

    def __init__(self, batch: AttackBatch, golden: NDArray[np.float32]) -> None:
        self._labels = torch.from_numpy(batch.labels)
        self._target = batch.target
        self._loss = batch.loss
        self._probabilities = are_probabilities(golden)
        chance = float(torch.bincount(self._labels).max()) / len(self._labels)
        self._half = (float(self._standing(torch.from_numpy(golden)).double().mean()) + chance) / 2

    def aim(self, scores: NDArray[np.float32]) -> Aim:
        """Return what the next flip is to do, given the scores of the images now. [N, C]."""
        now = torch.from_numpy(scores)
        unlimited = torch.full((len(now),), math.inf, dtype=torch.float64)
        if self._target is not None:
            return Aim(torch.full_like(self._labels, self._target), -1, unlimited)
        standing, finite = self._standing(now), torch.isfinite(now).all(dim=1)
        if self._loss == "gathered" and finite.any() and float(standing.double().mean()) <= self._half:
            commonest = torch.bincount(now[finite].argmax(dim=1)).argmax()
            return Aim(torch.full_like(self._labels, int(commonest)), -1, unlimited)
        if self._loss == "cross-entropy" or not standing.any():
            return Aim(self._labels, 1, unlimited)
        return Aim(self._labels, 1, torch.where(standing, math.inf, math.log(scores.shape[1])).double())

    def loss(self, scores: Tensor) -> float:
        """Return the mean cross-entropy of all images with finite scores, towards the class wanted if there is one.

        0 where there are none. [N, C].
        """
        classes = self._labels if self._target is None else torch.full_like(self._labels, self._target)
        unlimited = torch.full((len(scores),), math.inf, dtype=torch.float64)
        return self(scores.detach(), Aim(classes, 1, unlimited))[0].objective

    def __call__(self, scores: Tensor, aim: Aim) -> tuple[Harm, Tensor]:
        """Return what the attacker has reached, and the objective with its gradient.

        Args:
            scores: shape [N, C].
            aim: of this flip.
        """
        finite = torch.isfinite(scores).all(dim=1)
        outputs = scores[finite].double()
        logarithms = outputs.clamp_min(_LEAST).log() if self._probabilities else outputs.log_softmax(dim=1)
        losses = -logarithms.gather(1, aim.classes[finite][:, None])[:, 0]
        objective = aim.sign * torch.minimum(losses, aim.ceilings[finite]).sum() / max(len(losses), 1)
        nonfinite = int((~finite).sum())
        return Harm(nonfinite if self._target is None else -nonfinite, float(objective.detach())), objective

    def _standing(self, scores: Tensor) -> Tensor:
        """Return which images are answered right, shape [N]."""
        return (scores.argmax(dim=1) == self._labels) & torch.isfinite(scores).all(dim=1)
