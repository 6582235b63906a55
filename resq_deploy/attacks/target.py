"""The file under attack as attackers see it: pixels in [0, 1] in, scores out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.ball import WHITE, Pixels
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError
from resq_deploy.faults.outcomes import top1

Flags = NDArray[np.bool_]
Labels = NDArray[np.int64]
Levels = NDArray[np.uint8]
Scores = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """What an attack made of some images.

    Attributes:
        pixels: the images as it left them, float32 in [0, 1], in the layout the model takes, [N, ...].
        queries: how many images it sent to the file for each of them, shape [N].
    """

    pixels: Pixels
    queries: NDArray[np.int64]


Attack = Callable[[Pixels, Labels, float, int], Tried]
"""Pixels [N, ...] that are answered right, right classes [N], radius in [0, 1] pixels, seed -> what became of them."""


class Target:
    """A session that takes pixels in [0, 1], whatever type of images its model has.

    Args:
        session: the deployed file.

    Attributes:
        channels_last: whether images are [N, H, W, C].
        whole_levels: whether the model takes uint8, so that every image is rounded to 8-bit levels as it is sent.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.channels_last = session.input.channels_last
        self.whole_levels = session.input.dtype is np.uint8

    def scores(self, pixels: Pixels) -> Scores:
        """Return the scores of images, [N, ...] -> [N, C]."""
        levels = np.rint(pixels * WHITE).astype(np.uint8) if self.whole_levels else pixels
        return self._session.run(self._session.input.fed(levels))

    def fed(self, pixels: Any) -> Any:
        """Return what the model is fed for pixels, of numpy or torch; those of whole levels stay pixels."""
        return self._session.input.fed(pixels)

    def is_right(self, pixels: Pixels, labels: Labels) -> Flags:
        """Return which images are answered right, shape [N]."""
        return is_right(self.scores(pixels), labels)

    def answers_right(self, fed: NDArray[Any], labels: Labels) -> Flags:
        """Return which images are answered right, shape [N], given as the model is fed."""
        return is_right(self._session.run(fed), labels)

    def prepared(self, images: NDArray[Any]) -> Pixels:
        """Return images of a data set as pixels in [0, 1], in the layout the model takes.

        Args:
            images: uint8 [N, H, W, C], or as the model takes them.

        Raises:
            DataError: if they do not fit the model, or are no images with pixels in [0, 1].
        """
        spec = self._session.input
        spec.prepare(images[:1])  # whether they fit at all
        ready = spec.pixels(images)
        check_pixels(ready)
        return ready if ready.dtype == np.float32 else to_pixels(ready)

    def as_dataset(self, levels: Levels) -> Levels:
        """Return 8-bit images in the layout the model takes as [N, H, W, C], which is that of data sets."""
        return levels if self.channels_last else np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def to_pixels(levels: Levels) -> Pixels:
    """Return 8-bit levels as float32 in [0, 1]."""
    return levels.astype(np.float32) / np.float32(WHITE)


def check_pixels(images: NDArray[Any]) -> None:
    """Check that a radius in units of [0, 1] pixels means something for images.

    Raises:
        DataError: if there are none, they are not [N, ., ., .], or they are float32 and not in [0, 1].
    """
    if images.ndim != 4 or not len(images):
        raise DataError(f"an attack needs images, one or more, and was given the shape {list(images.shape)}")
    if images.dtype == np.float32 and not (images.min() >= 0.0 and images.max() <= 1.0):
        raise DataError(
            "an attack needs pixels in [0, 1], and these images have others, so that its radius would mean nothing: if "
            "they are normalised, say how with --mean and --std"
        )


def is_right(scores: Scores, labels: Labels) -> Flags:
    """Return which answers are right, shape [N]; scores that are not finite are no answer."""
    right: Flags = (top1(scores) == labels) & np.isfinite(scores).all(axis=1)
    return right


def margin(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """Return the score of the right class less the best of the others, shape [N]; a wrong answer's is below 0.

    Scores that tie, as those of int8 files do, have the margin 0 where they are answered right.
    """
    lowest = float(np.finfo(np.float32).min)
    values = np.where(np.isfinite(scores), scores, lowest).astype(np.float64)
    own = np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    np.put_along_axis(values, labels[:, None], lowest, axis=1)
    lead = own - values.max(axis=1)
    below = np.minimum(lead, -np.finfo(np.float64).tiny)
    judged: NDArray[np.float64] = np.where(is_right(scores, labels), lead, below)
    return judged
