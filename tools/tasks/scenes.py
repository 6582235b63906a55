"""Handwritten digits placed on a canvas: pictures, the boxes around the digits, and the class of each pixel."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resq_deploy.data.dataset import Split

SIZE = 48
"""Height and width of a canvas in pixels."""

MOST = 3
"""Most digits on a canvas; there is one at least."""

_HEIGHTS = (14, 23)
_INK, _SHOWN = 48, 80  # levels from which a pixel belongs to a digit: for its box, and for its class
_TRIES = 50


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scenes:
    """Pictures with what is right about them.

    Attributes:
        images: float32 [N, 1, SIZE, SIZE] in [0, 1].
        boxes: rows of digit, x1, y1, x2, y2 in pixels, filled up with the class -1, float32 [N, MOST, 5].
        classes: 0 for the background, else the digit plus 1, int64 [N, SIZE, SIZE].
    """

    images: NDArray[np.float32]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


def make_scenes(digits: Split, count: int, seed: int) -> Scenes:
    """Place digits on canvases.

    Args:
        digits: uint8 [N, H, W, 3], and their labels.
        count: canvases.
        seed: of the choice of digits, sizes, places, brightness and noise.
    """
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0.0, 40.0, (count, SIZE, SIZE))
    boxes = np.full((count, MOST, 5), -1.0, np.float32)
    classes = np.zeros((count, SIZE, SIZE), np.int64)
    for canvas in range(count):
        taken = np.zeros((SIZE, SIZE), dtype=bool)
        for place in range(rng.integers(1, MOST + 1)):
            chosen = rng.integers(len(digits))
            tile = _tile(digits.images[chosen], int(rng.integers(*_HEIGHTS)))
            corner = _free(taken, tile.shape, rng)
            if corner is None:
                continue
            rows, columns = (slice(at, at + size) for at, size in zip(corner, tile.shape, strict=True))
            taken[rows, columns] = True
            levels[canvas, rows, columns] += tile * rng.uniform(0.55, 0.85)
            digit = int(digits.labels[chosen])
            boxes[canvas, place] = (digit, columns.start, rows.start, columns.stop, rows.stop)
            classes[canvas, rows, columns] = np.where(tile > _SHOWN, digit + 1, 0)
    images = (np.minimum(levels, 255.0) / 255.0).astype(np.float32)[:, None]
    return Scenes(images=images, boxes=boxes, classes=classes)


def _tile(digit: NDArray[np.uint8], height: int) -> NDArray[np.float64]:
    """Return a digit without the empty rows and columns around it, in some height."""
    grey = digit[..., 0]
    rows, columns = (np.flatnonzero((grey > _INK).any(axis=axis)) for axis in (1, 0))
    cut = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = max(4, round(height * cut.shape[1] / cut.shape[0]))
    resized = Image.fromarray(cut).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float64)


def _free(taken: NDArray[np.bool_], shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Any, Any] | None:
    """Return a corner at which a tile covers nothing that is taken, None if none was met."""
    for _ in range(_TRIES):
        top, left = (int(rng.integers(SIZE - size + 1)) for size in shape)
        if not taken[top : top + shape[0], left : left + shape[1]].any():
            return top, left
    return None
