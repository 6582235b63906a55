"""From what `--dataset` says to a `Dataset`: a name, an image-folder tree or an `.npz`."""

import difflib
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from resq_deploy.data import npz
from resq_deploy.data.dataset import Augmentation, Dataset, Split
from resq_deploy.data.folder import is_tree, load_folder
from resq_deploy.data.npz import load_named, load_npz
from resq_deploy.data.samples import Parts, Samples
from resq_deploy.data.splits import split_off
from resq_deploy.data.torchvision_sets import load_torchvision
from resq_deploy.errors import DataError

DATASETS: tuple[str, ...] = ("digits", "cifar10", "cifar100", "gtsrb")

# Neither digits nor traffic signs survive a mirror; a sign cut at its rim is no longer the same sign. Of images nobody
# knows it is not known either.
_AUGMENTATIONS: dict[str, Augmentation] = {
    "digits": "crop",
    "gtsrb": "translate",
    "cifar10": "crop-flip",
    "cifar100": "crop-flip",
}
_UNKNOWN: Augmentation = "crop"
_IN_TRACKS = ("gtsrb",)
_DIGITS_SIZE = (32, 32)
_DIGITS_TEST_SHARE = 1 / 3
_DIGITS_SEED = 13


def load_dataset(spec: str, data_dir: Path | None = None, split: float | None = None) -> Dataset:
    """Find a data set; its images are decoded when they are first used.

    Args:
        spec: `digits` (ships with scikit-learn), `cifar10`, `cifar100`, `gtsrb`, an image-folder tree
            DIR/{train,val,test}/CLASS/*.png|jpg|jpeg|webp|bmp or DIR/CLASS/*, or an `.npz` (see `load_npz`).
        data_dir: where named sets lie, as NAME/{train,test}/CLASS/* or in torchvision's layout, or else are
            downloaded to; None is a folder of the user's cache.
        split: share of each class to test on, of a folder DIR/CLASS/*; None for a fifth.

    Raises:
        DataError: if there is no such set, what is found of it is unusable, or it is divided already.
        MissingExtraError: if it must be downloaded and torchvision is not installed.
    """
    return _found(spec, data_dir).divided(split)


def _found(spec: str, data_dir: Path | None) -> Dataset:
    if spec == "digits":
        return _load_digits()
    if spec in DATASETS:
        return _load_named(spec, _default_data_dir() if data_dir is None else data_dir)
    path = Path(spec)
    try:
        is_folder, exists = path.is_dir(), path.exists()
        stem = path.resolve().name or "images"
    except (OSError, ValueError, RuntimeError):  # a name too long, a null byte, a loop of links
        is_folder = exists = False
    if is_folder:
        augmentation = _AUGMENTATIONS.get(stem, _UNKNOWN)
        return load_folder(path, name=stem, augmentation=augmentation, in_tracks=stem in _IN_TRACKS)
    if exists and path.suffix.lower() == ".npz":
        return load_npz(path)
    if exists:
        raise DataError(f"{spec} is neither a folder nor an .npz file: give DIR/{{train,test}}/CLASS/* or an .npz")
    if spec == "synthetic":
        raise DataError("samples are made up (synthetic) for faultcamp alone: give a data set")
    close = difflib.get_close_matches(spec, DATASETS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise DataError(f"no data set {spec!r}: {hint}give one of {', '.join(DATASETS)}, an existing folder or an .npz")


def load_samples(spec: str, data_dir: Path | None, inputs: Sequence[str]) -> Dataset | Samples:
    """Find what a model is to be run on: a data set, or an `.npz` with arrays that are named as its inputs.

    Args:
        spec: as of `load_dataset`, or an `.npz` as of `load_named`.
        data_dir: as of `load_dataset`.
        inputs: the names of the model's inputs.

    Raises:
        DataError, MissingExtraError: as `load_dataset`.
    """
    named = load_named(Path(spec), inputs) if spec not in DATASETS and _is_archive(spec) else None
    return load_dataset(spec, data_dir) if named is None else named


def load_parts(spec: str, data_dir: Path | None, inputs: Sequence[str]) -> Dataset | Parts:
    """Find what an export calibrates and judges on: a data set, or an `.npz` with arrays named as a model's inputs.

    Args:
        spec: as of `load_dataset`, or an `.npz` as of `npz.load_parts`.
        data_dir: as of `load_dataset`.
        inputs: the names of the model's inputs.

    Raises:
        DataError, MissingExtraError: as `load_dataset`.
    """
    named = npz.load_parts(Path(spec), inputs) if spec not in DATASETS and _is_archive(spec) else None
    return load_dataset(spec, data_dir) if named is None else named


def _is_archive(spec: str) -> bool:
    path = Path(spec)
    try:
        return path.suffix.lower() == ".npz" and path.is_file()
    except (OSError, ValueError):  # a name too long, a null byte
        return False


def _default_data_dir() -> Path:
    """Return the cache folder of the XDG base directory specification, which ignores relative values."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "resq-deploy" / "data"


def _load_named(name: str, data_dir: Path) -> Dataset:
    augmentation = _AUGMENTATIONS[name]
    if is_tree(data_dir / name):
        return load_folder(data_dir / name, name=name, augmentation=augmentation, in_tracks=name in _IN_TRACKS)
    return load_torchvision(name, data_dir, augmentation=augmentation)


@functools.cache
def _digits() -> tuple[Split, Split]:
    """Return training and test part of scikit-learn's 1,797 digits, 8x8 in 17 levels, as 32x32 RGB images."""
    from sklearn.datasets import load_digits  # slow to import, and only this set needs it

    source = load_digits()
    grey = np.rint(source.images * (255 / 16)).astype(np.uint8)
    upscaled = [np.asarray(Image.fromarray(image).resize(_DIGITS_SIZE, Image.Resampling.BICUBIC)) for image in grey]
    images = np.repeat(np.stack(upscaled)[..., None], 3, axis=-1)
    whole = Split(images=images, labels=source.target.astype(np.int64))
    training, test = split_off(whole.labels, _DIGITS_TEST_SHARE, _DIGITS_SEED)
    return whole.take(training), whole.take(test)


def _load_digits() -> Dataset:
    return Dataset(
        name="digits",
        classes=[str(digit) for digit in range(10)],
        augmentation=_AUGMENTATIONS["digits"],
        load_training=lambda: _digits()[0],
        load_test=lambda: _digits()[1],
    )
