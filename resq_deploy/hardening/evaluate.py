"""Accuracies of a classifier on held-out images: plain and under PGD, with Wilson intervals."""

from collections.abc import Callable
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from resq_deploy.hardening.perturb import Classifier, evaluation_mode, pgd
from resq_deploy.hardening.workbench import Images, Workbench

CONFIDENCE = 0.95
_BATCH = 250
_REACH = 2.5
"""How far the steps of PGD reach together, in multiples of eps (Madry et al. 2018 with 2.5 eps / steps)."""


def correct(bench: Workbench, network: Classifier, images: Images, *, exact: bool = False) -> Tensor:
    """Return which images are classified correctly, bool [N] on the CPU.

    Args:
        bench: the surroundings.
        network: the classifier; a module is run in evaluation mode.
        images: what to classify.
        exact: compute in float32 even where training takes bf16.
    """

    def judge(_: int, pixels: Tensor, labels: Tensor) -> Tensor:
        return network(bench.model_input(pixels)).argmax(1).cpu() == labels

    with evaluation_mode(network), torch.no_grad(), bench.autocast(enabled=not exact):
        return _judged(bench, images, judge)


def correct_under_pgd(
    bench: Workbench, network: Classifier, images: Images, *, steps: int = 10, exact: bool = False
) -> Tensor:
    """Return which images stay correctly classified under PGD at the run's epsilon, bool [N] on the CPU.

    Each call draws the same random starts. The step is `2.5 eps / steps`.
    """
    epsilon = bench.options.epsilon

    def judge(index: int, pixels: Tensor, labels: Tensor) -> Tensor:
        perturbed = pgd(
            network,
            bench.model_input(pixels),
            labels.to(bench.device),
            epsilon=epsilon,
            steps=steps,
            step_size=_REACH * epsilon / steps,
            generator=bench.generator("pgd", index),
        )
        with torch.no_grad():
            return network(perturbed).argmax(1).cpu() == labels

    with evaluation_mode(network), bench.autocast(enabled=not exact):
        return _judged(bench, images, judge)


def share(right: Tensor) -> float:
    """Return the share of `True`."""
    return right.double().mean().item()


def estimate(right: Tensor) -> dict[str, Any]:
    """Return an accuracy as `{value, low, high, n, confidence}`, with Wilson's interval over images."""
    n, hits = len(right), int(right.sum())
    interval = binomtest(hits, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return {"value": hits / n, "low": interval.low, "high": interval.high, "n": n, "confidence": CONFIDENCE}


def _judged(bench: Workbench, images: Images, judge: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
    """Judge images in batches, shared out among the processes; return to each what all of them found."""
    batches = zip(torch.split(images.pixels, _BATCH), torch.split(images.labels, _BATCH), strict=True)
    ranks = bench.ranks
    found = [
        judge(index, pixels, labels)
        if index % ranks.count == ranks.rank
        else torch.zeros(len(labels), dtype=torch.bool)
        for index, (pixels, labels) in enumerate(batches)
    ]
    return ranks.joined(found)
