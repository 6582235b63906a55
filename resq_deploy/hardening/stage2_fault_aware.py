"""Stage 2: fault resilience by training on flipped int8 codes, equation (5) of the specification.

Built from random-bit-error training (Stutz et al. 2021): two branches, clamped gradients, weight clipping, and a
curriculum; here on the batch-norm-folded grid, and with a term that keeps what stage 1 gained.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from resq_deploy.hardening.as_deployed import AsDeployed
from resq_deploy.hardening.criticality import ranked
from resq_deploy.hardening.evaluate import correct, correct_under_pgd, share
from resq_deploy.hardening.fake_quant import Stored
from resq_deploy.hardening.folding import fold_batchnorm
from resq_deploy.hardening.perturb import evaluating
from resq_deploy.hardening.stage import Stage, StepResult, total_of
from resq_deploy.hardening.stage1_desensitize import consistency, perturbed_view
from resq_deploy.hardening.two_views import TwoViews
from resq_deploy.hardening.workbench import Batch, Workbench

_LOSS_MEMORY = 0.9


class FaultAware(Stage):
    """Training with quantized weights and activations on two branches, one of them with flipped bits.

    The faulty branch runs batch-norm on its running statistics, as the deployed file does: batch statistics
    would renormalise away a part of what the faults do.

    The best epoch has the highest mean of the figures at stake, all on the quantized network: clean accuracy, accuracy
    at the highest bit error rate, and, after stage 1, accuracy under PGD-10.
    """

    name = "fault"

    def __init__(self, bench: Workbench, *, hardened: bool) -> None:
        """Prepare the stage.

        Args:
            bench: the surroundings, with the network at its starting weights.
            hardened: whether those went through stage 1, so that its gains have to be kept.
        """
        super().__init__(bench)
        network, options = self.network, self.options
        self.deployed = AsDeployed(bench)
        self.grid, self.folded = self.deployed.grid, self.deployed.folded
        self.activations = self.deployed.activations
        self.held_out = bench.validation.head(options.validation_images)
        self.keeps_attack = hardened and options.perturb_in_fault and options.epsilon > 0
        needs_teacher = hardened and options.distill_weight > 0 and options.epsilon > 0
        self.teacher = fold_batchnorm(network, self.deployed.pairs).requires_grad_(False) if needs_teacher else None
        ranking = ranked(bench, "after" if hardened else "before")
        everything = [entry.layer for entry in ranking]
        self.injected = everything[: options.critical_layers] if options.fault_layers == "critical" else everything
        self.limits = {name: self._largest(layer.weight.detach().abs()) for name, layer in self.grid.layers.items()}
        self.clean_loss: float | None = None
        self.injecting = False
        self._views = TwoViews(network)
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.deployed.learn_ranges()

    def step(self, batch: Batch) -> StepResult:
        """Compute (5) and leave its gradients in the parameters, the faulty branch's clamped before they are added."""
        stored = self.grid.stored()
        views = [batch.images]
        if self.keeps_attack or self.teacher is not None:
            views.append(self._perturbed(batch, stored))
        terms, logits = self._clean_branch(batch, views, stored)
        if self.injecting:
            view = views[-1] if self.keeps_attack and batch.index % 2 else batch.images
            terms["faulty"] = self._faulty_branch(batch, view, stored)
        self._follow_loss(F.cross_entropy(logits, batch.labels).item())
        right = (logits.argmax(1) == batch.labels).sum().item()
        return StepResult(loss=total_of(terms), terms=terms, correct=int(right))

    def after_step(self, batch: Batch) -> None:
        """Clip the weights of each channel, or layer, to tau times their largest starting magnitude."""
        bound = self.clip_at(batch.progress)
        with torch.no_grad():
            for name, layer in self.grid.layers.items():
                limit = bound * self.limits[name]
                layer.weight.clamp_(-limit, limit)

    def _largest(self, magnitudes: Tensor) -> Tensor:
        """Return the largest magnitude of each output channel, [channels, 1, ...], or of all, [1, 1, ...]."""
        first = 1 if self.options.clip == "channel" else 0
        return magnitudes.amax(dim=tuple(range(first, magnitudes.ndim)), keepdim=True)

    def clip_at(self, progress: float) -> float:
        """Return tau at a share of the stage: it falls linearly from 1 to its final value, then stays."""
        options = self.options
        done = min(1.0, progress / options.clip_share) if options.clip_share else 1.0
        return 1 - (1 - options.clip_final) * done

    def draw_rate(self, generator: torch.Generator) -> float:
        """Draw a bit error rate, log-uniform in [p_max / 10, p_max]."""
        exponent = torch.rand(1, device=generator.device, generator=generator).item()
        return self.options.fault_rate * 10 ** (exponent - 1)

    def validate(self) -> dict[str, float]:
        """Return clean, faulty and, after stage 1, robust accuracy of the quantized network."""
        bench, deployed, stored = self.bench, self.deployed, self.grid.stored()
        figures = {
            "clean_accuracy": share(correct(bench, deployed.frozen(stored), bench.validation)),
            "faulty_accuracy": share(deployed.right_under_faults(stored, self.held_out)),
        }
        if self.teacher is not None or self.keeps_attack:
            figures["robust_accuracy"] = share(correct_under_pgd(bench, deployed.frozen(stored), self.held_out))
        return figures

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the mean of the figures at stake."""
        figures = [
            metrics[name] for name in ("clean_accuracy", "faulty_accuracy", "robust_accuracy") if name in metrics
        ]
        return math.fsum(figures) / len(figures)

    def state(self) -> dict[str, Any]:
        """Return activation ranges and the curriculum."""
        return {
            "ranges": dict(self.activations.ranges),
            "clean_loss": self.clean_loss,
            "injecting": self.injecting,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.activations.ranges = dict(state["ranges"])
        self.clean_loss = state["clean_loss"]
        self.injecting = state["injecting"]

    def _perturbed(self, batch: Batch, stored: Stored) -> Tensor:
        """Craft the perturbed view on the quantized weights; on a CPU quantized activations would cost a fifth more."""
        with torch.no_grad():
            tensors = self.folded.tensors(self.grid.weights(stored))
        with self.bench.autocast():
            attacked = functools.partial(self.folded.run, tensors=tensors)
            return perturbed_view(self.options, attacked, batch, epsilon=self.options.epsilon)

    def _clean_branch(self, batch: Batch, views: list[Tensor], stored: Stored) -> tuple[dict[str, Tensor], Tensor]:
        """Run the fault-free quantized network on all views and add its gradients; return terms and clean logits."""
        options, labels = self.options, batch.labels
        self.network.train()
        alike = self._views.drawn_alike() if len(views) == 2 else contextlib.nullcontext()
        with self.bench.autocast(), self.activations.applied(self.network, learn=True), alike:
            both = functional_call(self.network, self.grid.weights(stored), (torch.cat(views),))
        self.activations.agree(self.bench.ranks)
        clean, perturbed = both[: len(labels)].float(), both[len(labels) :].float()
        half, smoothing = 0.5 if self.injecting else 1.0, options.hardening_smoothing
        if self.keeps_attack:
            weight = options.adversarial_weight
            terms = {
                "clean": half * (1 - weight) * F.cross_entropy(clean, labels, label_smoothing=smoothing),
                "adversarial": half * weight * F.cross_entropy(perturbed, labels, label_smoothing=smoothing),
                "consistency": half * options.consistency_weight * consistency(clean, perturbed),
            }
        else:
            terms = {"clean": half * F.cross_entropy(clean, labels, label_smoothing=smoothing)}
        if self.teacher is not None:
            with torch.no_grad(), self.bench.autocast():
                target = self.teacher(views[-1])
            terms["distill"] = options.distill_weight * consistency(target, perturbed)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        return {name: term.detach() for name, term in terms.items()}, clean.detach()

    def _faulty_branch(self, batch: Batch, view: Tensor, stored: Stored) -> Tensor:
        """Run the network with fresh flips and add its clamped gradients, weighted by 1/2."""
        rate = self.draw_rate(batch.generator)
        flips = self.grid.draw_flips(self.injected, rate, batch.generator)
        module = self.folded.module
        module.train()  # dropout and stochastic depth as in the clean branch, but no batch statistics
        try:
            with frozen_statistics(module), self.bench.autocast(), self.activations.applied(module, learn=False):
                logits = self.folded.run(view, self.folded.tensors(self.grid.weights(stored, flips)))
        finally:
            module.eval()
        options = self.options
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=options.hardening_smoothing)
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        self.bench.ranks.average([gradient for gradient in gradients if gradient is not None])
        add_clamped(gradients, self._parameters, bound=options.gradient_clamp, weight=0.5)
        return 0.5 * loss.detach()

    def _follow_loss(self, loss: float) -> None:
        """Start the injection once the running clean loss is low enough, and never stop it again."""
        loss = self.bench.ranks.means({"loss": loss})["loss"]
        known = loss if self.clean_loss is None else self.clean_loss
        self.clean_loss = _LOSS_MEMORY * known + (1 - _LOSS_MEMORY) * loss
        self.injecting = self.injecting or self.clean_loss < self.options.curriculum * math.log(self.bench.classes)


def add_clamped(
    gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter], *, bound: float, weight: float
) -> None:
    """Add `weight * clamp(gradient, -bound, bound)` to what each parameter has in `.grad`.

    The clamp keeps single destructive flips from tearing the weights apart (Stutz et al. 2021).
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        share_of_step = weight * gradient.clamp(-bound, bound)
        parameter.grad = share_of_step if parameter.grad is None else parameter.grad + share_of_step


@contextlib.contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Run batch-norm on its running statistics for a while, and leave those as they are."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with evaluating(norms):
        yield
