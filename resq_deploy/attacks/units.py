"""Units of an attack campaign: one attack, one radius, one shard of the images; and what came of each."""

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.ball import Norm, Pixels, distance, to_levels, whole_levels
from resq_deploy.attacks.target import Attack, Flags, Labels, Levels, Target, to_pixels
from resq_deploy.errors import RunFolderError

SHARD = 100
"""Images of a unit. Fixed, and seeds go by shard, so that figures do not depend on workers or on further images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """One attack at one radius on one shard of the images.

    Attributes:
        attack: the attack's name.
        epsilon: the radius as it was asked for, in the unit of its norm; names files.
        radius: the same in units of [0, 1] pixels.
        begin: the first image.
        end: one past the last image.
    """

    attack: str
    epsilon: str
    radius: float
    begin: int
    end: int

    @property
    def name(self) -> str:
        """The unit's name, of which a campaign has one."""
        return f"{self.attack}-{self.epsilon}-{self.begin}"


def shards(attack: str, epsilon: str, radius: float, images: int) -> list[Unit]:
    """Divide an attack at one radius on so many images into its units."""
    return [
        Unit(attack=attack, epsilon=epsilon, radius=radius, begin=begin, end=min(begin + SHARD, images))
        for begin in range(0, images, SHARD)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Attacked:
    """What an attack made of some images, and what the deployed file answers.

    Attributes:
        images: adversarial images at 8 bits, uint8 [N, H, W, C].
        labels: right classes, shape [N].
        right: which images are answered right before the attack, shape [N].
        robust: which of these still are after it, the images as the attack left them, shape [N].
        robust_8bit: which of these still are, the images at 8 bits, shape [N].
        distance: how far the attack moved each image, in units of [0, 1] pixels, shape [N].
        valid: which images the attack left within [0, 1], shape [N].
        queries: images sent to the file for each of them, shape [N]; 0 where the attack asks a network of its own.
    """

    images: Levels
    labels: Labels
    right: Flags
    robust: Flags
    robust_8bit: Flags
    distance: NDArray[np.float64]
    valid: Flags
    queries: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put the images of several units together, in the order given."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS})

    def head(self, count: int) -> Self:
        """Return the first `count` images."""
        return type(self)(**{name: getattr(self, name)[:count] for name in _FIELDS})

    def as_bytes(self, more: Mapping[str, Any]) -> bytes:
        """Return an `.npz`, which is a data set as well; with further arrays."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        np.savez_compressed(buffer, **arrays, **more)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: pathlib.Path, labels: Labels) -> Self:
        """Read what `as_bytes` made.

        Raises:
            RunFolderError: if the file is broken, or not of images with these labels.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                found = cls(**{name: archive[name] for name in _FIELDS})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunFolderError(f"{path} is broken ({error}): delete it, and --resume makes it again") from error
        whole = all(len(getattr(found, name)) == len(labels) for name in _FIELDS)
        if not whole or not np.array_equal(found.labels, labels):
            raise RunFolderError(f"{path} is not of these images: delete it, and --resume makes it again")
        return found


_FIELDS = tuple(field.name for field in dataclasses.fields(Attacked))


def evaluate(
    target: Target, attack: Attack, pixels: Pixels, labels: Labels, *, norm: Norm, radius: float, seed: int
) -> Attacked:
    """Attack images and judge what became of them on the deployed file.

    Images that are answered wrong already are left alone, and count one query, as any image does that a black-box
    attacker asks for.

    Args:
        target: the file.
        attack: what is done to images that it answers right.
        pixels: the images in [0, 1], in the layout the model takes, [N, ...].
        labels: right classes, shape [N].
        norm: of the bound.
        radius: of the bound, in units of [0, 1] pixels.
        seed: of the attack.
    """
    if target.whole_levels and norm is Norm.LINF:
        radius = whole_levels(radius)
    right = target.is_right(pixels, labels)
    left, queries = pixels.copy(), np.zeros(len(pixels), dtype=np.int64)
    if right.any():
        tried = attack(pixels[right], labels[right], radius, seed)
        left[right], queries[right] = tried.pixels, tried.queries
        queries[~right] = bool(tried.queries.any())
    flat = left.reshape(len(left), -1)
    valid = (flat.min(axis=1) >= 0) & (flat.max(axis=1) <= 1)
    levels = to_levels(norm, left, pixels, radius)
    if target.whole_levels:
        left = to_pixels(levels)  # no other image can be sent
    robust_8bit = right & target.is_right(to_pixels(levels), labels)
    robust = robust_8bit if target.whole_levels else right & target.is_right(left, labels)
    return Attacked(
        images=target.as_dataset(levels),
        labels=labels,
        right=right,
        robust=robust,
        robust_8bit=robust_8bit,
        distance=distance(norm, left, pixels),
        valid=valid,
        queries=queries,
    )
