"""Stage 0: a plainly trained network, the reference of every later figure."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from resq_deploy.hardening.stage import Stage, StepResult
from resq_deploy.hardening.workbench import Batch, Workbench


class Baseline(Stage):
    """Cross-entropy on augmented images; the best epoch has the highest validation accuracy."""

    name = "baseline"

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench)
        self._forward = bench.compiled(self.network.forward)

    def step(self, batch: Batch) -> StepResult:
        """Compute the cross-entropy and its gradients."""
        self.network.train()
        with self.bench.autocast():
            logits = self._forward(batch.images)
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.options.label_smoothing)
        torch.autograd.backward(loss)
        right = (logits.argmax(1) == batch.labels).sum().item()
        return StepResult(loss=loss.item(), terms={"cross_entropy": loss.detach()}, correct=int(right))

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the validation accuracy."""
        return metrics["clean_accuracy"]
