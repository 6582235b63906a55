"""A detector and a segmenter of digits on a canvas."""

import torch
from torch import nn
from torch.nn import functional as F

from tasks.scenes import SIZE, Scenes

STRIDE = 8
"""Pixels of a canvas to a place that the detector looks at."""

_DIGITS = 10
_PLACES = SIZE // STRIDE


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch-norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Detector(nn.Module):
    """One prediction at each place of a grid, as YOLOv8 has it at each of three grids, boxes decoded in the network.

    Takes float32 [N, 1, SIZE, SIZE]; returns [N, 4 + 10, places]: centre, width and height in pixels, and a probability
    for each digit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(1, 16, 2), _block(16, 32, 2), _block(32, 64, 2), _block(64, 64))
        self.boxes = nn.Conv2d(64, 4, 1)
        self.digits = nn.Conv2d(64, _DIGITS, 1)
        nn.init.constant_(self.digits.bias, -4.0)  # type: ignore[arg-type]  # few places have a digit
        line = torch.arange(_PLACES, dtype=torch.float32) + 0.5
        rows, columns = torch.meshgrid(line, line, indexing="ij")
        self.centres: torch.Tensor
        self.register_buffer("centres", torch.stack([columns, rows]).reshape(1, 2, -1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return what is found."""
        features = self.body(images)
        boxes = torch.sigmoid(self.boxes(features).flatten(2))
        centre = (boxes[:, :2] * 2.0 - 1.0 + self.centres) * STRIDE
        size = torch.square(boxes[:, 2:] * 2.0) * (2 * STRIDE)
        return torch.cat([centre, size, torch.sigmoid(self.digits(features).flatten(2))], dim=1)


class Segmenter(nn.Module):
    """A class a pixel: down by strides, up by nearest neighbours with what was there on the way down.

    Takes float32 [N, 1, SIZE, SIZE]; returns scores [N, 11, SIZE, SIZE], the first those of the background.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = _block(1, 16, 2), _block(16, 32, 2), _block(32, 64, 2)
        self.inner = _block(64, 32)
        self.middle, self.outer = _block(32 + 32, 32), _block(32 + 16, 16)
        self.scores = nn.Conv2d(16, 1 + _DIGITS, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        first = self.first(images)
        second = self.second(first)
        inner = _twice(self.inner(self.third(second)))
        outer = _twice(self.middle(torch.cat([inner, second], dim=1)))
        return _twice(self.scores(self.outer(torch.cat([outer, first], dim=1))))


def _twice(features: torch.Tensor) -> torch.Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="nearest")


def detector_loss(found: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return binary cross-entropy of the scores at all places, and how far off boxes are where a digit's centre is.

    Args:
        found: from `Detector`.
        boxes: as in `Scenes`.
    """
    present = boxes[..., 0] >= 0
    sample, _ = torch.nonzero(present, as_tuple=True)
    digits, corners = boxes[present][:, 0].long(), boxes[present][:, 1:]
    centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    column, row = (centre / STRIDE).long().clamp(max=_PLACES - 1).unbind(1)
    place = row * _PLACES + column
    wanted = torch.zeros_like(found[:, 4:])
    wanted[sample, digits, place] = 1.0
    scores = F.binary_cross_entropy(found[:, 4:], wanted, reduction="sum")
    there = found[sample, :4, place]
    apart = F.smooth_l1_loss(there, torch.cat([centre, size], dim=1), reduction="sum")
    return (scores + 0.2 * apart) / len(found)


def segmenter_loss(scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the pixels, those of digits counted four times, since few are.

    Args:
        scores: from `Segmenter`.
        classes: as in `Scenes`.
    """
    weight = torch.full((scores.shape[1],), 4.0)
    weight[0] = 1.0
    return F.cross_entropy(scores, classes, weight)


def targets(scenes: Scenes, name: str) -> torch.Tensor:
    """Return what a network's loss takes beside its outputs."""
    return torch.from_numpy(scenes.boxes if name == "detector" else scenes.classes)
