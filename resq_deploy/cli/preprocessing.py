"""The options that say how images are made ready for a network, and what is read out of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from resq_deploy import api

if TYPE_CHECKING:
    from resq_deploy.api import Asked

_Command = Callable[..., Any]

channels_option = click.option(
    "--channels",
    type=click.Choice(["rgb", "bgr", "gray"]),
    help="The channels as the network takes them.  [default: as the images have them: rgb]",
)
mean_option = click.option(
    "--mean", metavar="M,...", help="What is taken off each channel, of pixels in [0, 1] (times --scale)."
)
std_option = click.option("--std", metavar="S,...", help="What each channel is divided by.")
preprocess_option = click.option(
    "--preprocess",
    type=click.Choice(["dataset", "imagenet", "none"]),
    help="In place of --mean and --std: the training images' own, torchvision's, or none.",
)
scale_option = click.option(
    "--scale", type=float, metavar="S", help="What white is before --mean and --std: 1, or 255."
)
_LAYOUT = click.option(
    "--input-layout",
    type=click.Choice(["nchw", "nhwc"]),
    help="Order of the axes of the file's input.  [default: by its shape]",
)

NAMES = ("channels", "input_layout", "scale", "mean", "std", "preprocess")
"""What the options are called as parameters."""


def preprocessing_options(command: _Command) -> _Command:
    """Add all the options; for a file that its sidecar tells of, none is needed."""
    for option in (preprocess_option, std_option, mean_option, scale_option, _LAYOUT, channels_option):
        command = option(command)
    return command


def read_preprocessing(given: dict[str, Any]) -> "Asked":
    """Take the options out of a command's, before any data is read.

    Raises:
        OptionError: if they contradict each other or are no numbers.
    """
    return api.preprocessing(**{name: given.pop(name, None) for name in NAMES})
