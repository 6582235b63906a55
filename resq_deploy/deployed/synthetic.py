"""Seeded synthetic inputs, for trying a file out without any data.

The inputs need no data set, and are the same for ever and on every platform: integers made of raw generator words
(numpy's distributions may change between versions), in exact arithmetic, and one division in IEEE float32.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults import draws

_PATCHES = (2, 4, 8)
"""Into how many patches a long axis is cut: coarse and fine inputs take turns."""

_LONG = 16
"""Shorter axes, such as that of the colours, are left whole."""

_NOISE = 32


def synthetic_inputs(shape: Sequence[int], dtype: type[np.generic], *, seed: int = 0) -> NDArray[Any]:
    """Return patterns of coloured patches under a little noise, which excite a network more than white noise does.

    Input number i depends on its own shape, the seed and i alone, so that fewer inputs are the first of more.

    Args:
        shape: of all inputs, [N, ...], in whatever layout the model takes.
        dtype: float32 for pixels in [0, 1], uint8 for pixels in 0 ... 255.
        seed: from 0 up.
    """
    pixels = np.empty(tuple(shape), dtype=np.uint8)
    for number in range(len(pixels)):
        pixels[number] = _pattern(pixels.shape[1:], _PATCHES[number % len(_PATCHES)], seed, number)
    return pixels if dtype is np.uint8 else pixels.astype(np.float32) / np.float32(255)


def inputs_digest(inputs: NDArray[Any]) -> str:
    """Return the SHA-256 over type, shape and values, whatever the byte order of the machine."""
    state = hashlib.sha256(f"{inputs.dtype.name} {list(inputs.shape)}".encode())
    state.update(np.ascontiguousarray(inputs, dtype=inputs.dtype.newbyteorder("<")).data)
    return state.hexdigest()


def _pattern(shape: tuple[int, ...], patches: int, seed: int, number: int) -> NDArray[np.int64]:
    """Return one input, integers in 0 ... 255: levels of patches enlarged by repetition, plus uniform noise."""
    source = draws.stream("synthetic", seed, number)
    repeats = [-(-size // patches) if size >= _LONG else 1 for size in shape]
    coarse = [-(-size // repeat) for size, repeat in zip(shape, repeats, strict=True)]
    levels = draws.words(source, 8, math.prod(coarse)).astype(np.int64).reshape(coarse)
    for axis, repeat in enumerate(repeats):
        levels = np.repeat(levels, repeat, axis=axis)
    levels = levels[tuple(slice(size) for size in shape)]
    noise = draws.integers(source, _NOISE, math.prod(shape)).reshape(shape)
    pattern: NDArray[np.int64] = np.clip(levels + noise - _NOISE // 2, 0, 255)
    return pattern
