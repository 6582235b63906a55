"""Perturbed views: N-FGSM and PGD under an Linf bound, on any differentiable classifier."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Classifier = Callable[[Tensor], Tensor]
"""Images float32 [N, C, H, W] in [0, 1] to logits [N, classes]; an `nn.Module` is one."""


@contextlib.contextmanager
def evaluation_mode(network: Classifier) -> Iterator[None]:
    """Switch a module and all its parts to evaluation mode for a while; each part gets its own mode back.

    Batch-norm then neither reads nor learns the statistics of perturbed batches. A plain function is left as it is.
    """
    with evaluating(network.modules() if isinstance(network, nn.Module) else ()):
        yield


@contextlib.contextmanager
def evaluating(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Put just these modules, not what they contain, in evaluation mode for a while."""
    modules = list(parts)
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def n_fgsm(
    network: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step: float,
    noise: float,
    generator: torch.Generator,
) -> Tensor:
    """Return noisy single-step views, equation (1); N-FGSM of de Jorge et al. 2022.

        eta ~ U(-noise eps, noise eps);   x' = clip_[0,1](x + eta + step * sign grad CE(f(x + eta), y))

    The sum is not projected onto the eps-ball, as in the paper.

    Args:
        network: the classifier; a module is run in evaluation mode, and its parameters collect no gradients.
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N].
        epsilon: radius in units of [0, 1] pixels.
        step: step size in the same units; the paper takes eps.
        noise: multiple of eps; the paper takes 2.
        generator: on the device of `images`.

    Returns:
        float32 of the shape of `images`, in [0, 1], detached.
    """
    start = images + _uniform(images, noise * epsilon, generator)
    with evaluation_mode(network):
        gradient = input_gradient(network, start, labels)
    return (start + step * gradient.sign()).clamp(0, 1)


def pgd(
    network: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    """Return views made by projected gradient ascent from a random start in the eps-ball (Madry et al. 2018).

    Arguments and result as in `n_fgsm`; the result differs from `images` by at most `epsilon` in each pixel.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    perturbed = (images + _uniform(images, epsilon, generator)).clamp(0, 1)
    with evaluation_mode(network):
        for _ in range(steps):
            gradient = input_gradient(network, perturbed, labels)
            perturbed = torch.clamp(perturbed + step_size * gradient.sign(), low, high)
    return perturbed


def input_gradient(network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed cross-entropy with respect to the images.

    A sum, so that the gradient of an image does not shrink with the batch and underflow in bf16.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        loss = F.cross_entropy(network(images).float(), labels, reduction="sum")
        return torch.autograd.grad(loss, images)[0]


def _uniform(images: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    return torch.empty_like(images).uniform_(-radius, radius, generator=generator)
