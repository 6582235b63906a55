"""What a stage is to the training loop."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from resq_deploy.hardening import options
from resq_deploy.hardening.evaluate import correct, share
from resq_deploy.hardening.workbench import Batch, Workbench


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gives back: each loss term (detached scalars), their total, and how many images were right."""

    loss: float
    terms: Mapping[str, Tensor]
    correct: int


class Stage(abc.ABC):
    """One stage of the hardening. The loop owns epochs, optimiser and files; a stage owns losses and judgement.

    A stage is made with the network at its starting weights; what it derives from them is derived again when a
    run is resumed. What changes while it runs is its `state`.
    """

    name: ClassVar[options.Stage]

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.network = bench.network
        self.options = bench.options

    @abc.abstractmethod
    def step(self, batch: Batch) -> StepResult:
        """Compute the loss of a batch and leave its gradients in the parameters."""

    def after_step(self, batch: Batch) -> None:  # noqa: B027 - most stages have nothing to do
        """Adjust the weights after the optimiser's step."""

    def watch(self) -> dict[str, float]:
        """Return held-out figures of the weights in training themselves, even where their average is judged."""
        return {}

    def validate(self) -> dict[str, float]:
        """Return held-out figures at the end of an epoch."""
        return {"clean_accuracy": share(correct(self.bench, self.network, self.bench.validation))}

    @abc.abstractmethod
    def score(self, metrics: Mapping[str, float]) -> float:
        """Return what the best epoch has most of."""

    def rejects(self, metrics: Mapping[str, float]) -> bool:  # noqa: ARG002 - for stages that do reject
        """Return whether an epoch has to be undone."""
        return False

    def soften(self) -> None:  # noqa: B027 - only stages that reject epochs have a use for it
        """Change what the undone epoch is done again with."""

    def state(self) -> dict[str, Any]:
        """Return what has to survive a kill, as tensors and plain values."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - the counterpart of an empty state
        """Take up a state."""


def total_of(terms: Mapping[str, Tensor]) -> float:
    """Return the sum of weighted terms as a number."""
    return math.fsum(term.item() for term in terms.values())
