"""`Network`: a body with its normalisation in front, whose stage outputs can be read."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resq_deploy.errors import ModelError

PENULTIMATE = "penultimate"
Features = dict[str, Tensor]


class Normalise(nn.Module):
    """Map images in [0, 1] to zero mean and unit variance, channel by channel: (x - mean) / std.

    Args:
        mean: one value a channel, in units of [0, 1] pixels.
        std: likewise, positive.

    Raises:
        ModelError: if the two differ in length or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise ModelError(
                f"cannot normalise by mean {list(mean)}, std {list(std)}: give one of each a channel, std > 0"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images; float32 [N, C, H, W] in and out."""
        return (x - self.mean) / self.std


class Network(nn.Module):
    """A classifier that takes images in [0, 1], so that the exported file and every epsilon mean the same.

    Attributes:
        normalise: the first layer.
        body: the architecture.
        taps: module paths inside `body`, the end of each stage in the order of execution.
        head: module path inside `body` of the layer that makes the logits; its input is the penultimate vector.
    """

    def __init__(
        self, body: nn.Module, *, mean: Sequence[float], std: Sequence[float], taps: Sequence[str], head: str
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.body = body
        self.taps = tuple(taps)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] for float32 images [N, C, H, W] in [0, 1].

        A body that returns several outputs while it trains (those of auxiliary heads, as GoogLeNet and Inception do)
        has its logits first; they are what is trained.
        """
        logits: Tensor = self.body(self.normalise(x))
        if self.training and isinstance(logits, tuple | list) and logits:
            return logits[0]
        return logits

    def forward_with_taps(self, x: Tensor) -> tuple[Tensor, Features]:
        """Return the logits and what the stages put out on the way, gradients attached.

        The features are keyed by the paths in `taps`, in the layout of the architecture ([N, C, H, W], or
        [N, H, W, C] in Swin), and then by 'penultimate' ([N, D]). Hooks live only as long as the call, so that a
        copied, saved, traced or exported network holds none.

        Raises:
            ModelError: if a tap was not run or put out anything but a tensor.
        """
        features: Features = {}
        with ExitStack() as hooks:
            for hook in self._watch(features):
                hooks.enter_context(hook)
            logits = self(x)
        self._check(features)
        return logits, features

    def _watch(self, features: Features) -> Iterator[RemovableHandle]:
        """Hang hooks on the taps and the head that keep what passes there; yield them."""

        def keep(name: str, value: Any) -> None:
            if not isinstance(value, Tensor):
                raise ModelError(f"the tap {name!r} returns a {type(value).__name__}: a tap must return one tensor")
            features[name] = value

        for name in self.taps:
            module = self.body.get_submodule(name)
            yield module.register_forward_hook(lambda _m, _i, out, name=name: keep(name, out))
        head = self.body.get_submodule(self.head)
        yield head.register_forward_pre_hook(lambda _m, args: keep(PENULTIMATE, args[0].flatten(1)))

    def _check(self, features: Features) -> None:
        missing = [name for name in (*self.taps, PENULTIMATE) if name not in features]
        if missing:
            raise ModelError(f"the tap {missing[0]!r} was not run in the forward pass: name modules that are")


class TappedNetwork(nn.Module):
    """`Network.forward_with_taps` for `torch.compile`, which traces the calls of hooks but not their registration.

    Compiling that method fails where the network was compiled without hooks before: torch takes the earlier code,
    since it does not look at hooks. Here a second set of modules wears the hooks for good; its parameters and buffers
    are those of the network, the very same tensors.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, shared)
        self._features: Features = {}
        for _ in self.network._watch(self._features):
            pass

    def forward(self, x: Tensor) -> tuple[Tensor, Features]:
        """Return what `forward_with_taps` returns: logits [N, classes] and features, for float32 images [N, C, H, W].

        Raises:
            ModelError: if a tap was not run or put out anything but a tensor.
        """
        logits = self.network(x)
        features = dict(self._features)
        self._features.clear()
        self.network._check(features)
        return logits, features
