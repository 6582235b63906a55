"""A network of the user's own, tried on a batch before the first epoch: what cannot be hardened is told by then."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resq_deploy.errors import ModelError
from resq_deploy.hardening.operands import complaint


def rehearse(name: str, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Check that a network can be ranked, folded, faulted and trained.

    Args:
        name: of the network, for the message.
        network: in training mode; left as it is, and so is torch's global generator on the CPU.
        images: a batch as training gives it, float32 [N, C, H, W] in [0, 1].
        labels: int64 [N].

    Raises:
        ModelError: saying what cannot be done with the network, and what to change in it.
    """
    _check_layers(name, network)
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ModelError(f"{name} has no weight that learns: set requires_grad on some")
    try:
        probe = copy.deepcopy(network)
    except Exception as error:
        raise ModelError(f"{name} cannot be copied ({_reason(error)}): keep locks and open files out of it") from error
    inputs = images.clone().requires_grad_()
    try:
        with torch.random.fork_rng(devices=[]):
            loss = F.cross_entropy(probe(inputs).float(), labels)
            torch.autograd.backward(loss)
    except Exception as error:
        shape = list(images.shape)
        raise ModelError(f"{name} cannot learn from a batch of training images {shape}: {_reason(error)}") from error
    if inputs.grad is None:
        raise ModelError(
            f"{name} passes no gradient on to its images, which attacks need: drop torch.no_grad and detach"
        )
    _check_operands(name, network, images)


def _check_layers(name: str, network: nn.Module) -> None:
    """Refuse layers whose stored weights are not what training holds, one set a layer."""
    owners: dict[int, str] = {}
    for path, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is None:
            raise ModelError(
                f"{name}: batch-norm {path} keeps no running statistics, so that what it computes depends on the "
                "batch: drop track_running_stats=False"
            )
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is None:
            raise ModelError(
                f"{name}: the weight of {path} is computed from others (weight or spectral norm), and flips need one "
                "that is stored: remove the norm before hardening"
            )
        first = owners.setdefault(id(weight), path)
        if first != path:
            raise ModelError(f"{name}: {first} and {path} share one weight: give each layer its own, or call one twice")


def _check_operands(name: str, network: nn.Module, images: Tensor) -> None:
    """Refuse a network that multiplies its values by anything but what its layers store."""
    probe = copy.deepcopy(network).eval().requires_grad_()
    try:
        with torch.random.fork_rng(devices=[]):
            found = complaint(probe, images.clone())
    except Exception as error:
        raise ModelError(f"{name} cannot take images {list(images.shape)}: {_reason(error)}") from error
    if found:
        raise ModelError(f"{name}: {found}")


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
