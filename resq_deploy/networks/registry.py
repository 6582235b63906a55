"""From the name of a network to a `Network`; torch is imported at the call."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from resq_deploy.errors import MissingExtraError, ModelError
from resq_deploy.networks.names import STRIDE2, check_name

if TYPE_CHECKING:
    from torch import Tensor, nn

    from resq_deploy.networks.base import Network

T = TypeVar("T")

_CHANNELS = 3


def build_network(
    name: str, *, num_classes: int, mean: Sequence[float], std: Sequence[float], image_size: int = 32
) -> "Network":
    """Build a network with fresh weights, drawn from torch's global generator, and try it on two blank images.

    Args:
        name: one of `NETWORKS`, or `module:function` for a network of the user's own: the function is called with
            `num_classes` and returns a torch.nn.Module from normalised images to logits. Its attribute `taps` may
            list the module paths whose outputs are its features; `user.find_taps` says what is taken otherwise.
        num_classes: length of the logits.
        mean: mean of each channel of the images, in [0, 1].
        std: standard deviation of each channel, positive.
        image_size: height and width in pixels; the built-in networks keep their ImageNet stem above 64.

    Returns:
        The network, in training mode; it takes float32 [N, len(mean), image_size, image_size] in [0, 1].

    Raises:
        MissingExtraError: if torch or torchvision is not installed.
        ModelError: if there is no such network, or it does not turn such images into logits.
    """
    try:
        import torch
        import torchvision  # noqa: F401 - a missing one is found here, not halfway
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    from resq_deploy.networks.base import Network, Normalise
    from resq_deploy.networks.user import call_user_function, find_taps

    if num_classes < 1 or image_size < 1:
        raise ModelError(f"cannot build {name} for {num_classes} classes and {image_size}x{image_size} images")
    images = torch.zeros(2, len(mean), image_size, image_size)
    if ":" in name:
        body = call_user_function(name, num_classes).eval()
        normalise = Normalise(mean, std)
        taps, head = _try_on(name, images, lambda: find_taps(body, normalise(images)))
    else:
        if len(mean) != _CHANNELS:
            raise ModelError(f"{name} takes images of {_CHANNELS} channels, these have {len(mean)}")
        body, taps, head = _build_body(name, num_classes, image_size)
    network = Network(body, mean=mean, std=std, taps=taps, head=head).eval()
    with torch.no_grad():
        logits, _ = _try_on(name, images, lambda: network.forward_with_taps(images))
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(images), num_classes):
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"{name} returns {found} for {len(images)} images: it must return logits [N, {num_classes}]")
    return network.train()


def _build_body(name: str, num_classes: int, image_size: int) -> "tuple[nn.Module, tuple[str, ...], str]":
    """Return the body, the paths of its taps and the path of its head."""
    from resq_deploy.networks import resnet_cifar, torchvision_nets

    check_name(name)
    if name in resnet_cifar.BLOCKS:
        body = resnet_cifar.CifarResNet(blocks=resnet_cifar.BLOCKS[name], num_classes=num_classes)
        return body, resnet_cifar.STAGES, resnet_cifar.HEAD
    plain = name.removesuffix(STRIDE2)
    stride = 1 if name == plain else 2
    if stride == 2 and image_size > torchvision_nets.SMALL_IMAGE:
        raise ModelError(
            f"{name} is for images of up to {torchvision_nets.SMALL_IMAGE} pixels, and these have {image_size}: "
            f"give {plain}, whose stem is torchvision's own there"
        )
    return torchvision_nets.BUILDERS[plain](num_classes, image_size, stride)


def _try_on(name: str, images: "Tensor", action: Callable[[], T]) -> T:
    """Run a network for the first time: whatever it raises is about the network and not about us."""
    try:
        return action()
    except ModelError:
        raise
    except Exception as error:
        shape = list(images.shape)
        reason = " ".join(str(error).split())
        raise ModelError(f"{name} cannot take images {shape}: {type(error).__name__}: {reason}") from error
