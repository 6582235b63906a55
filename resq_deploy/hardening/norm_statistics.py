"""Batch-norm statistics of runs too short for running averages (precise batch-norm, Wu and Johnson 2021)."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resq_deploy.hardening.workbench import Workbench

_MOST_BATCHES = 20


def settle(bench: Workbench) -> None:
    """Replace the running statistics of batch-norm by averages over training batches, as the weights are now.

    Running averages forget their starting values by a factor 0.9 a step. After a handful of steps they still hold
    them, and a deep network that is fine in training mode overflows in evaluation mode.
    """
    network = bench.network
    norms = _norms(network)
    momenta = [norm.momentum for norm in norms]
    network.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
            norm.train()
        _run(bench, network)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Return the running means and variances of batch-norm, as they lie in the network."""
    return [buffer for norm in _norms(network) for buffer in norm.buffers() if buffer.is_floating_point()]


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]


def _run(bench: Workbench, network: nn.Module) -> None:
    batches = torch.split(bench.train.pixels, bench.batch_size)[:_MOST_BATCHES]
    with torch.no_grad(), bench.autocast():
        for pixels in batches:
            if len(pixels) == bench.batch_size:
                network(bench.model_input(pixels))
