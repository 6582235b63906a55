"""Named data sets in torchvision's own on-disk layout, and their download; torchvision is imported at the call."""

import csv
import functools
import http.client
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.dataset import Augmentation, Dataset, Split
from resq_deploy.data.folder import decode, list_files
from resq_deploy.data.tracks import tracks
from resq_deploy.errors import DataError, MissingExtraError

# The folder torchvision unpacks each set into, below the data directory.
_LAYOUTS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "gtsrb": "gtsrb/GTSRB"}
_GTSRB_CLASSES = tuple(f"{index:02d}" for index in range(43))
_GTSRB_SIZE = (32, 32)
_DOWNLOAD_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class _Cifar(Protocol):
    """What is used of torchvision's CIFAR10 and CIFAR100."""

    data: NDArray[np.uint8]
    targets: list[int]
    classes: list[str]


def load_torchvision(name: str, data_dir: Path, *, augmentation: Augmentation) -> Dataset:
    """Read `cifar10`, `cifar100` or `gtsrb` from torchvision's layout, downloading it where it is missing.

    The signs of GTSRB, 15 to 250 pixels wide, are resized to 32x32.

    Raises:
        MissingExtraError: if torchvision is needed and not installed.
        DataError: if the files are corrupt, or the download fails.
    """
    if not (data_dir / _LAYOUTS[name]).is_dir():
        _download(name, data_dir)
    if name == "gtsrb":
        root = data_dir / _LAYOUTS[name]
        return Dataset(
            name=name,
            classes=_GTSRB_CLASSES,
            augmentation=augmentation,
            load_training=functools.partial(_gtsrb_training, root),
            load_test=functools.partial(_gtsrb_test, root),
            load_tracks=lambda: tracks(_gtsrb_frames(root)[0]),
        )
    test = _cifar(name, data_dir, train=False)
    return Dataset(
        name=name,
        classes=test.classes,
        augmentation=augmentation,
        load_training=lambda: _cifar_split(_cifar(name, data_dir, train=True)),
        load_test=lambda: _cifar_split(test),
    )


def _torchvision_class(name: str, purpose: str) -> Callable[..., Any]:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingExtraError(f"{purpose} {name}", "train") from error
    classes: dict[str, Callable[..., Any]] = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "gtsrb": datasets.GTSRB,
    }
    return classes[name]


def _download(name: str, data_dir: Path) -> None:
    factory = _torchvision_class(name, "downloading")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if name == "gtsrb":
            for split in ("train", "test"):
                factory(data_dir, split=split, download=True)
        else:
            factory(data_dir, download=True)
    except _DOWNLOAD_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name} is neither in {data_dir / name} as {{train,test}}/CLASS/*.png nor in "
            f"{data_dir / _LAYOUTS[name]} as torchvision writes it, and its download failed ({reason}): "
            "give --data-dir the folder that holds it"
        ) from error


def _cifar(name: str, data_dir: Path, *, train: bool) -> _Cifar:
    """Open one split with torchvision, which verifies the checksum of every file before unpickling it."""
    factory = _torchvision_class(name, "reading torchvision's files of")
    try:
        return cast(_Cifar, factory(data_dir, train=train))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        folder = data_dir / _LAYOUTS[name]
        raise DataError(f"{folder} is incomplete or corrupt: remove it to have it downloaded again") from error


def _cifar_split(source: _Cifar) -> Split:
    images = np.ascontiguousarray(source.data, dtype=np.uint8)
    return Split(images=images, labels=np.array(source.targets, dtype=np.int64))


def _gtsrb_training(root: Path) -> Split:
    files, labels = _gtsrb_frames(root)
    return Split(images=decode(files, _GTSRB_SIZE), labels=np.array(labels, dtype=np.int64))


def _gtsrb_frames(root: Path) -> tuple[list[Path], list[int]]:
    """Return the files of the training images, class by class and track by track, and their labels."""
    files: list[Path] = []
    labels: list[int] = []
    for label in range(len(_GTSRB_CLASSES)):
        members = list_files(root / "Training" / f"{label:05d}", (".ppm",))
        files += members
        labels += [label] * len(members)
    if not files:
        raise DataError(f"{root / 'Training'} holds no .ppm image: remove {root} to have it downloaded again")
    return files, labels


def _gtsrb_test(root: Path) -> Split:
    table = root.parent / "GT-final_test.csv"
    known = {path.name: path for path in list_files(root / "Final_Test" / "Images", (".ppm",))}
    files: list[Path] = []
    labels: list[int] = []
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream, delimiter=";", skipinitialspace=True):
                files.append(known[row["Filename"]])  # a name outside the folder's own listing is an error
                labels.append(int(row["ClassId"]))
    except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"cannot read {table} ({reason}): remove {root.parent} to have it downloaded again") from error
    if not files or not set(labels) <= set(range(len(_GTSRB_CLASSES))):
        raise DataError(f"{table} is empty or names a class beyond 42: remove {root.parent} to have it downloaded")
    return Split(images=decode(files, _GTSRB_SIZE), labels=np.array(labels, dtype=np.int64))
