"""What a data set is to the rest of the package: three fixed splits, class names, digests."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.preprocessing import Channels, in_channels
from resq_deploy.data.splits import permutation, split_off
from resq_deploy.errors import DataError

Augmentation = Literal["crop-flip", "crop", "translate", "none"]
SplitName = Literal["train", "validation", "test"]

_VALIDATION_SHARE = 0.1
_VALIDATION_SEED = 10
EVALUATION_SEED = 11


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 [N, H, W, C], C 3 (1 is possible from an `.npz`); or, from an `.npz` only, float32 [N, ...] in
            whatever layout the model takes.
        labels: int64 [N], indices into the data set's class names.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.integer[Any]] | Sequence[int]) -> "Split":
        """Return the images at `indices`, in that order."""
        places = np.asarray(indices, dtype=np.int64)
        return Split(images=self.images[places], labels=self.labels[places])

    def head(self, count: int | None) -> "Split":
        """Return the first `count` images as a view; all of them where `count` is None or larger."""
        return self if count is None else Split(images=self.images[:count], labels=self.labels[:count])


class Dataset:
    """A data set whose splits are decoded on first use and then kept.

    The training images divide into `train` and `validation` (10 % of every class, at least one image where the
    class has two) by a permutation that never changes. Where images come in tracks, those are divided and not the
    images; where the set has validation images of its own, nothing is divided.

    Attributes:
        name: the set's name, or the stem of its folder or file; never a path.
        classes: the class names; a label is an index into them.
        augmentation: what training may do to an image without changing its class.
        notes: what a reader of the figures should know about how the images were chosen.
        classes_inferred: whether the number of classes is only the largest label seen, plus one.
        channels: the order of the channels of its uint8 images; those of one channel are grey, whatever it says.
        split: share of each class that is the test set, of images that come undivided; None where they come divided.
    """

    def __init__(
        self,
        *,
        name: str,
        classes: Sequence[str],
        augmentation: Augmentation,
        load_training: Callable[[], Split],
        load_test: Callable[[], Split],
        load_calibration: Callable[[], Split] | None = None,
        load_tracks: Callable[[], NDArray[np.int64]] | None = None,
        load_validation: Callable[[], Split] | None = None,
        notes: Sequence[str] = (),
        classes_inferred: bool = False,
        channels: Channels = "rgb",
        whole: "Dataset | None" = None,
        split: float | None = None,
        divide: "Callable[[float], Dataset] | None" = None,
        load_first: Callable[[], NDArray[Any]] | None = None,
    ) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.augmentation: Augmentation = augmentation
        self.notes = tuple(notes)
        self.classes_inferred = classes_inferred
        self.channels: Channels = channels
        self.split = split
        self._whole = whole
        self._divide = divide
        self._load_training = load_training
        self._load_test = load_test
        self._load_calibration = load_calibration
        self._load_tracks = load_tracks
        self._load_validation = load_validation
        self._load_first = load_first
        self._digests: dict[str, str] = {}

    @functools.cached_property
    def _training(self) -> tuple[Split, Split]:
        images = self._load_training()
        if self._load_validation is not None:
            return images, self._load_validation()
        tracks = self._load_tracks() if self._load_tracks else None
        train, validation = split_off(images.labels, _VALIDATION_SHARE, _VALIDATION_SEED, tracks)
        return images.take(train), images.take(validation)

    @functools.cached_property
    def first(self) -> NDArray[Any]:
        """One image, [1, ...], by which all others go in type, size and channels; costs no more than itself."""
        return self.test.images[:1] if self._load_first is None or "test" in vars(self) else self._load_first()

    @property
    def image_size(self) -> int:
        """Height of the images, which are as wide: of [N, H, W, C] as of [N, C, H, W]."""
        return int(self.first.shape[2])

    @property
    def image_channels(self) -> int:
        """How many channels the images have: uint8 ones lie last, those of floats behind the images' number."""
        return int(self.first.shape[3] if self.first.dtype == np.uint8 else self.first.shape[1])

    @property
    def train(self) -> Split:
        """The training images without the validation part.

        Raises:
            DataError: if the set has no training images, or one of its files is unusable; so for every split.
        """
        return self._training[0]

    @property
    def validation(self) -> Split:
        """What epochs are chosen on: the set's own, or a part of the training images; empty if none can be spared."""
        return self._training[1]

    @functools.cached_property
    def test(self) -> Split:
        """The test images, in the order of their source."""
        return self._load_test()

    @functools.cached_property
    def _calibration(self) -> Split:
        return self.train if self._load_calibration is None else self._load_calibration()

    def evaluation(self, count: int | None = None) -> Split:
        """Return the first `count` images of a fixed permutation of the test set, whatever the run's seed.

        All of them where `count` is None or larger than the set: a smaller sample is always part of a larger one.

        Raises:
            DataError: if `count` is below 1.
        """
        return self.test.take(permutation(len(self.test), EVALUATION_SEED)[: _checked(count)])

    def calibration(self, count: int, seed: int) -> Split:
        """Return `count` training images (all, if there are fewer) drawn with `seed` (>= 0); never a test image.

        Raises:
            DataError: if `count` is below 1, or there is nothing to calibrate on.
        """
        return self._calibration.take(permutation(len(self._calibration), seed)[: _checked(count)])

    def undivided(self) -> "Dataset":
        """Return the data set for what calibrates nothing: with no images kept for that and out of the test set.

        Itself where none are.
        """
        return self._whole or self

    def divided(self, share: float | None) -> "Dataset":
        """Return the data set with another share of its images as the test set; itself for None.

        Raises:
            DataError: if its images come divided, or no share of them can be had.
        """
        if share is None or share == self.split:
            return self
        if self._divide is None:
            raise DataError(f"--split {share:g}: {self.name} comes divided into training and test images: leave it out")
        return self._divide(share)

    def in_channels(self, channels: Channels | None) -> "Dataset":
        """Return the same data set with the channels of its uint8 images in another order; itself for None.

        Digests stay: these are the same images.
        """
        return self if channels is None else _Recoloured(self, channels)

    def check_outputs(self, outputs: int) -> None:
        """Check that a classifier with so many outputs can have been made for these classes.

        Raises:
            DataError: if it has fewer, or, where the classes are known and not inferred from labels, another number.
        """
        known = len(self.classes)
        if outputs < known or (outputs != known and not self.classes_inferred):
            raise DataError(
                f"the model has {outputs} classes and data set {self.name} {known}: use the data it was made for"
            )

    def digest(self, split: SplitName) -> str:
        """Return the SHA-256 over shape, dtype, pixels, labels and class names of a split."""
        if split not in self._digests:
            part: Split = getattr(self, split)
            header = repr((part.images.shape, part.images.dtype.str, self.classes))
            state = hashlib.sha256(header.encode())
            state.update(np.ascontiguousarray(part.images).data)
            state.update(np.ascontiguousarray(part.labels).data)
            self._digests[split] = state.hexdigest()
        return self._digests[split]

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel of the training images, pixels in [0, 1].

        The deviation is at least 1/255, so that a constant channel can still be normalised by it.

        Raises:
            DataError: if the images are float32 and not [N, C, H, W], so that there is no channel to speak of.
        """
        images = self.train.images
        if images.dtype == np.uint8:
            mean, std = _uint8_moments(images)
        elif images.ndim == 4:
            mean = images.mean(axis=(0, 2, 3), dtype=np.float64)
            std = images.std(axis=(0, 2, 3), dtype=np.float64)
        else:
            shape = list(images.shape)
            raise DataError(f"images of {self.name} have the shape {shape}: training needs uint8 NHWC or float32 NCHW")
        return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())


class _Recoloured(Dataset):
    """A data set with its channels in another order; splits are those of the source."""

    def __init__(self, source: Dataset, channels: Channels) -> None:
        super().__init__(
            name=source.name,
            classes=source.classes,
            augmentation=source.augmentation,
            load_training=source._load_training,
            load_test=source._load_test,
            notes=source.notes,
            classes_inferred=source.classes_inferred,
            channels=channels,
            split=source.split,
        )
        self._source = source

    def _converted(self, split: Split) -> Split:
        return Split(images=self._reordered(split.images), labels=split.labels)

    def _reordered(self, images: NDArray[Any]) -> NDArray[Any]:
        if images.dtype != np.uint8:
            return images  # fed as they are
        have: Channels = "gray" if images.shape[-1] == 1 else self._source.channels
        return in_channels(images, have, self.channels)

    @functools.cached_property
    def first(self) -> NDArray[Any]:
        """One image of the source."""
        return self._reordered(self._source.first)

    @functools.cached_property
    def _training(self) -> tuple[Split, Split]:
        train, validation = self._source._training
        return self._converted(train), self._converted(validation)

    @functools.cached_property
    def test(self) -> Split:
        """The test images, in the order of their source."""
        return self._converted(self._source.test)

    @functools.cached_property
    def _calibration(self) -> Split:
        return self._converted(self._source._calibration)

    def digest(self, split: SplitName) -> str:
        """Return the digest of the source's images."""
        return self._source.digest(split)


def agreed(dataset: Dataset, known: float | None, given: float | None) -> tuple[Dataset, tuple[str, ...]]:
    """Return a data set that is divided as it was for what came before, and what is to be said: a line each.

    Args:
        dataset: as it was found.
        known: share that was the test set when the network was trained, or the file made; None where that is not known.
        given: what the user says it is; None for nothing.
    """
    if known is None or dataset.split in (None, known):
        return dataset, ()
    if given is None:
        return dataset.divided(known), ()
    return dataset, (
        f"warning: --split {given:g}, and {dataset.name} was divided by {known:g} before: some of these test images "
        "may be among those that the network was trained on",
    )


def _checked(count: int | None) -> int | None:
    if count is not None and count < 1:
        raise DataError(f"cannot take {count} images of a data set: ask for at least 1")
    return count


def _uint8_moments(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact moments from histograms: no float copy of the images."""
    levels = np.arange(256) / 255
    channels = range(images.shape[-1])
    histograms = [np.bincount(images[..., channel].ravel(), minlength=256) for channel in channels]
    weights = np.stack(histograms) / (images.size / images.shape[-1])
    mean = weights @ levels
    return mean, np.sqrt(np.maximum(weights @ levels**2 - mean**2, 0))


def to_model_input(images: NDArray[Any]) -> NDArray[np.float32]:
    """Turn images into what a network takes.

    Args:
        images: uint8 [N, H, W, C], or float32 in the model's own layout.

    Returns:
        float32 [N, C, H, W] in [0, 1] for uint8 images; float32 images unchanged. C-contiguous.

    Raises:
        DataError: if the images are neither uint8 NHWC nor float32.
    """
    if images.dtype == np.float32:
        return np.ascontiguousarray(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images are {images.dtype} {list(images.shape)}: they must be uint8 [N, H, W, C] or float32")
    planes = np.empty((images.shape[0], images.shape[3], *images.shape[1:3]), dtype=np.float32)
    np.divide(images.transpose(0, 3, 1, 2), np.float32(255), out=planes)
    return planes
