"""What the bit-flip attack raises: an objective on the attack batch, from the scores of a session or of the twin."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resq_deploy.faults.outcomes import are_probabilities

Loss = Literal["capped", "cross-entropy"]

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
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    target: int | None = None
    loss: Loss = "capped"


class Harm(NamedTuple):
    """What the attacker has reached on the attack batch; the larger the better for the attacker.

    Attributes:
        nonfinite: images with non-finite scores; negative where the attacker wants a class, which they are not.
        objective: mean over the other images of the loss, or of the negative cross-entropy towards a wanted class.
    """

    nonfinite: int
    objective: float


class Objective:
    """The objective of an attacker with one batch.

    Args:
        batch: the sample.
        golden: scores of the fault-free file for it, shape [N, C]; they tell whether scores are probabilities.
    """

    def __init__(self, batch: AttackBatch, golden: NDArray[np.float32]) -> None:
        classes = batch.labels if batch.target is None else np.full_like(batch.labels, batch.target)
        self._classes = torch.from_numpy(classes)
        self._sign = 1 if batch.target is None else -1
        self._capped = batch.target is None and batch.loss == "capped"
        self._probabilities = are_probabilities(golden)

    def ceilings(self, scores: NDArray[np.float32]) -> Tensor:
        """Return up to what the loss of each image counts for the next flip, given the scores it has now. Shape [N]."""
        now = torch.from_numpy(scores)
        standing = (now.argmax(dim=1) == self._classes) & torch.isfinite(now).all(dim=1)
        free = standing if self._capped and standing.any() else torch.ones_like(standing)
        return torch.where(free, math.inf, math.log(scores.shape[1])).double()

    def loss(self, scores: Tensor) -> float:
        """Return the mean cross-entropy of all images with finite scores; 0 where there are none. [N, C]."""
        return abs(self(scores.detach(), torch.full((len(scores),), math.inf))[0].objective)

    def __call__(self, scores: Tensor, ceilings: Tensor) -> tuple[Harm, Tensor]:
        """Return what the attacker has reached, and the objective with its gradient.

        Args:
            scores: shape [N, C].
            ceilings: up to what the loss of each image counts, shape [N].
        """
        finite = torch.isfinite(scores).all(dim=1)
        outputs = scores[finite].double()
        logarithms = outputs.clamp_min(_LEAST).log() if self._probabilities else outputs.log_softmax(dim=1)
        losses = -logarithms.gather(1, self._classes[finite][:, None])[:, 0]
        objective = self._sign * torch.minimum(losses, ceilings[finite]).sum() / max(len(losses), 1)
        return Harm(self._sign * int((~finite).sum()), float(objective.detach())), objective
