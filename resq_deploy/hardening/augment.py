"""Batch augmentation of images, seeded and vectorised: every image has its own draw, and the batch is one operation."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from resq_deploy.errors import OptionError

_LARGEST_SHIFT = {"crop-flip": 4, "crop": 4, "translate": 2, "none": 0}
"""Pixels that a 32x32 image may be moved by; other sizes scale along."""

_REFERENCE_SIZE = 32

_LARGEST_TURN = math.radians(15)
_LARGEST_ZOOM = 0.15
_LARGEST_MOVE = 0.25
"""Of half of the image: 4 of 32 pixels, as `crop` has it."""
_LARGEST_LIGHT = 0.4


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Return copies of images as they might have been taken; pixels beyond the edge repeat it.

    A crop after padding by s pixels is a shift by up to s; `crop-flip` mirrors, too, by a coin for each image. `photo`
    shifts as `crop` does, turns by up to 15 degrees, zooms by up to 15 % and changes brightness and contrast by up to
    40 %: what a camera in motion does to signs, which have no mirror image.

    Args:
        images: [N, H, W, C] of any type; for `photo` uint8.
        kind: `crop-flip`, `crop`, `translate`, `photo` or `none`.
        generator: on the CPU.

    Returns:
        Same shape and type; the same tensor for `none`.

    Raises:
        OptionError: if the kind is unknown, or `photo` meets images whose white is not known.
    """
    if kind == "photo":
        return _as_photographed(images, generator)
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


def _as_photographed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return uint8 images moved, turned, zoomed and lit anew, each by its own draw."""
    if images.dtype != torch.uint8:
        raise OptionError("--augment photo changes brightness and needs uint8 images: these are floats; give crop")
    draws = 2 * torch.rand(len(images), 6, generator=generator) - 1
    turn, zoom = _LARGEST_TURN * draws[:, 0], 1 + _LARGEST_ZOOM * draws[:, 1]
    cosine, sine, move = zoom * turn.cos(), zoom * turn.sin(), _LARGEST_MOVE * draws[:, 2:4]
    rows = torch.stack([cosine, -sine, move[:, 0], sine, cosine, move[:, 1]], 1).view(-1, 2, 3)
    pixels = images.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(rows, list(pixels.shape), align_corners=False)
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    brightness, contrast = (1 + _LARGEST_LIGHT * draws[:, 4:, None, None, None]).unbind(1)
    grey = moved.mean((1, 2, 3), keepdim=True)
    lit = (moved - grey) * contrast + grey * brightness
    return lit.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
