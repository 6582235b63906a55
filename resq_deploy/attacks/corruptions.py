"""What sensors, lenses, weather and codecs do to images: noise, blur, brightness, contrast, JPEG and fog.

Definitions and severities are those of D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", ICLR 2019: eight of their nineteen, the ones that take neither photographs of
frost nor an image library beyond Pillow and scipy. How strong a severity is depends on the size of an image, so that
there are two tables: that of their CIFAR-10-C, made for 32x32, and that of their ImageNet-C, made for 224x224. Pixels
are rounded to 8 bits, where theirs are cut off. Each image has random numbers of its own, by its number.
"""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from resq_deploy.attacks.ball import WHITE
from resq_deploy.attacks.target import Levels

SEVERITIES = (1, 2, 3, 4, 5)

Shades = NDArray[np.float64]
"""One image in [0, 1], shape [H, W, C]."""

_LARGEST_SMALL = 64  # pixels: a blur that is made for 224 leaves nothing of a smaller image


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Definitions:
    """How strong each severity of each corruption is.

    Attributes:
        name: of the benchmark they are taken from.
        made_for: the length and width of its images, in pixels.
        constants: corruption -> one constant a severity, in units of [0, 1] pixels where there is a unit.
    """

    name: str
    made_for: int
    constants: Mapping[str, Sequence[Any]]


CIFAR_10_C = Definitions(
    name="CIFAR-10-C",
    made_for=32,
    constants={
        "gaussian-noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot-noise": (500, 250, 100, 75, 50),
        "impulse-noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "gaussian-blur": (0.4, 0.6, 0.7, 0.8, 1.0),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "jpeg": (80, 65, 58, 50, 40),
        "fog": ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
    },
)
IMAGENET_C = Definitions(
    name="ImageNet-C",
    made_for=224,
    constants={
        "gaussian-noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot-noise": (60, 25, 12, 5, 3),
        "impulse-noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "gaussian-blur": (1.0, 2.0, 3.0, 4.0, 6.0),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "jpeg": (25, 18, 15, 10, 7),
        "fog": ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    },
)
CORRUPTIONS = tuple(CIFAR_10_C.constants)
"""The names of all corruptions."""


def definitions_for(height: int, width: int) -> Definitions:
    """Return the definitions for images of a size: those of CIFAR-10-C where no side is longer than 64 pixels."""
    return CIFAR_10_C if max(height, width) <= _LARGEST_SMALL else IMAGENET_C


def corrupted(
    images: Levels, corruption: str, severity: int, *, definitions: Definitions, seed: int, first: int = 0
) -> Levels:
    """Return images as a sensor would give them, rounded to 8 bits.

    Args:
        images: uint8 [N, H, W, C]; three channels are red, green and blue.
        corruption: its name, of `CORRUPTIONS`.
        severity: from 1 to 5.
        definitions: how strong that is.
        seed: of the random numbers, which do not depend on how many images there are.
        first: the number of the first image.

    Returns:
        uint8 of the same shape.
    """
    constant = definitions.constants[corruption][severity - 1]
    made = np.empty_like(images)
    for place, image in enumerate(images):
        draw = np.random.default_rng((seed, CORRUPTIONS.index(corruption), severity, first + place))
        made[place] = _levels(_CORRUPT[corruption](image / WHITE, constant, draw))
    return made


def _levels(shades: Shades) -> Levels:
    levels: Levels = np.rint(np.clip(shades, 0.0, 1.0) * WHITE).astype(np.uint8)
    return levels


def _gaussian_noise(image: Shades, deviation: float, draw: np.random.Generator) -> Shades:
    """Read-out noise: independent of the light."""
    return image + draw.normal(scale=deviation, size=image.shape)


def _shot_noise(image: Shades, photons: float, draw: np.random.Generator) -> Shades:
    """Noise of counting: so many photons at full light."""
    return draw.poisson(image * photons) / photons


def _impulse_noise(image: Shades, amount: float, draw: np.random.Generator) -> Shades:
    """Dead and hot values: a share of them is black or white, each with the same probability."""
    chance = draw.random(image.shape)
    return np.where(chance < amount, (chance < amount / 2).astype(np.float64), image)


def _gaussian_blur(image: Shades, sigma: float, _: np.random.Generator) -> Shades:
    """A lens out of focus; the border is continued by its last pixels, and the kernel cut off at four sigma."""
    blurred: Shades = gaussian_filter(image, sigma=(sigma, sigma, 0.0), mode="nearest", truncate=4.0)
    return blurred


def _brightness(image: Shades, more: float, _: np.random.Generator) -> Shades:
    """More light: the value of HSV is raised, and hue and saturation stay."""
    value = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + more, 1.0)
    lighter: Shades = np.where(value > 0.0, image * (raised / np.where(value > 0.0, value, 1.0)), raised)
    return lighter


def _contrast(image: Shades, left: float, _: np.random.Generator) -> Shades:
    """Less contrast: what a pixel differs by from the mean of its channel is scaled down."""
    mean: Shades = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * left + mean


def _jpeg(image: Shades, quality: int, _: np.random.Generator) -> Shades:
    """Lossy compression, and back."""
    levels, stream = _levels(image), io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as found:
        decoded = np.asarray(found, dtype=np.float64) / WHITE
    return decoded.reshape(image.shape)


def _fog(image: Shades, constants: tuple[float, float], draw: np.random.Generator) -> Shades:
    """A veil of uneven density before the scene, as bright as its brightest value."""
    thickness, roughness = constants
    height, width = image.shape[:2]
    veil = plasma(max(height, width), roughness, draw)[:height, :width, None]
    brightest = float(image.max())
    return (image + thickness * veil) * (brightest / (brightest + thickness))


def plasma(size: int, decay: float, draw: np.random.Generator) -> NDArray[np.float64]:
    """Return a random cloud by midpoint displacement (the diamond-square algorithm) on a torus.

    Args:
        size: the least length and width, in pixels.
        decay: what the root of the displacement is divided by each time the grid is made finer, above 1: the larger,
            the smoother.
        draw: random numbers.

    Returns:
        Heights in [0, 1], of which 0 and 1 are taken; shape [S, S], S the first power of two from `size` up, 2 or more.
    """
    heights, swing = np.zeros((1, 1)), 1.0
    while len(heights) < max(size, 2):
        right, below = np.roll(heights, -1, axis=1), np.roll(heights, -1, axis=0)
        middle = _displaced(swing, draw, heights, right, below, np.roll(right, -1, axis=0))
        finer = np.empty((2 * len(heights), 2 * len(heights)))
        finer[::2, ::2], finer[1::2, 1::2] = heights, middle
        finer[::2, 1::2] = _displaced(swing, draw, heights, right, middle, np.roll(middle, 1, axis=0))
        finer[1::2, ::2] = _displaced(swing, draw, heights, below, middle, np.roll(middle, 1, axis=1))
        heights, swing = finer, swing / decay**2
    lowest, highest = heights.min(), heights.max()
    cloud: NDArray[np.float64] = (heights - lowest) / (highest - lowest)
    return cloud


def _displaced(swing: float, draw: np.random.Generator, *around: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of four grids, moved up or down by up to a swing."""
    mean: NDArray[np.float64] = np.mean(around, axis=0)
    return mean + swing * draw.uniform(-1.0, 1.0, mean.shape)


_CORRUPT: Mapping[str, Callable[[Shades, Any, np.random.Generator], Shades]] = {
    "gaussian-noise": _gaussian_noise,
    "shot-noise": _shot_noise,
    "impulse-noise": _impulse_noise,
    "gaussian-blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
    "fog": _fog,
}
