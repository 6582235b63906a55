"""How a network wants its images, as a user says it: numbers, or what they are those of."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    from resq_deploy.data.preprocessing import Asked, Channels, Layout

Numbers = str | float | Iterable[float]
"""A number for all channels or one for each; also as text, with commas."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation, each one number for all channels or one a channel."""


def preprocessing(
    preprocess: str | None = None,
    *,
    channels: "Channels | None" = None,
    input_layout: "Layout | None" = None,
    scale: float | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> "Asked":
    """Say how a network wants its images: `(scale * x - mean) / std` for pixels x in [0, 1], channel by channel.

    What is not said is as the file's sidecar says it.

    Example:
        >>> rd.faultcamp("net.int8.onnx", "photos", out="run", preprocessing=rd.preprocessing("imagenet"))

    Args:
        preprocess: in place of mean and std: `dataset` for those of the training images, `imagenet` for torchvision's,
            `none` for pixels as they are.
        channels: `rgb`, `bgr` or `gray`, as the network takes them.
        input_layout: `nchw` or `nhwc`.
        scale: what white is before mean and std: 1, or 255.
        mean: what is taken off each channel.
        std: what each channel is divided by.

    Raises:
        OptionError: if these contradict each other or are no numbers.
    """
    from resq_deploy.data.preprocessing import AS_IS, IMAGENET, Asked, Wish

    asked = normalisation(preprocess, mean, std)
    _check_scale(asked, scale)
    named: dict[object, tuple[tuple[float, ...] | None, tuple[float, ...] | None]] = {
        None: (None, None),
        "dataset": (None, None),
        "imagenet": IMAGENET,
        "none": ((), ()),
    }
    numbers = named[asked] if asked is None or isinstance(asked, str) else asked
    wish = Wish(channels=channels, layout=input_layout, scale=scale, mean=numbers[0], std=numbers[1])
    wish.over(AS_IS)  # what makes no sense is told now
    return Asked(wish=wish, of_dataset=asked == "dataset")


def normalisation(preprocess: str | None, mean: Numbers | None, std: Numbers | None) -> Normalisation | str | None:
    """Return what images are normalised by: numbers as given, or `dataset`, `imagenet`, `none`; None where unsaid.

    Raises:
        OptionError: if the options contradict each other or are no numbers.
    """
    if mean is None and std is None:
        if preprocess not in (None, "dataset", "imagenet", "none"):
            raise OptionError(f"--preprocess {preprocess}: give dataset, imagenet or none")
        return preprocess
    if preprocess is not None:
        raise OptionError("--preprocess stands in place of --mean and --std: give one or the others")
    if mean is None or std is None:
        raise OptionError("--mean and --std go together: give both, one number for all channels or one a channel")
    return _numbers("--mean", mean), _numbers("--std", std)


def unit_normalisation(
    preprocess: str | None, mean: Numbers | None, std: Numbers | None, scale: float | None
) -> Normalisation | str | None:
    """Return the same with what white is taken into the numbers: those come back for pixels in [0, 1].

    Raises:
        OptionError: if the options contradict each other or are no numbers.
    """
    asked = normalisation(preprocess, mean, std)
    _check_scale(asked, scale)
    if scale is None:
        return asked
    from resq_deploy.data.preprocessing import Preprocessing

    Preprocessing(scale=scale)
    of_mean, of_std = ((0.0,), (1.0,)) if asked is None or isinstance(asked, str) else asked
    return tuple(value / scale for value in of_mean), tuple(value / scale for value in of_std)


def _check_scale(asked: object, scale: float | None) -> None:
    if scale is not None and asked in ("dataset", "imagenet"):
        raise OptionError(f"--preprocess {asked} gives mean and deviation of pixels in [0, 1]: leave --scale out")


def _numbers(flag: str, given: Numbers) -> tuple[float, ...]:
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, Iterable) else (given,)
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)) or (flag == "--std" and min(values) <= 0):
        raise OptionError(f"cannot read {flag} {given!r}: give numbers such as 0.485,0.456,0.406, --std above 0")
    return values
