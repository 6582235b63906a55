"""What turns gradients into steps: the optimizer of a stage, and its learning rate over time."""

import itertools
import math
from typing import Any

import torch

from resq_deploy.hardening.options import TrainOptions

_LOWEST_RATE = 0.04


def learning_rate(progress: float, *, peak: float, warmup: float) -> float:
    """Return the one-cycle learning rate (Smith and Topin 2018) at a share of a stage's steps.

    It rises linearly from 4 % of the peak during the warm-up and falls along a cosine to 0 after it.
    """
    if progress < warmup:
        return peak * (_LOWEST_RATE + (1 - _LOWEST_RATE) * progress / warmup)
    rest = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    return peak * 0.5 * (1 + math.cos(math.pi * rest))


def make_optimizer(network: torch.nn.Module, options: TrainOptions, *, rate: float) -> torch.optim.Optimizer:
    """Return the optimizer that the options ask for, over all parameters of a network, at a learning rate.

    AdamW (Loshchilov and Hutter 2019) shrinks neither biases nor norms nor tables of relative positions, as Swin (Liu
    et al. 2021) is trained; SGD with Nesterov's momentum shrinks everything.
    """
    momentum, decay = options.momentum, options.weight_decay
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=rate, momentum=momentum, weight_decay=decay, nesterov=momentum > 0
        )
    spared = [weight.ndim < 2 or name.endswith("bias_table") for name, weight in network.named_parameters()]
    groups: list[dict[str, Any]] = [
        {"params": list(itertools.compress(network.parameters(), spared)), "weight_decay": 0.0},
        {"params": list(itertools.compress(network.parameters(), (not each for each in spared)))},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999), weight_decay=decay)
