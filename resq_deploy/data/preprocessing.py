"""What stands between the pixels of an image and the input of a network that does not normalise by itself."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import OptionError

Channels = Literal["rgb", "bgr", "gray"]
Layout = Literal["nchw", "nhwc"]
CHANNELS: tuple[Channels, ...] = ("rgb", "bgr", "gray")

IMAGENET: tuple[tuple[float, ...], tuple[float, ...]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of torchvision's ImageNet weights, of pixels in [0, 1]."""

_CHANNEL_AXIS = {"nchw": 1, "nhwc": -1}
_NEARLY = 1e-5  # pixels that lie outside [0, 1] by no more than float32 rounds were inside


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a network wants its images: `(scale * x - mean) / std` for pixels x in [0, 1], channel by channel.

    Attributes:
        channels: the order of the channels, or one grey channel; None: as the images have them.
        layout: `nchw` or `nhwc`; None: what the shape of the input says, NCHW where it leaves that open.
        scale: what white is before mean and deviation: 1, or 255 for networks that take levels as floats.
        mean: taken off each channel, in the order in which the network takes them; one number does for all; empty: 0.
        std: what each channel is divided by, likewise; empty: 1.
    """

    channels: Channels | None = None
    layout: Layout | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise OptionError(f"--scale {self.scale:g}: give what white is to the network, such as 1 or 255")
        if bool(self.mean) != bool(self.std) or not all(map(math.isfinite, (*self.mean, *self.std))):
            raise OptionError(
                "--mean and --std go together: give both, finite, one number for all channels or one each"
            )
        if self.std and min(self.std) <= 0:
            raise OptionError(f"--std {', '.join(f'{value:g}' for value in self.std)}: give numbers above 0")

    @property
    def normalises(self) -> bool:
        """Whether pixels in [0, 1] are changed at all."""
        return bool(self.mean) or self.scale != 1.0

    def fed(self, pixels: Any, layout: Layout) -> Any:
        """Return what the network is fed for pixels in [0, 1], [N, ., ., .] in a layout.

        Works on arrays of numpy, and alike on tensors of torch, through which gradients pass.

        Raises:
            OptionError: if there are not as many means as channels.
        """
        if not self.normalises:
            return pixels
        mean, std = self._each(pixels, layout)
        return (pixels * self.scale - mean) / std

    def pixels(self, fed: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
        """Return the pixels that `fed` makes an input of: its inverse, what rounding left outside [0, 1] put back.

        Raises:
            OptionError: if there are not as many means as channels.
        """
        if not self.normalises:
            return fed
        mean, std = self._each(fed, layout)
        found: NDArray[np.float32] = (fed * std + mean) / np.float32(self.scale)
        near = (found > -_NEARLY) & (found < 1 + _NEARLY)
        return np.where(near, np.clip(found, 0, 1), found).astype(np.float32)

    def _each(self, images: Any, layout: Layout) -> tuple[Any, Any]:
        """Return mean and deviation, of the images' own kind, to be broadcast over them."""
        count = images.shape[_CHANNEL_AXIS[layout]]
        parts = [part * count if len(part) == 1 else part for part in (self.mean or (0.0,), self.std or (1.0,))]
        if any(len(part) != count for part in parts):
            raise OptionError(
                f"the network takes {count} channels, --mean and --std have {len(parts[0])} and {len(parts[1])} "
                "numbers: give one number for all, or one a channel"
            )
        shape = (1, count, 1, 1) if layout == "nchw" else (1, 1, 1, count)
        mean, std = (np.array(part, dtype=np.float32).reshape(shape) for part in parts)
        if isinstance(images, np.ndarray):
            return mean, std
        return images.new_tensor(mean), images.new_tensor(std)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, for sidecars and manifests."""
        values = dataclasses.asdict(self)
        return {**values, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote.

        Raises:
            OptionError, TypeError, ValueError: if it is something else.
        """
        known = {**values, "mean": tuple(map(float, values["mean"])), "std": tuple(map(float, values["std"]))}
        found = cls(**known)
        if found.channels not in (None, *CHANNELS) or found.layout not in (None, "nchw", "nhwc"):
            raise ValueError(f"unknown channels {found.channels!r} or layout {found.layout!r}")
        return found

    def __str__(self) -> str:
        parts = [
            f"--{name} {value}" for name, value in (("channels", self.channels), ("input-layout", self.layout)) if value
        ]
        if self.scale != 1.0:
            parts.append(f"--scale {self.scale:g}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values:
                parts.append(f"--{name} {','.join(f'{value:g}' for value in values)}")
        return " ".join(parts) or "pixels in [0, 1] as they are"


AS_IS = Preprocessing()
"""Images as they are: pixels in [0, 1]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user says of preprocessing; None where nothing is said. Fields are those of `Preprocessing`."""

    channels: Channels | None = None
    layout: Layout | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def over(self, known: Preprocessing) -> Preprocessing:
        """Return what is known with what the user says in its place.

        Raises:
            OptionError: if the two together make no sense.
        """
        said = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(known, **said)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asks for: all of it, but for the numbers of a data set that has yet to be read.

    Attributes:
        wish: what is known without data.
        of_dataset: whether mean and deviation are those of the training images.
    """

    wish: Wish = dataclasses.field(default_factory=Wish)
    of_dataset: bool = False

    def on(self, dataset: "Presentable") -> Wish:
        """Return the same with the numbers of a data set.

        Raises:
            DataError: if it has no training images.
        """
        if not self.of_dataset:
            return self.wish
        mean, std = dataset.in_channels(self.wish.channels).mean_std()
        return dataclasses.replace(self.wish, mean=mean, std=std)


class Presentable(Protocol):
    """Images that preprocessing is about: those of a data set, or of other samples."""

    def in_channels(self, channels: Channels | None) -> "Presentable":
        """Return the same with the channels of images in another order."""
        ...

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation of each channel of the training images."""
        ...


def in_channels(images: NDArray[np.uint8], have: Channels, want: Channels) -> NDArray[np.uint8]:
    """Return uint8 images [N, H, W, C] with their channels in another order.

    Grey is the luma of ITU-R BT.601, in whole numbers as Pillow has it: 0.299 R + 0.587 G + 0.114 B, rounded. A grey
    channel becomes three alike.
    """
    if have == want:
        return images
    if have == "gray":
        return np.repeat(images, 3, axis=3)
    if want == "gray":
        red, green, blue = (images[..., place].astype(np.uint32) for place in range(3))
        if have == "bgr":
            red, blue = blue, red
        grey: NDArray[np.uint8] = ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)
        return grey[..., None]
    return np.ascontiguousarray(images[..., ::-1])
