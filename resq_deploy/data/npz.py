"""Data sets in one `.npz` file: images, labels, optionally images_train, labels_train and classes."""

import functools
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.data.preprocessing import CHANNELS, Channels
from resq_deploy.data.samples import Parts, Samples
from resq_deploy.data.splits import permutation
from resq_deploy.errors import DataError

_HELD_OUT_SHARE = 0.2
_HELD_OUT_SEED = 12
_FREE_BYTES = 1 << 30
_MAX_EXPANSION = 100
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What zipfile and numpy are known to raise on broken archives.
_READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    SyntaxError,
    MemoryError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tokenize.TokenError,
)


def load_npz(path: Path) -> Dataset:
    """Check an archive's headers and labels now, and read its images when they are first used.

    Arrays: `images`, `labels` (the test set); `images_train`, `labels_train`, `classes` (strings) and `channels` (the
    string rgb, bgr or gray) are optional.
    Images are uint8 [N, H, W, C] with 1 or 3 channels, or float32 [N, ...] in the layout the model takes. Without
    training images a fixed fifth of `images` is kept for calibration and left out of the test split; a note says so.
    What calibrates nothing takes all of them, see `Dataset.undivided`.

    Raises:
        DataError: if the file is no such archive; the message names the array and what is wrong with it.
    """
    archive = _Archive(path)
    training = archive.has("images_train") or archive.has("labels_train")
    classes = archive.classes()
    labels = {"": archive.labels("labels", "images", classes)}
    if training:
        labels["_train"] = archive.labels("labels_train", "images_train", classes)
        archive.check_alike("images", "images_train")
    notes = []
    inferred = classes is None
    if classes is None:
        classes = tuple(str(label) for label in range(1 + max(int(part.max()) for part in labels.values())))
        notes.append(f"{path.name} names no classes: their number, {len(classes)}, is taken from the largest label")
    load_test = functools.partial(archive.split, "images", labels[""])
    load_training = functools.partial(archive.split, "images_train", labels.get("_train"))
    load_calibration = whole = None
    make = functools.partial(
        Dataset,
        channels=archive.channels(),
        name=path.stem,
        classes=classes,
        classes_inferred=inferred,
        augmentation="crop" if archive.header("images")[1] == np.uint8 else "none",
        load_training=load_training,
    )
    if not training:
        order = permutation(len(labels[""]), _HELD_OUT_SEED)
        held_out, kept = np.split(order, [round(_HELD_OUT_SHARE * len(order))])
        whole = make(load_test=load_test, notes=tuple(notes))
        load_test = functools.partial(archive.split, "images", labels[""], np.sort(kept))
        load_calibration = functools.partial(archive.split, "images", labels[""], held_out)
        notes.append(
            f"{path.name} has no images_train: {len(held_out)} of its {len(labels[''])} images are kept for "
            "calibration and left out of the evaluation"
        )
    return make(load_test=load_test, load_calibration=load_calibration, notes=notes, whole=whole)


def load_named(path: Path, inputs: Sequence[str], part: str = "") -> Samples | None:
    """Read the arrays that are named as a model's inputs; None where that is not how an archive is made.

    Arrays: one an input, of any type, the first axis that of the samples. Beside them `labels`, what is right of each
    sample in whatever form the judge takes, and `classes` are optional. An archive with `images` for a model of one
    input is none of this kind, unless `labels` are not [N] integers, or missing, which no data set goes without.

    Args:
        path: the archive.
        inputs: the names of the model's inputs.
        part: what all names of arrays end with: nothing for test samples, `_train` for those of training.

    Raises:
        DataError: if the file is no such archive; the message names the array and what is wrong with it.
    """
    archive, images, right = _Archive(path), f"images{part}", f"labels{part}"
    names = [name for name in inputs if archive.has(f"{name}{part}")]
    of_images = archive.has(images) and (len(inputs) == 1 or "images" not in inputs)
    if of_images and archive.has(right):
        shape, dtype = archive.header(right)
        if len(shape) == 1 and dtype.kind in "iu":
            return None
    if of_images:
        classes, labels = archive.classes(), archive.any_labels(images, right)
        return Samples(name=path.stem, images=archive.images(images), labels=labels, classes=classes)
    if not names and not part and not archive.has("images"):
        wanted = ", ".join(map(repr, inputs))
        raise DataError(f"{path} holds no array for an input of the model: name one {wanted}, samples first")
    if not names:
        return None
    arrays = {name: archive.values(f"{name}{part}") for name in names}
    labels = archive.any_labels(f"{names[0]}{part}", right)
    return Samples(name=path.stem, arrays=arrays, labels=labels, classes=archive.classes())


def load_parts(path: Path, inputs: Sequence[str]) -> Parts | None:
    """Read what an export calibrates and judges on, as `load_named`; None where that is not how an archive is made.

    Training samples are in arrays whose names end with `_train`. Without any, a fixed fifth of the samples is kept for
    calibration and left out of the test; a note says so.

    Args:
        path: the archive.
        inputs: the names of the model's inputs.

    Raises:
        DataError: as `load_named`; or if no sample can be spared for calibration.
    """
    test = load_named(path, inputs)
    if test is None:
        return None
    training = load_named(path, inputs, "_train")
    if training is not None:
        return Parts(calibration=training, test=test)
    order = permutation(len(test), _HELD_OUT_SEED)
    held_out, kept = np.split(order, [round(_HELD_OUT_SHARE * len(order))])
    if not len(held_out):
        raise DataError(f"{path}: no sample can be spared for calibration out of {len(test)}: add arrays with _train")
    note = (
        f"{path.name} has no training samples (arrays ending with _train): {len(held_out)} of its {len(test)} are kept "
        "for calibration and left out of the evaluation"
    )
    return Parts(calibration=test.take(held_out), test=test.take(np.sort(kept)), notes=(note,))


class _Archive:
    """An `.npz` whose arrays are read one at a time, each only after its header has been checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading("as an .npz"), zipfile.ZipFile(path) as archive:
            self._members = {member.filename: member for member in archive.infolist()}
            self._size = path.stat().st_size

    def has(self, name: str) -> bool:
        return f"{name}.npy" in self._members

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn what numpy and zipfile raise into one line, and keep their warnings to ourselves."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except _READ_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            mend = "write the file with numpy.savez"
            raise DataError(f"cannot read {self.path} {what} ({reason[:200]}): {mend}") from error

    def _fail(self, problem: str) -> DataError:
        return DataError(f"{self.path}: {problem}")

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Read shape and dtype of an array and check that the archive can hold it.

        Raises:
            DataError: if the array is missing, or its header is unusable or lies about its size.
        """
        if not self.has(name):
            raise self._fail(f"the array {name!r} is missing")
        member = self._members[f"{name}.npy"]
        with self._reading(f"({name})"), zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
            version = npy.read_magic(stream)
            if version not in _HEADER_READERS:
                raise self._fail(f"{name!r} has the .npy version {version}: write it with numpy.savez")
            shape, _, dtype = _HEADER_READERS[version](stream)
            if dtype.hasobject:
                raise self._fail(f"{name!r} holds Python objects, which are never loaded: save a plain array")
            self._check_size(name, member, math.prod(shape) * dtype.itemsize + stream.tell())
        return shape, dtype

    def _check_size(self, name: str, member: zipfile.ZipInfo, declared: int) -> None:
        """Refuse, before anything is allocated, a header that lies and an archive that explodes."""
        if declared != member.file_size or member.compress_size > self._size:
            raise self._fail(f"{name!r} declares {declared} bytes and holds {member.file_size}: the file is broken")
        if declared > max(_FREE_BYTES, _MAX_EXPANSION * member.compress_size):
            raise self._fail(f"{name!r} would expand {member.compress_size} bytes to {declared}: refused")

    def _read(self, name: str) -> NDArray[Any]:
        self.header(name)
        member = self._members[f"{name}.npy"]
        with self._reading(f"({name})"), zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
            values: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
            return values

    def classes(self) -> tuple[str, ...] | None:
        """Read the class names; None if there are none."""
        if not self.has("classes"):
            return None
        shape, dtype = self.header("classes")
        if dtype.kind != "U" or len(shape) != 1 or not shape[0]:
            raise self._fail(f"'classes' is {dtype} {list(shape)}: it must be a list of strings")
        names = tuple(str(name) for name in self._read("classes"))
        if len(set(names)) < len(names):
            raise self._fail("'classes' names a class twice")
        return names

    def channels(self) -> Channels:
        """Read the order of the channels; `rgb` where nothing is said."""
        if not self.has("channels"):
            return "rgb"
        shape, dtype = self.header("channels")
        said = str(self._read("channels")) if dtype.kind == "U" and shape == () else None
        for known in CHANNELS:
            if known == said:
                return known
        raise self._fail(f"'channels' is {said or dtype}: it must be one of the strings rgb, bgr and gray")

    def labels(self, name: str, images: str, classes: tuple[str, ...] | None) -> NDArray[np.int64]:
        """Read labels after checking the header of the images they belong to."""
        count = self._check_images(images)
        shape, dtype = self.header(name)
        if dtype.kind not in "iu" or len(shape) != 1:
            raise self._fail(f"{name!r} is {dtype} {list(shape)}: labels must be integers [N]")
        if shape[0] != count:
            raise self._fail(f"{images!r} holds {count} images and {name!r} {shape[0]} labels")
        labels = self._read(name)
        limit = len(classes) if classes is not None else np.iinfo(np.int32).max
        wrong = np.flatnonzero((labels < 0) | (labels >= limit))
        if len(wrong):
            bound = f"0 ... {limit - 1}"
            raise self._fail(f"{name!r}[{wrong[0]}] is {labels[wrong[0]]}: labels must lie in {bound}")
        return labels.astype(np.int64)

    def images(self, name: str) -> NDArray[Any]:
        """Read images, after checking their header."""
        self._check_images(name)
        images = np.ascontiguousarray(self._read(name))
        if images.dtype == np.float32 and not np.isfinite(images.sum(dtype=np.float64)):
            raise self._fail(f"{name!r} holds NaN or infinite values")
        return images

    def values(self, name: str) -> NDArray[Any]:
        """Read an array of any type; a row a sample."""
        shape, dtype = self.header(name)
        if not shape or 0 in shape:
            raise self._fail(f"{name!r} has shape {list(shape)}: its first axis must be that of the samples")
        if dtype.kind not in "iufbU":
            raise self._fail(f"{name!r} is {dtype}: it must hold numbers, truth values or strings")
        values = np.ascontiguousarray(self._read(name))
        if dtype.kind == "f" and not np.isfinite(values.sum(dtype=np.float64)):
            raise self._fail(f"{name!r} holds NaN or infinite values")
        return values

    def any_labels(self, of: str, name: str) -> NDArray[Any] | None:
        """Read labels of any kind, as many as an array has samples; None if there are none."""
        if not self.has(name):
            return None
        count, labels = self.header(of)[0][0], self.values(name)
        if len(labels) != count:
            raise self._fail(f"{of!r} holds {count} samples and {name!r} {len(labels)}")
        return labels

    def _check_images(self, name: str) -> int:
        shape, dtype = self.header(name)
        if 0 in shape:
            raise self._fail(f"{name!r} is empty: shape {list(shape)}")
        if dtype == np.uint8:
            if len(shape) != 4 or shape[3] not in (1, 3):
                raise self._fail(f"{name!r} is uint8 {list(shape)}: it must be [N, H, W, C] with 1 or 3 channels")
        elif dtype != np.float32 or len(shape) < 2:
            raise self._fail(f"{name!r} is {dtype} {list(shape)}: it must be uint8 [N, H, W, C] or float32 [N, ...]")
        return shape[0]

    def check_alike(self, first: str, second: str) -> None:
        """Demand that two image arrays differ in nothing but their length."""
        (shape, dtype), (other_shape, other_dtype) = self.header(first), self.header(second)
        if shape[1:] != other_shape[1:] or dtype != other_dtype:
            raise self._fail(
                f"{first!r} is {dtype} {list(shape)}, {second!r} {other_dtype} {list(other_shape)}: "
                "all images must have one type and size"
            )

    def split(self, name: str, labels: NDArray[np.int64] | None, indices: NDArray[np.int64] | None = None) -> Split:
        """Read images; `labels` None means that the archive has none of this kind."""
        if labels is None:
            raise self._fail(f"the array {name!r} is missing, and training needs it: add images_train, labels_train")
        whole = Split(images=self.images(name), labels=labels)
        if indices is None:
            return whole
        if not len(indices):
            raise self._fail(f"no image can be spared for calibration out of {len(labels)}: add images_train")
        return whole.take(indices)
