"""Image-folder trees DIR/{train,val,test}/CLASS/FILE or DIR/CLASS/FILE, and the decoding of image files."""

import functools
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resq_deploy.data.dataset import Augmentation, Dataset, Split
from resq_deploy.data.splits import split_off
from resq_deploy.data.tracks import UNTOLD, are_told, tracks
from resq_deploy.errors import DataError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FORMATS = ("PNG", "JPEG", "WEBP", "PPM", "BMP")
_VALIDATION = ("val", "validation", "valid")
TEST_SHARE = 0.2
"""Share of each class that is the test set, of a tree that is not divided."""

_TEST_SEED = 14
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_CHUNK = 256
# What Pillow's decoders are known to raise on broken files, beside its own errors (which are OSErrors).
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def is_tree(root: Path) -> bool:
    """Return whether `root` holds a `train` or a `test` folder."""
    return any((root / split).is_dir() for split in ("train", "test"))


def load_folder(root: Path, *, name: str, augmentation: Augmentation, in_tracks: bool = False) -> Dataset:
    """Read the class names of a tree now, and its images when they are first used.

    Args:
        root: holds `train/CLASS/*` and `test/CLASS/*` (png, jpg, jpeg, webp or bmp), all images of one size; either
            may be missing where it is not needed. `val/CLASS/*` is what epochs are chosen on; without it a part of the
            training images is. Or `CLASS/*` alone: a fixed fifth of every class is then the test set. Grey, palette
            and transparent images become RGB.
        name: the data set's name.
        augmentation: see `Dataset`.
        in_tracks: whether the training images are frames of tracks, see `tracks`.

    Raises:
        DataError: if there is neither split nor class, a split is empty, or its classes are not among the training
            ones.
    """
    if not is_tree(root):
        return _load_undivided(root, name=name, augmentation=augmentation)
    validation = next((split for split in _VALIDATION if (root / split).is_dir()), None)
    splits = ("train", "test", *([validation] if validation else []))
    found = {split: _subfolders(root / split) for split in splits if (root / split).is_dir()}
    for split, names in found.items():
        if not names:
            raise DataError(f"{root / split} holds no class folders: images belong in {split}/CLASS/*.png")
        unknown = sorted(set(names) - set(found.get("train", names)))
        if unknown:
            raise DataError(f"{root / split} has the class {unknown[0]!r}, which {root / 'train'} lacks")
    classes = sorted({name for names in found.values() for name in names})
    held = next(split for split in ("test", "train") if split in found)
    frames = _files(root, "train", classes)[0] if in_tracks and "train" in found else []
    return Dataset(
        name=name,
        classes=classes,
        augmentation=augmentation,
        load_training=functools.partial(_load_split, root, "train", classes),
        load_validation=functools.partial(_load_split, root, validation, classes) if validation else None,
        load_test=functools.partial(_load_split, root, "test", classes),
        load_tracks=functools.partial(tracks, frames) if frames else None,
        notes=() if are_told(frames) else (UNTOLD,),
        load_first=lambda: decode(_files(root, held, classes)[0][:1]),
    )


def _load_undivided(root: Path, *, name: str, augmentation: Augmentation, share: float = TEST_SHARE) -> Dataset:
    """Read a tree of classes alone: the same share of them is the test set whenever and wherever it is read."""
    if not 0.0 < share < 1.0:
        raise DataError(f"--split {share:g}: give the share of the images to test on, such as 0.2")
    classes = [folder for folder in _subfolders(root) if list_files(root / folder, _SUFFIXES)]
    if not classes:
        raise DataError(
            f"{root} holds neither train/ nor test/ nor classes: an image folder is DIR/{{train,test}}/CLASS/*.png, or "
            "DIR/CLASS/*.png"
        )
    files, labels = _files(root, "", classes)
    training, test = split_off(np.array(labels, dtype=np.int64), share, _TEST_SEED)
    if not test.size:
        raise DataError(f"every class in {root} has one image alone: give at least two of each, one to test on")

    def load(chosen: NDArray[np.int64]) -> Split:
        order = np.sort(chosen)
        return Split(images=decode([files[place] for place in order]), labels=np.array(labels, dtype=np.int64)[order])

    part = "a fixed fifth" if share == TEST_SHARE else f"a fixed share of {share:g}"
    return Dataset(
        name=name,
        classes=classes,
        augmentation=augmentation,
        load_training=lambda: load(training),
        load_test=lambda: load(test),
        load_first=lambda: decode(files[:1]),
        notes=(
            f"{name} is not divided into train/ and test/: {part} of each class, {len(test)} of {len(files)} "
            "images, is the test set, in every command",
        ),
        split=share,
        divide=lambda other: _load_undivided(root, name=name, augmentation=augmentation, share=other),
    )


def decode(files: Sequence[Path], size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode image files, in their order, on a pool of threads.

    Args:
        files: at least one path.
        size: (width, height) to resize to; None demands that all images have the size of the first.

    Returns:
        uint8 [N, H, W, 3].

    Raises:
        DataError: naming the first file that is unreadable, or of another size.
    """
    with warnings.catch_warnings():  # set once out here: the filters are not safe to change inside threads
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first = _decode_one(files[0], size, None)
        images = np.empty((len(files), *first.shape), dtype=np.uint8)

        def decode_chunk(start: int) -> None:
            for index in range(start, min(start + _CHUNK, len(files))):
                images[index] = _decode_one(files[index], size, first.shape)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                for _ in pool.map(decode_chunk, range(0, len(files), _CHUNK)):
                    pass
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return images


def _decode_one(path: Path, size: tuple[int, int] | None, expected: tuple[int, ...] | None) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise DataError(f"{path} has more than 8 bits a channel ({image.mode}): save it as an 8-bit image")
            if size is None and expected is not None and (image.height, image.width) != expected[:2]:
                raise DataError(
                    f"{path} is {image.width}x{image.height}, the images before it {expected[1]}x{expected[0]}: "
                    "bring all images of the tree to one size"
                )
            pixels = image.convert("RGB")
            if size is not None and pixels.size != size:
                pixels = pixels.resize(size, Image.Resampling.BILINEAR)
            return np.asarray(pixels, dtype=np.uint8)
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read the image {path} ({reason}): mend or remove the file") from error


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of a folder with one of the suffixes (any case), sorted by name.

    Raises:
        DataError: if the folder cannot be read.
    """
    return [path for path in _entries(folder) if path.suffix.lower() in suffixes and path.is_file()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def _subfolders(folder: Path) -> list[str]:
    return [path.name for path in _entries(folder) if path.is_dir()]


def _load_split(root: Path, split: str, classes: Sequence[str]) -> Split:
    if not (root / split).is_dir():
        raise DataError(f"{root} holds no {split}/ folder, and {split} images are needed: add {split}/CLASS/*.png")
    files, labels = _files(root, split, classes)
    return Split(images=decode(files), labels=np.array(labels, dtype=np.int64))


def _files(root: Path, split: str, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Return the image files of a split, class by class, and their labels."""
    files: list[Path] = []
    labels: list[int] = []
    for name in [folder for folder in _subfolders(root / split) if split or folder in classes]:
        members = list_files(root / split / name, _SUFFIXES)
        if not members:
            raise DataError(f"{root / split / name} holds no image ({', '.join(_SUFFIXES)}): add some or remove it")
        files += members
        labels += [classes.index(name)] * len(members)
    return files, labels
