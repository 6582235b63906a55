"""What a model takes, and what it is fed: arrays with a row a sample, and values that are the same for all of them."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resq_deploy.data.dataset import to_model_input
from resq_deploy.data.preprocessing import AS_IS, Layout, Preprocessing
from resq_deploy.errors import DataError, ModelError

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by the names of a model's inputs."""

MAX_BATCH = 4096
"""Samples of a fixed batch at most: it is filled up with copies of a sample, whatever the file says its size is."""

_ELEMENT_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.str_,
}
_OF_IMAGES = (np.float32, np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What one of the model's inputs takes.

    Attributes:
        name: the input's name.
        dtype: type of its elements; of images float32 (in [0, 1]) or uint8 (in 0 ... 255).
        shape: dimensions; None where the model leaves one open. Empty for a scalar, and where the file gives no shape.
        axes: names that the file gives to dimensions, empty ones where it gives none.
        preprocessing: what stands between the pixels of images and what it is fed.
    """

    name: str
    dtype: type[np.generic]
    shape: tuple[int | None, ...]
    axes: tuple[str, ...] = ()
    preprocessing: Preprocessing = AS_IS

    @property
    def channels_last(self) -> bool:
        """Whether images are taken as [N, H, W, C]."""
        if len(self.shape) != 4 or self.preprocessing.layout is not None:
            return self.preprocessing.layout == "nhwc"
        return self.shape[1] not in (1, 3) and self.shape[3] in (1, 3)

    @property
    def layout(self) -> Layout:
        """The order of the axes of images."""
        return "nhwc" if self.channels_last else "nchw"

    @property
    def described(self) -> str:
        """Type and shape for people to read, such as `float32 [batch, 3, ?, ?]`."""
        names = self.axes or ("",) * len(self.shape)
        sizes = [str(size) if size is not None else name or "?" for size, name in zip(self.shape, names, strict=True)]
        return f"{self.element} [{', '.join(sizes)}]"

    @property
    def first_axis(self) -> str:
        """The name of its first dimension; empty where it has none."""
        return self.axes[0] if self.axes else ""

    @property
    def element(self) -> str:
        """The name of the type of its elements."""
        return "string" if self.dtype is np.str_ else np.dtype(self.dtype).name

    def pixels(self, images: NDArray[Any]) -> NDArray[Any]:
        """Bring images into the layout the model takes; float32 pixels in [0, 1], uint8 levels where it takes those.

        Args:
            images: uint8 [N, H, W, C], or float32 as the model takes them: the pixels that were made to these.
        """
        if images.dtype != np.uint8:
            return self.preprocessing.pixels(images, self.layout) if images.ndim == 4 else images
        if self.dtype is not np.float32:
            return images if self.channels_last else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        planes = to_model_input(images)
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)) if self.channels_last else planes

    def fed(self, pixels: Any) -> Any:
        """Return what the model is fed for pixels in its layout, arrays of numpy or tensors of torch.

        Raises:
            DataError: if it takes uint8 levels, which nothing normalises.
        """
        if self.preprocessing.normalises and self.dtype is not np.float32:
            raise DataError(
                "the model takes uint8 images, which are fed as they are: leave --mean, --std and --scale out"
            )
        return self.preprocessing.fed(pixels, self.layout)

    def prepare(self, images: NDArray[Any]) -> NDArray[Any]:
        """Bring images into the layout and type the model takes.

        Args:
            images: uint8 [N, H, W, C], or float32 already as the model takes it, which is fed as it is.

        Raises:
            DataError: if shape or type do not fit the model.
            OptionError: if the preprocessing does not.
        """
        ready = self.fed(self.pixels(images)) if images.dtype == np.uint8 else images
        fits = len(ready.shape) == len(self.shape) and all(
            want in (None, have) for want, have in zip(self.shape[1:], ready.shape[1:], strict=True)
        )
        if not fits or ready.dtype != self.dtype:
            wanted = "x".join("?" if size is None else str(size) for size in self.shape[1:])
            given = "x".join(map(str, ready.shape[1:]))
            raise DataError(
                f"the model takes {np.dtype(self.dtype).name} images of shape {wanted}, "
                f"the data set gives {ready.dtype.name} of shape {given}: {self._mend(ready)}"
            )
        return ready

    def _mend(self, images: NDArray[Any]) -> str:
        """Return what would bring images in the other layout, or with other channels, to the model's shape."""
        if len(images.shape) == len(self.shape) == 4:
            want, have = (
                (shape[-1], shape[1:3]) if self.channels_last else (shape[1], shape[2:4])
                for shape in (self.shape, images.shape)
            )
            if want[1] == have[1] and (want[0], have[0]) == (1, 3):
                return "give --channels gray"
            if want[1] == have[1] and (want[0], have[0]) == (3, 1):
                return "give --channels rgb"
        return "use data made for this model"


def input_specs(session: ort.InferenceSession, preprocessing: Preprocessing = AS_IS) -> tuple[InputSpec, ...]:
    """Return what a session takes, in the order of the file; images as they are made ready for it.

    Raises:
        ModelError: if an input is no tensor of a type that can be fed.
    """
    specs = []
    for value in session.get_inputs():
        if value.type not in _ELEMENT_TYPES:
            known = ", ".join(name.removeprefix("tensor(").removesuffix(")") for name in _ELEMENT_TYPES)
            raise ModelError(f"the model's input {value.name!r} is {value.type}; it can be a tensor of {known}")
        shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
        axes = tuple(size if isinstance(size, str) else "" for size in value.shape)
        dtype = _ELEMENT_TYPES[value.type]
        specs.append(InputSpec(name=value.name, dtype=dtype, shape=shape, axes=axes, preprocessing=preprocessing))
    return tuple(specs)


def image_input(specs: Sequence[InputSpec]) -> InputSpec:
    """Return the one input of a model that takes images and nothing else.

    Raises:
        ModelError: if the model is another.
    """
    if len(specs) != 1:
        names = ", ".join(repr(spec.name) for spec in specs[:4])
        raise ModelError(f"the model takes {len(specs)} inputs ({names}); a classifier with one image input is needed")
    (spec,) = specs
    if spec.dtype not in _OF_IMAGES:
        raise ModelError(f"the model's input {spec.name!r} is {spec.element}; float32 or uint8 images are needed")
    if len(spec.shape) < 2:
        raise ModelError(
            f"the model's input {spec.name!r} has shape {list(spec.shape)}; images are needed, "
            "with a shape of two or more dimensions in the file"
        )
    if (spec.shape[0] or 1) > MAX_BATCH:
        raise ModelError(f"the model takes {spec.shape[0]} images at a time; export it for {MAX_BATCH} or fewer")
    return spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """A value that a step of a sequence hands to the next one.

    Attributes:
        input: what takes it.
        output: what gives it.
        begin: what the first step takes, of one sample where there is an axis of samples.
        axis: that of the samples; None where there is none.
    """

    input: str
    output: str
    begin: NDArray[Any]
    axis: int | None = None

    def start(self, rows: int) -> NDArray[Any]:
        """Return what the first step takes."""
        return self.begin if self.axis is None else np.repeat(self.begin, rows, axis=self.axis)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """What is run at a time.

    Attributes:
        feeds: the values of all inputs; of sequences those of all steps, but for states.
        rows: how many samples they hold, those that fill up a fixed batch included.
        count: how many of them, the first, are samples.
        steps: of a sequence, what is fed in each step beside the states; empty where a sample is none.
        start: of a sequence, what its states begin with.
    """

    feeds: dict[str, NDArray[Any]]
    rows: int
    count: int
    steps: tuple[dict[str, NDArray[Any]], ...] = ()
    start: dict[str, NDArray[Any]] = dataclasses.field(default_factory=dict)

    @property
    def first(self) -> dict[str, NDArray[Any]]:
        """What the first run takes."""
        return {**self.steps[0], **self.start} if self.steps else self.feeds


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """Samples as the model takes them.

    Where there are states, a sample is a sequence: the second axis of `arrays` is that of its steps.

    Attributes:
        arrays: values with a row a sample, one array or more.
        each: values of one sample, without that axis, which are the same for all.
        once: values that are fed as they are, whatever the samples.
        whole: inputs without an axis of samples: what a sample has for them is all that a run takes.
        fixed: how many samples the model takes at a time, no more and no fewer; None where it leaves that open.
        states: what a step of a sequence takes of the step before it.
    """

    arrays: Arrays
    each: Arrays = dataclasses.field(default_factory=dict)
    once: Arrays = dataclasses.field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    fixed: int | None = None
    states: tuple[State, ...] = ()

    @classmethod
    def of(cls, spec: InputSpec, images: NDArray[Any]) -> "Inputs":
        """Return the inputs of a model that takes nothing but prepared images."""
        return cls(arrays={spec.name: images}, fixed=spec.shape[0])

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[np.integer[Any]]) -> "Inputs":
        """Return some of the samples."""
        return dataclasses.replace(self, arrays={name: values[rows] for name, values in self.arrays.items()})

    @property
    def alike(self) -> frozenset[str]:
        """The inputs that are fed the same whatever the samples, as long as there are as many."""
        return frozenset((*self.each, *self.once))

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield what is run at a time.

        A fixed batch is filled up with copies of the last sample.

        Args:
            size: samples a run, where the model leaves that open.
        """
        size = self.fixed or size
        for start in range(0, len(self), size):
            taken = {name: values[start : start + size] for name, values in self.arrays.items()}
            count = rows = min(size, len(self) - start)
            if self.fixed is not None and count < size:
                rows = size
                taken = {name: _filled(values, size) for name, values in taken.items()}
            each = {name: np.repeat(value[None], rows, axis=0) for name, value in self.each.items()}
            yield self._batch(taken, {**each, **self.once}, rows, count)

    def _batch(self, taken: Arrays, alike: dict[str, NDArray[Any]], rows: int, count: int) -> Batch:
        if not self.states:
            fed = {name: values[0] if name in self.whole else values for name, values in taken.items()}
            return Batch({**fed, **alike}, rows, count)
        steps = tuple(
            {name: values[0, at] if name in self.whole else values[:, at] for name, values in taken.items()} | alike
            for at in range(next(iter(taken.values())).shape[1])
        )
        start = {state.input: state.start(rows) for state in self.states}
        return Batch({**taken, **alike}, rows, count, steps, start)


Given = Inputs | NDArray[Any]
"""Samples as the model takes them; an array alone where it takes nothing but images, prepared."""


def rounded_up(samples: int, fixed: int | None) -> int:
    """Return the least number from `samples` up that fixed batches divide."""
    return math.ceil(samples / (fixed or 1)) * (fixed or 1)


def _filled(values: NDArray[Any], size: int) -> NDArray[Any]:
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])
