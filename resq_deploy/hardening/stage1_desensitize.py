"""Stage 1: attack resilience by feature desensitization, equations (1) to (3) of the specification.

The pairing of clean and perturbed features is a scale-free form of Error-Silenced Quantization (CEUR 2640/8); it
stands beside the cross-entropies and the KL term of TRADES (Zhang et al. 2019), since pairing alone masks
gradients. The guard is that of Wong et al. 2020.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resq_deploy.hardening.evaluate import correct, correct_under_pgd, share
from resq_deploy.hardening.folding import FoldedNetwork, find_pairs
from resq_deploy.hardening.options import TrainOptions
from resq_deploy.hardening.perturb import Classifier, n_fgsm, pgd
from resq_deploy.hardening.stage import Stage, StepResult, total_of
from resq_deploy.hardening.two_views import TwoViews
from resq_deploy.hardening.workbench import Batch, Workbench
from resq_deploy.networks.base import TappedNetwork

_GUARD_STEPS = 5
_GUARD_IMAGES = 128
_FLOOR = 1e-6


def feature_distance(perturbed: Tensor, clean: Tensor) -> Tensor:
    """Return D_l of equation (3): `||phi(x') - sg phi(x)||^2 / (||sg phi(x)||^2 + 1e-6)` per sample, batch mean.

    Args:
        perturbed: features of the perturbed images, [N, ...].
        clean: features of the clean images, same shape; no gradient flows into them.

    Returns:
        A float32 scalar (float64 for float64 features).
    """
    precise = torch.promote_types(clean.dtype, torch.float32)
    target = clean.detach().flatten(1).to(precise)
    difference = perturbed.flatten(1).to(precise) - target
    return (difference.square().sum(1) / (target.square().sum(1) + _FLOOR)).mean()


def consistency(target_logits: Tensor, logits: Tensor) -> Tensor:
    """Return `KL(sg softmax target || softmax logits)`, mean over the batch; no gradient flows into the target."""
    precise = torch.promote_types(logits.dtype, torch.float32)
    return F.kl_div(
        F.log_softmax(logits.to(precise), 1),
        F.log_softmax(target_logits.detach().to(precise), 1),
        log_target=True,
        reduction="batchmean",
    )


def desensitization_terms(
    logits: tuple[Tensor, Tensor],
    features: Mapping[str, tuple[Tensor, Tensor]],
    labels: Tensor,
    *,
    weights: tuple[float, float, float],
    smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Return the weighted terms of equation (2); their sum is L1.

    Args:
        logits: of the clean and of the perturbed images, each [N, classes].
        features: for each tap, those of the clean and of the perturbed images.
        labels: int64 [N].
        weights: w, lambda_f and beta.
        smoothing: label smoothing of the cross-entropies.
    """
    clean, perturbed = logits
    adversarial, feature, consistent = weights
    precise = torch.promote_types(clean.dtype, torch.float32)
    distances = [feature_distance(moved, still) for still, moved in features.values()]
    return {
        "clean": (1 - adversarial) * F.cross_entropy(clean.to(precise), labels, label_smoothing=smoothing),
        "adversarial": adversarial * F.cross_entropy(perturbed.to(precise), labels, label_smoothing=smoothing),
        "feature": feature * torch.stack(distances).mean(),
        "consistency": consistent * consistency(clean, perturbed),
    }


class Desensitize(Stage):
    """Training on each batch beside one perturbed view of it; the best epoch has the best PGD-10 accuracy.

    `step_share` is the attack's step as a share of the full one; the guard halves it.
    """

    name = "attack"

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench)
        pairs = find_pairs(self.network, bench.model_input(bench.train.pixels[:2]))
        self.folded = FoldedNetwork(self.network, pairs)
        # compiled, a network of its own wears the taps
        self._trained = TappedNetwork(self.network) if self.options.compile else self.network
        self._forward = bench.compiled(self._trained) if self.options.compile else self.network.forward_with_taps
        self._crafting = bench.compiled(self.folded.run)
        self._views = TwoViews(self.network)
        self.step_share = 1.0
        self.held_out = bench.validation.head(self.options.validation_images)
        self.guarded = bench.validation.head(min(_GUARD_IMAGES, self.options.validation_images))
        self.guard_before = self._guard_accuracy()

    def step(self, batch: Batch) -> StepResult:
        """Perturb the batch, compute (2) in training mode on both views at once, and its gradients."""
        with self.bench.autocast():
            epsilon = self.epsilon_at(batch.progress)
            attacked = self.folded.classifier(self._crafting)
            perturbed = perturbed_view(self.options, attacked, batch, epsilon=epsilon, step_share=self.step_share)
            self._trained.train()
            with self._views.drawn_alike():
                logits, features = self._forward(torch.cat([batch.images, perturbed]))
        options = self.options
        terms = desensitization_terms(
            _halves(logits),
            {name: _halves(value) for name, value in features.items()},
            batch.labels,
            weights=(options.adversarial_weight, options.feature_weight, options.consistency_weight),
            smoothing=options.hardening_smoothing,
        )
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        right = (logits[: len(batch.labels)].argmax(1) == batch.labels).sum().item()
        terms = {name: term.detach() for name, term in terms.items()}
        return StepResult(loss=total_of(terms), terms=terms, correct=int(right))

    def epsilon_at(self, progress: float) -> float:
        """Return eps at a share of the stage: it rises linearly over the warm-up."""
        warmup = self.options.epsilon_warmup
        return self.options.epsilon * (min(1.0, progress / warmup) if warmup else 1.0)

    def watch(self) -> dict[str, float]:
        """Return the accuracy of the guard's fixed batch under PGD-5."""
        return {"guard_accuracy": self._guard_accuracy()}

    def validate(self) -> dict[str, float]:
        """Return the clean accuracy and that under PGD-10."""
        judged, bench = self.folded.classifier(), self.bench
        return {
            "clean_accuracy": share(correct(bench, judged, bench.validation)),
            "robust_accuracy": share(correct_under_pgd(bench, judged, self.held_out)),
        }

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the accuracy under PGD-10 and accept the epoch as the guard's new reference."""
        self.guard_before = metrics["guard_accuracy"]
        return metrics["robust_accuracy"]

    def rejects(self, metrics: Mapping[str, float]) -> bool:
        """Return whether PGD-5 accuracy fell by more than the bound: catastrophic overfitting."""
        return self.guard_before - metrics["guard_accuracy"] > self.options.collapse_drop

    def soften(self) -> None:
        """Halve the step of the attack, which overshoots where the loss bends."""
        self.step_share /= 2

    def state(self) -> dict[str, Any]:
        """Return the attack's step and the guard's reference."""
        return {"step_share": self.step_share, "guard_before": self.guard_before}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.step_share = state["step_share"]
        self.guard_before = state["guard_before"]

    def _guard_accuracy(self) -> float:
        return share(correct_under_pgd(self.bench, self.folded.classifier(), self.guarded, steps=_GUARD_STEPS))


def perturbed_view(
    options: TrainOptions, network: Classifier, batch: Batch, *, epsilon: float, step_share: float = 1.0
) -> Tensor:
    """Return the perturbed view of a batch that the options ask for, by equation (1) or PGD.

    Args:
        options: which attack, and its constants.
        network: what to attack.
        batch: the images.
        epsilon: radius in units of [0, 1] pixels.
        step_share: the step, as a share of the full one.
    """
    if options.attack == "n-fgsm":
        return n_fgsm(
            network,
            batch.images,
            batch.labels,
            epsilon=epsilon,
            step=step_share * epsilon,
            noise=options.noise,
            generator=batch.noise,
        )
    return pgd(
        network,
        batch.images,
        batch.labels,
        epsilon=epsilon,
        steps=options.attack_steps,
        step_size=step_share * options.attack_step,
        generator=batch.noise,
    )


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    clean, perturbed = both.chunk(2)
    return clean, perturbed
