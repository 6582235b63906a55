"""The set of images an attacker may send: a ball of a norm around each image, within [0, 1]."""

import enum
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]

WHITE = 255
_SHRINK = 0.995
_TRIALS = 60  # 0.995^60 = 0.74: rounding adds less than that to any radius of a few levels


class Norm(enum.StrEnum):
    """What the size of a perturbation is measured in."""

    LINF = "linf"
    L2 = "l2"


def distance(norm: Norm, pixels: NDArray[Any], origin: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far each image is from its origin, in units of [0, 1] pixels. [N, ...], [N, ...] -> [N]."""
    change = (pixels.astype(np.float64) - origin).reshape(len(pixels), -1)
    size: NDArray[np.float64] = np.abs(change).max(axis=1) if norm is Norm.LINF else np.sqrt((change**2).sum(axis=1))
    return size


def whole_levels(radius: float) -> float:
    """Return the largest radius up to this one that is a whole number of 8-bit levels."""
    return math.floor(radius * WHITE + 1e-6) / WHITE  # 4/255 is four levels, however it was rounded


def to_levels(norm: Norm, pixels: Pixels, origin: Pixels, radius: float) -> NDArray[np.uint8]:
    """Round adversarial images to 8-bit pixels without leaving the ball around the 8-bit origin.

    To the nearest level. An image which that takes out of the ball (rounding adds to an L2 distance) is first drawn
    towards its origin, as little as is needed; one that never fits is the origin itself.

    Args:
        norm: of the ball.
        pixels: adversarial images in [0, 1], shape [N, ...].
        origin: the images they were made from, likewise.
        radius: of the ball, in units of [0, 1] pixels.

    Returns:
        uint8 of the same shape.
    """
    start = np.rint(origin * np.float32(WHITE))
    change = pixels.astype(np.float64) * WHITE - start
    levels: NDArray[np.uint8] = start.astype(np.uint8)
    left = np.arange(len(pixels))
    for trial in range(_TRIALS):
        rounded = np.clip(np.rint(start[left] + change[left] * _SHRINK**trial), 0, WHITE)
        fits = distance(norm, rounded, start[left]) <= radius * WHITE + 1e-6
        levels[left[fits]] = rounded[fits].astype(np.uint8)
        left = left[~fits]
        if not len(left):
            break
    return levels
