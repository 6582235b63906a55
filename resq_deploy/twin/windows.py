"""What slides over images: kernels of convolutions and pooling, with their strides and padding."""

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from resq_deploy.twin.node import Node


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """A kernel and how it slides; one entry for each spatial dimension.

    Attributes:
        kernel: its size.
        strides: steps between two places.
        dilations: steps between two of its elements.
        begin: padding before the first element.
        end: padding after the last one.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]


def window(node: Node, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Window:
    """Return the window a Conv or a pooling node describes.

    Args:
        node: its attributes are read.
        kernel: the kernel's size.
        spatial: the images' size, on which `auto_pad` depends.
    """
    ones = (1,) * len(kernel)
    strides, dilations = (tuple(node.get(name, ones)) for name in ("strides", "dilations"))
    pads = tuple(node.get("pads", (0, 0) * len(kernel)))
    begin, end = pads[: len(kernel)], pads[len(kernel) :]
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        geometry = zip(spatial, kernel, strides, dilations, strict=True)
        totals = [max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size) for size, k, s, d in geometry]
        halves, rests = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
        begin, end = (halves, rests) if auto == "SAME_UPPER" else (rests, halves)
    return Window(kernel=kernel, strides=strides, dilations=dilations, begin=begin, end=end)


def padded(images: Tensor, frame: Window, value: float = 0.0) -> tuple[Tensor, tuple[int, ...]]:
    """Return the images, padded where the two ends differ, and the even padding that is left to the kernel."""
    if frame.begin == frame.end:
        return images, frame.begin
    sides = [side for pair in zip(reversed(frame.begin), reversed(frame.end), strict=True) for side in pair]
    return F.pad(images, sides, value=value), (0,) * len(frame.kernel)
