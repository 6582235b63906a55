"""Batch augmentation of uint8 or float images, seeded and vectorised: one gather for the whole batch."""

import torch
from torch import Tensor

from resq_deploy.errors import OptionError

_LARGEST_SHIFT = {"crop-flip": 4, "crop": 4, "translate": 2, "none": 0}
"""Pixels that a 32x32 image may be moved by; other sizes scale along."""

_REFERENCE_SIZE = 32


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Return shifted and, for `crop-flip`, mirrored copies of images; pixels beyond the edge repeat it.

    A crop after padding by s pixels is a shift by up to s; each image has its own shift and its own coin.

    Args:
        images: [N, H, W, C] of any type.
        kind: `crop-flip`, `crop`, `translate` or `none`.
        generator: on the CPU.

    Returns:
        Same shape and type; the same tensor for `none`.

    Raises:
        OptionError: if the kind is unknown.
    """
    if kind not in _LARGEST_SHIFT:
        raise OptionError(f"unknown augmentation '{kind}': give one of {', '.join(_LARGEST_SHIFT)}")
    if kind == "none":
        return images
    count, height, width, _ = images.shape
    rows = _shifted(height, count, kind, generator)
    columns = _shifted(width, count, kind, generator)
    if kind == "crop-flip":
        mirrored = torch.randint(2, (count, 1), generator=generator, dtype=torch.bool)
        columns = torch.where(mirrored, columns.flip(1), columns)
    return images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shifted(size: int, count: int, kind: str, generator: torch.Generator) -> Tensor:
    """Return, for each image, which source pixel each of `size` pixels takes; int64 [count, size]."""
    largest = max(1, round(_LARGEST_SHIFT[kind] * size / _REFERENCE_SIZE))
    shift = torch.randint(-largest, largest + 1, (count, 1), generator=generator)
    return (torch.arange(size) + shift).clamp(0, size - 1)
