"""Which layers matter most to the loss: moving averages of gradient norms, equation (4) of the specification.

`m_l <- rho m_l + (1 - rho) ||grad_{W_l} L||_2`, bias-corrected as in Adam (Kingma and Ba 2015).
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resq_deploy.errors import RunFolderError, TrainingError
from resq_deploy.grid import CODE_MAX
from resq_deploy.hardening.events import Measuring, Notice
from resq_deploy.hardening.perturb import evaluation_mode
from resq_deploy.hardening.workbench import Batch, Workbench
from resq_deploy.records import read_json, write_json

FILE = "criticality.json"
When = Literal["before", "after"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerCriticality:
    """How much a layer matters.

    Attributes:
        layer: module path.
        gradient: m_l of (4).
        scaled: s_l m_l, with s_l the mean int8 step of the layer's output channels, both of the unfolded layer. For
            each channel alone the folded layer gives the same product: its step is |k_c| times as large, its gradient
            as many times smaller.
    """

    layer: str
    gradient: float
    scaled: float


class GradientNorms:
    """The running averages of (4).

    Args:
        memory: rho.
    """

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._batches = 0
        self._averages: dict[str, float] = {}

    def add(self, norms: dict[str, float]) -> None:
        """Take in one batch's gradient norms, by layer."""
        self._batches += 1
        for layer, norm in norms.items():
            self._averages[layer] = self._memory * self._averages.get(layer, 0.0) + (1 - self._memory) * norm

    def corrected(self) -> dict[str, float]:
        """Return the averages, freed of the bias towards their start at zero."""
        weight = 1 - self._memory**self._batches
        return {layer: average / weight for layer, average in self._averages.items()}


def weighted_layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return the convolutions and linear layers of a network by module path."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def measure(bench: Workbench) -> list[LayerCriticality]:
    """Measure the network on the bench, over as many training batches as the options say, the most critical first.

    The loss is the cross-entropy of the network in evaluation mode, as deployed; the data is cycled through where it
    is smaller. Sorted by the options' `criticality` mode.

    Raises:
        TrainingError: if a gradient is not finite.
    """
    layers = weighted_layers(bench.network)
    weights = [layer.weight for layer in layers.values()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    norms = GradientNorms(bench.options.criticality_memory)
    with evaluation_mode(bench.network), _learning(frozen):  # what does not learn is stored, and hit, all the same
        batches = bench.options.criticality_batches
        for done, batch in enumerate(itertools.islice(_endless(bench), batches), start=1):
            bench.report(Measuring(what="ranking layers", done=done, total=batches))
            with bench.autocast():
                logits = bench.network(batch.images)
            loss = F.cross_entropy(logits.float(), batch.labels)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            bench.ranks.average(gradients)
            found = torch.stack([gradient.norm() for gradient in gradients])
            if not found.isfinite().all():
                raise TrainingError(
                    "a gradient is not finite while layers are ranked: lower the learning rate or give --precision "
                    "float32"
                )
            norms.add(dict(zip(layers, found.tolist(), strict=True)))
    averages = norms.corrected()
    ranking = [
        LayerCriticality(layer=name, gradient=averages[name], scaled=averages[name] * _mean_step(layer.weight))
        for name, layer in layers.items()
    ]
    return sorted(ranking, key=lambda entry: -_figure(bench, entry))


def ranked(bench: Workbench, when: When) -> list[LayerCriticality]:
    """Return the ranking before or after stage 1, measured once a run and kept in `criticality.json`.

    Raises:
        RunFolderError: if the file is broken or cannot be written.
        TrainingError: if a gradient is not finite.
    """
    path = bench.folder / FILE
    known = bench.ranks.first(lambda: read_json(path) if path.is_file() else {})
    if not isinstance(known, dict):
        raise RunFolderError(f"{path} does not hold a ranking of layers: remove it and resume")
    if when not in known:
        bench.report(Notice(message=f"ranking layers over {bench.options.criticality_batches} batches"))
        known[when] = [dataclasses.asdict(entry) for entry in measure(bench)]
        if bench.ranks.leads:
            write_json(path, known)
    try:
        return [LayerCriticality(**entry) for entry in known[when]]
    except TypeError as error:
        raise RunFolderError(f"{path} does not hold a ranking of layers ({error}): remove it and resume") from error


@contextlib.contextmanager
def _learning(weights: list[Tensor]) -> Iterator[None]:
    """Let frozen weights have gradients for a while."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _figure(bench: Workbench, entry: LayerCriticality) -> float:
    return entry.scaled if bench.options.criticality == "scaled" else entry.gradient


def _mean_step(weight: Tensor) -> float:
    return weight.detach().flatten(1).abs().amax(1).mean().item() / CODE_MAX


def _endless(bench: Workbench) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from bench.batches("criticality", epoch, epochs=1, epoch=0)
