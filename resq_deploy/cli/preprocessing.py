"""The options that say how images are made ready for a network, and what is read out of them."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resq_deploy.data import Dataset
    from resq_deploy.data.preprocessing import Wish
    from resq_deploy.data.samples import Samples
    from resq_deploy.deployed.model import DeployedModel

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the options say: all of it, but for the numbers of a data set that has yet to be read.

    Attributes:
        wish: what is known without data.
        of_dataset: whether mean and deviation are those of the training images.
    """

    wish: "Wish"
    of_dataset: bool

    def on(self, dataset: "Dataset | Samples") -> "Wish":
        """Return the same with the numbers of a data set.

        Raises:
            DataError: if it has no training images.
        """
        if not self.of_dataset:
            return self.wish
        mean, std = dataset.in_channels(self.wish.channels).mean_std()
        return dataclasses.replace(self.wish, mean=mean, std=std)

    @property
    def is_silent(self) -> bool:
        """Whether nothing was said."""
        return not self.of_dataset and all(value is None for value in vars(self.wish).values())


def read_preprocessing(given: dict[str, Any]) -> Asked:
    """Take the options out of a command's, before any data is read.

    Raises:
        OptionError: if they contradict each other or are no numbers.
    """
    from resq_deploy.data.preprocessing import AS_IS, IMAGENET, Wish

    values = {name: given.pop(name, None) for name in NAMES}
    asked = read_normalisation(values)
    numbers: tuple[tuple[float, ...] | None, tuple[float, ...] | None] = (None, None)
    if asked == "imagenet":
        numbers = IMAGENET
    elif asked == "none":
        numbers = ((), ())
    elif not isinstance(asked, str) and asked is not None:
        numbers = asked
    scale = values["scale"]
    _check_scale(asked, scale)
    wish = Wish(
        channels=values["channels"], layout=values["input_layout"], scale=scale, mean=numbers[0], std=numbers[1]
    )
    wish.over(AS_IS)  # what makes no sense is told now
    return Asked(wish=wish, of_dataset=asked == "dataset")


def read_normalisation(given: Mapping[str, Any]) -> "tuple[tuple[float, ...], tuple[float, ...]] | str | None":
    """Read the options on normalisation: numbers as given, or `dataset`, `imagenet`, `none`; None for none of them.

    Raises:
        OptionError: if they contradict each other or are no numbers.
    """
    mean, std, preprocess = (given.get(name) for name in ("mean", "std", "preprocess"))
    if mean is None and std is None:
        return None if preprocess is None else str(preprocess)
    if preprocess is not None:
        raise OptionError("--preprocess stands in place of --mean and --std: give one or the others")
    if mean is None or std is None:
        raise OptionError("--mean and --std go together: give both, one number for all channels or one a channel")
    return _numbers("--mean", mean), _numbers("--std", std)


def read_unit_normalisation(given: Mapping[str, Any]) -> "tuple[tuple[float, ...], tuple[float, ...]] | str | None":
    """Read the same with `--scale`, which is taken into the numbers: those come back for pixels in [0, 1].

    Raises:
        OptionError: if they contradict each other or are no numbers.
    """
    from resq_deploy.data.preprocessing import Preprocessing

    asked, scale = read_normalisation(given), given.get("scale")
    _check_scale(asked, scale)
    if scale is None:
        return asked
    Preprocessing(scale=scale)
    mean, std = ((0.0,), (1.0,)) if asked is None or isinstance(asked, str) else asked
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def _check_scale(asked: object, scale: float | None) -> None:
    if scale is not None and asked in ("dataset", "imagenet"):
        raise OptionError(f"--preprocess {asked} gives mean and deviation of pixels in [0, 1]: leave --scale out")


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)) or (flag == "--std" and min(values) <= 0):
        raise OptionError(f"cannot read {flag} {text!r}: give numbers such as 0.485,0.456,0.406, --std above 0")
    return values


def tell_accuracy(
    model: "DeployedModel", dataset: "Dataset | Samples", right: int | None, labels: "NDArray[np.int64] | None"
) -> None:
    """Warn on standard error where the fault-free file is near chance, or far below what its sidecar says."""
    from resq_deploy.deployed.sidecar import accuracy_told

    for line in accuracy_told(model, dataset, right, labels):
        click.secho(line, fg="yellow", err=True)
