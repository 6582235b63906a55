"""What a file is run on, whatever it takes: arrays with a row a sample, values fed once, states, and labels if any."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.dataset import EVALUATION_SEED, Dataset
from resq_deploy.data.preprocessing import Channels, in_channels
from resq_deploy.data.splits import permutation
from resq_deploy.errors import DataError, OptionError

Arrays = Mapping[str, NDArray[Any]]

_SHOWN = 16


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """Samples of any kind.

    Attributes:
        name: what they are called; never a path.
        arrays: by the names of the model's inputs, a row a sample; empty where there are `images`.
        images: of a data set, for the one input that nothing else is given for.
        channels: the order of the channels of uint8 images; those of one channel are grey, whatever it says.
        labels: what is right, a row a sample; None where nothing is known.
        classes: names of the classes; None where they are not known.
        classes_inferred: whether their number is only the largest label seen, plus one.
        once: values of further inputs, which are the same for all samples; of states, what they begin with.
        states: input -> output: what a step of a sequence takes of the step before it.
        notes: what a reader of the figures should know about the samples.
        synthetic: whether they were made up, so that no figure of quality means anything.
        source: digest of the data set that `images` and `labels` are of.
    """

    name: str
    arrays: Arrays = dataclasses.field(default_factory=dict)
    images: NDArray[Any] | None = None
    channels: Channels = "rgb"
    labels: NDArray[Any] | None = None
    classes: tuple[str, ...] | None = None
    classes_inferred: bool = False
    once: Arrays = dataclasses.field(default_factory=dict)
    states: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    source: str = ""

    @classmethod
    def of(cls, dataset: Dataset) -> "Samples":
        """Return the test images of a data set."""
        return cls(
            name=dataset.name,
            images=dataset.test.images,
            channels=dataset.channels,
            labels=dataset.test.labels,
            classes=dataset.classes,
            classes_inferred=dataset.classes_inferred,
            notes=dataset.notes,
            source=dataset.digest("test"),
        )

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.images is None else len(self.images)

    def take(self, rows: NDArray[np.integer[Any]] | Sequence[int]) -> "Samples":
        """Return some of the samples, in the order given."""
        places = np.asarray(rows, dtype=np.int64)
        return dataclasses.replace(
            self,
            arrays={name: values[places] for name, values in self.arrays.items()},
            images=None if self.images is None else self.images[places],
            labels=None if self.labels is None else self.labels[places],
        )

    def in_channels(self, channels: Channels | None) -> Self:
        """Return the same samples with the channels of uint8 images in another order; themselves for None.

        Digests stay: these are the same images.
        """
        if channels is None or self.images is None or self.images.dtype != np.uint8:
            return self
        have: Channels = "gray" if self.images.shape[-1] == 1 else self.channels
        changed = dataclasses.replace(self, images=in_channels(self.images, have, channels), channels=channels)
        changed.__dict__["digest"] = self.digest
        return changed

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return nothing: there are no training images.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self.name} gives no training images to take mean and deviation from: give both as numbers")

    def evaluation(self, count: int | None = None) -> "Samples":
        """Return the first `count` samples of a fixed permutation; all of them where there are fewer, or for None.

        Raises:
            DataError: if `count` is below 1.
        """
        if count is not None and count < 1:
            raise DataError(f"cannot take {count} samples of {self.name}: ask for at least 1")
        return self.take(permutation(len(self), EVALUATION_SEED)[:count])

    def check_outputs(self, outputs: int) -> None:
        """Check that a classifier with so many outputs can have been made for these classes, if they are known.

        Raises:
            DataError: if it has fewer, or, where the classes are known and not inferred from labels, another number.
        """
        if self.classes is None:
            return
        known = len(self.classes)
        if outputs < known or (outputs != known and not self.classes_inferred):
            raise DataError(
                f"the model has {outputs} classes and data set {self.name} {known}: use the data it was made for"
            )

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 over everything that a model is fed, labels and class names; that of a data set alone is its."""
        if self.source and not self.once and not self.states:
            return self.source
        header = [self.classes, sorted(self.states.items()), self.source]
        state = hashlib.sha256(json.dumps(header).encode())
        own = {} if self.source or self.labels is None else {"labels": self.labels}
        for kind, arrays in (("arrays", self.arrays), ("once", self.once), ("labels", own)):
            for name in sorted(arrays):
                state.update(json.dumps([kind, name, arrays[name].dtype.str, arrays[name].shape]).encode())
                state.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data if arrays[name].size else b"")
        return state.hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return what they are, as JSON values."""
        return {
            "name": self.name,
            "synthetic": self.synthetic,
            "labels": self.labels is not None,
            "fed": {name: _shown(values) for name, values in self.once.items()},
            "states": [{"input": name, "output": output} for name, output in self.states.items()],
            "notes": list(self.notes),
        }


Data = Dataset | Samples
"""What judges faults: the test images of a data set, or samples."""


def as_samples(data: Data) -> Samples:
    """Return the test images of a data set as samples; what is none as it is."""
    return data if isinstance(data, Samples) else Samples.of(data)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """What an export needs.

    Attributes:
        calibration: samples that ranges are taken from; none of them is in `test`.
        test: samples that judge.
        notes: how they were parted.
    """

    calibration: Samples
    test: Samples
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset, count: int, seed: int) -> "Parts":
        """Return calibration and test images of a data set, for a model whose answers are not its classes.

        Args:
            dataset: whose classes rate nothing.
            count: of training images.
            seed: of their choice.
        """
        test = Samples.of(dataset)
        images = dataset.calibration(count, seed).images
        calibration = Samples(name=dataset.name, images=images)
        return cls(calibration=calibration, test=dataclasses.replace(test, labels=None))


def parse_feeds(given: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read values such as `size=640`, `sizes=[[640, 640]]`, `sizes=640,640` or `mask=mask.npy`, by input.

    Raises:
        OptionError: if one is not of that form, or names an input again.
        DataError: if a file cannot be read.
    """
    found: dict[str, NDArray[Any]] = {}
    for text in given:
        name, given_value, value = text.partition("=")
        if not given_value or not name:
            raise OptionError(f"--feed {text!r}: give NAME=VALUE, the name of an input and a number, a list or an .npy")
        if name in found:
            raise OptionError(f"--feed {name}: the input is given twice")
        found[name] = _read(name, value)
    return found


def parse_states(given: Sequence[str]) -> dict[str, str]:
    """Read states such as `h_out=h_in`: input -> output.

    Raises:
        OptionError: if one is not of that form, or names an input again.
    """
    found: dict[str, str] = {}
    for text in given:
        output, equals, name = text.partition("=")
        if not equals or not output or not name:
            raise OptionError(f"--state {text!r}: give OUT=IN, an output and the input that takes it in the next step")
        if name in found:
            raise OptionError(f"--state {text!r}: the input {name!r} takes {found[name]!r} already")
        found[name] = output
    return found


def parse_sizes(given: Sequence[str]) -> dict[str, int]:
    """Read sizes of dimensions such as `H=640` or `image.2=640`.

    Raises:
        OptionError: if one is not of that form.
    """
    found = {}
    for text in given:
        name, _, size = text.partition("=")
        if not name or not size.isdecimal() or not int(size):
            raise OptionError(f"--size {text!r}: give AXIS=N, an open dimension as inspect names it and a length")
        found[name] = int(size)
    return found


def _read(name: str, text: str) -> NDArray[Any]:
    if text.endswith(".npy"):
        try:
            values: NDArray[Any] = np.load(Path(text), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"--feed {name}: cannot read {text} ({' '.join(str(error).split())[:200]})") from error
        return values
    for form in (text, f"[{text}]"):
        try:
            return _array(json.loads(form))
        except ValueError:
            continue
    raise OptionError(f"--feed {name}={text}: give a number, a list such as 640,640 or [[640, 640]], or an .npy file")


def _array(value: object) -> NDArray[Any]:
    """Return numbers, truth values or text as an array.

    Raises:
        ValueError: if it is anything else.
    """
    array = np.asarray(value)
    if (
        array.dtype.kind not in "iufbU"
        or not array.size
        or (array.dtype.kind == "f" and not math.isfinite(array.sum()))
    ):
        raise ValueError("neither numbers, truth values nor text")
    return array


def _shown(values: NDArray[Any]) -> Any:
    """Return values as JSON; of many, what they are."""
    return values.tolist() if values.size <= _SHOWN else f"{values.dtype.name} {list(values.shape)}"
