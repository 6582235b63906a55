"""Values of a batch in blocks, one an image, and which of them differ."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Overlay = Callable[[dict[str, NDArray[Any]], Rows], None]
"""Puts what is faulty into values by name that were copied from some golden rows."""


def split(value: NDArray[Any], images: int) -> NDArray[Any] | None:
    """Return a value as one block an image, shape [images, ...]; None if it cannot be read so."""
    if not value.ndim or not images or not value.size or len(value) % images:
        return None
    return value.reshape(images, -1, *value.shape[1:])


def joined(blocks: NDArray[Any]) -> NDArray[Any]:
    """Return blocks of images as the value they were split from."""
    return blocks.reshape(-1, *blocks.shape[2:])


def differing(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Return in which blocks two values differ in any bit. [images, ...] each -> [images]."""
    if left.dtype.kind == "f":  # by bits: a NaN equals itself, and -0 is not 0
        left, right = (np.ascontiguousarray(value).view(f"u{value.dtype.itemsize}") for value in (left, right))
    different: NDArray[np.bool_] = (left != right).reshape(len(left), -1).any(axis=1)
    return different


def alike(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Return whether two values are the same in type, shape and every bit."""
    fits = left.shape == right.shape and left.dtype == right.dtype
    return fits and not differing(left[None], right[None]).any()
