"""The names of the networks that come with the package; importable without torch."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from resq_deploy.errors import ModelError, OptionError
from resq_deploy.user_code import importable_from_here, in_one_line

_OF_TORCHVISION = ("resnet18", "vgg16", "efficientnet_b0", "swin_t")
STRIDE2 = "-stride2"
"""Ends the name of a network whose stem halves small images, so that whatever names the network tells of it."""

STEMS = ("cifar", "stride2")
NETWORKS: tuple[str, ...] = ("resnet8", "resnet20", *_OF_TORCHVISION, *(name + STRIDE2 for name in _OF_TORCHVISION))


def check_name(network: str) -> None:
    """Check that a network of that name can be, without building it.

    Raises:
        ModelError: if it is neither one of ours nor `module:function`, or there is no such function.
    """
    if ":" in network:
        find_user_function(network)
    if network not in NETWORKS and ":" not in network:
        close = difflib.get_close_matches(network, NETWORKS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ModelError(f"no network {network!r}: {hint}give one of {', '.join(NETWORKS)}, or module:function")


def find_user_function(spec: str) -> Callable[..., Any]:
    """Import `module`, from the current directory too, and return its `function`, which builds a network.

    Raises:
        ModelError: if the module or function is missing, or the module raises.
    """
    module_name, _, function_name = spec.partition(":")
    if not module_name or not function_name:
        raise ModelError(f"cannot read {spec!r} as a network of your own: write module:function")
    with importable_from_here():
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise ModelError(f"cannot import {module_name!r} for --network {spec}: {in_one_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"the module {module_name!r} has no function {function_name!r}: see --network {spec}")
    found: Callable[..., Any] = function
    return found


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
