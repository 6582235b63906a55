"""Synthetic inputs made like given images: how another machine tries a file where the data are not at hand.

Coarse patterns are drawn from a normal distribution with the mean and the covariance of the images, seen as a few
large patches, so that they tell nothing of a single image; they are kept as bytes. What an input is made of from there
on - repeating patches, adding noise - is arithmetic of integers, and one division in IEEE float32: the same on every
machine.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults import draws

PATCHES = 6
"""Into how many patches an axis of 16 or more is cut; shorter ones, such as that of the colours, are left whole."""

_LONG = 16
_WHITE = 255


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Likeness:
    """What inputs like given images are made of.

    Attributes:
        shape: of one input.
        dtype: float32 or uint8.
        coarse: one pattern an input, levels 0 ... 255, shape [N, patches...].
        noise: width of the uniform noise over the patches, in levels.
        low: value of level 0, for float32.
        high: value of level 255, for float32.
        seed: of the noise.
    """

    shape: tuple[int, ...]
    dtype: type[np.generic]
    coarse: NDArray[np.uint8]
    noise: int
    low: float
    high: float
    seed: int

    @classmethod
    def of(cls, images: NDArray[Any], count: int, seed: int) -> "Likeness":
        """Return what `count` inputs like prepared images, [n, ...] of float32 or uint8, are made of."""
        low, high = (0.0, 1.0) if images.dtype != np.uint8 else (0.0, float(_WHITE))
        if images.min() < low or images.max() > high:
            low, high = float(images.min()), float(images.max())
        levels = (images.astype(np.float64) - low) * (_WHITE / (high - low))
        shape = images.shape[1:]
        coarse = _patched(levels)
        apart = levels - _enlarged(coarse, shape)
        flat = coarse.reshape(len(coarse), -1)
        centre = flat.mean(axis=0)
        # Sums of the deviations with normal weights have their covariance.
        weights = np.random.default_rng(seed).standard_normal((count, len(flat))) / math.sqrt(max(len(flat) - 1, 1))
        drawn = np.clip(np.rint(centre + weights @ (flat - centre)), 0, _WHITE).astype(np.uint8)
        return cls(
            shape=shape,
            dtype=np.uint8 if images.dtype == np.uint8 else np.float32,
            coarse=drawn.reshape(count, *coarse.shape[1:]),
            noise=round(float(apart.std()) * math.sqrt(12)),
            low=low,
            high=high,
            seed=seed,
        )

    def inputs(self) -> NDArray[Any]:
        """Return the inputs, shape [N, *shape]; the same to the bit on every machine."""
        levels = _enlarged(self.coarse.astype(np.int64), self.shape)
        for number in range(len(levels)) if self.noise else ():
            source = draws.stream("likeness", self.seed, number)
            noise = draws.integers(source, self.noise + 1, math.prod(self.shape)).reshape(self.shape)
            levels[number] += noise - self.noise // 2
        codes: NDArray[Any] = np.clip(levels, 0, _WHITE).astype(np.uint8)
        if self.dtype is np.uint8:
            return codes
        values: NDArray[Any] = codes.astype(np.float32) / np.float32(_WHITE)
        if (self.low, self.high) != (0.0, 1.0):
            values = np.asarray(values * np.float32(self.high - self.low) + np.float32(self.low))
        return values


def coarse_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return into how many patches each axis of an input is cut."""
    return tuple(-(-size // _width(size)) for size in shape)


def _width(size: int) -> int:
    return -(-size // PATCHES) if size >= _LONG else 1


def _patched(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each patch, [n, ...] -> [n, patches...]."""
    for axis, size in enumerate(levels.shape[1:], start=1):
        starts = np.arange(0, size, _width(size))
        widths = np.diff([*starts, size]).reshape([-1 if place == axis else 1 for place in range(levels.ndim)])
        levels = np.add.reduceat(levels, starts, axis=axis) / widths
    return levels


def _enlarged(coarse: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Return patches repeated to inputs of a shape, [n, patches...] -> [n, *shape]."""
    for axis, size in enumerate(shape, start=1):
        coarse = np.repeat(coarse, _width(size), axis=axis)
    return np.array(coarse[(slice(None), *(slice(size) for size in shape))])
