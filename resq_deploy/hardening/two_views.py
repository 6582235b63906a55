"""Dropout and stochastic depth for two views of one batch: both lose the same units, and the same blocks.

Equations (2), (3) and (5) compare what a network makes of an image and of its perturbed view. Drawn apart, dropped
blocks differ between the two, and the terms that shall take away what the perturbation does take the network's branches
away instead. In training mode, at its initial weights, an EfficientNet-B0 was as far from itself, on the very same
images, as 0.78 of its features' squared norm, mean over the taps (3), and 2.5 at the last; a Swin-T 0.07.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

_DROPPING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, StochasticDepth)
"""Modules that multiply what they are given by noise of its shape."""


class TwoViews:
    """What a network drops, made alike for the first and the second half of a batch.

    Dropping that is no module of these kinds, such as a function in the user's own code, is left as it is.

    Args:
        network: whose modules they are; it is changed within `drawn_alike` alone.
    """

    def __init__(self, network: nn.Module) -> None:
        dropping = [module for module in network.modules() if isinstance(module, _DROPPING)]
        # made once: torch.compile would take new ones for another network, every step
        self._forwards: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [
            (module, functools.partial(_alike, module)) for module in dropping
        ]

    @contextlib.contextmanager
    def drawn_alike(self) -> Iterator[None]:
        """Draw once for both halves of whatever the network is given in here."""
        for module, forward in self._forwards:
            module.forward = forward
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.forward  # its class's own again


def _alike(module: nn.Module, values: Tensor) -> Tensor:
    """Return what a module drops of values [2 N, ...], the same of both halves."""
    forward: Callable[[nn.Module, Tensor], Tensor] = type(module).forward
    if not module.training or len(values) % 2:
        return forward(module, values)
    noise = forward(module, torch.ones_like(values[: len(values) // 2]))
    return values * torch.cat([noise, noise])
