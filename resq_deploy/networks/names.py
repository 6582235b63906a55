"""The names of the networks that come with the package; importable without torch."""

import difflib

from resq_deploy.errors import ModelError, OptionError

_OF_TORCHVISION = ("resnet18", "vgg16", "efficientnet_b0", "swin_t")
STRIDE2 = "-stride2"
"""Ends the name of a network whose stem halves small images, so that whatever names the network tells of it."""

STEMS = ("cifar", "stride2")
NETWORKS: tuple[str, ...] = ("resnet8", "resnet20", *_OF_TORCHVISION, *(name + STRIDE2 for name in _OF_TORCHVISION))


def check_name(network: str) -> None:
    """Check that a network of that name can be, without building it.

    Raises:
        ModelError: if it is neither one of ours nor `module:function`.
    """
    if network not in NETWORKS and ":" not in network:
        close = difflib.get_close_matches(network, NETWORKS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ModelError(f"no network {network!r}: {hint}give one of {', '.join(NETWORKS)}, or module:function")


def with_stem(network: str, stem: str | None) -> str:
    """Return the name of a network with a stem.

    Args:
        network: a network's name.
        stem: `cifar`, the plain name, keeps the size of images up to 64 pixels, as the CIFAR ports do; `stride2` halves
            it, for a quarter of the cost; None for what the name says.

    Raises:
        OptionError: if it is no network with such stems, or its name says another one.
    """
    if stem is None:
        return network
    plain = network.removesuffix(STRIDE2)
    if plain not in _OF_TORCHVISION:
        raise OptionError(f"--stem {stem} is for {', '.join(_OF_TORCHVISION)}, and not for {network}: leave it out")
    if stem == "cifar" and network != plain:
        raise OptionError(f"--stem cifar and --network {network} contradict each other: give --network {plain}")
    return plain + STRIDE2 if stem == "stride2" else plain
