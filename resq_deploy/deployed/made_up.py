"""Samples made up for a model from the types and shapes of its inputs, where no data are at hand.

They serve to try what does not need real data: whether engines agree bit by bit, how much is masked, which tensors
matter most. They are the same for ever and on every platform, as `synthetic_inputs` are. Images and other numbers are
patches under a little noise; indices stay within the tables that they are looked up in; masks are ones.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.data.samples import Samples
from resq_deploy.deployed.binding import bound, needed
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.synthetic import synthetic_inputs
from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults import draws

DEFAULT_COUNT = 64
"""Samples, where it is not said how many."""

_MOST_BYTES = 2**28
_STEPS = 8
"""Of a sequence, where a model has states."""

_SIZES = ((64, 16), (224, 32), (32, 8), (256, 64), (640, 128), (64, 512), (64, 4096), (64, 16_000), (16, 4), (1, 1))
"""What open dimensions are tried with: those of images, and others."""

_SMALL = 8
"""Integers that nothing is known of lie below, from 1."""

_PASSED_ON = frozenset(
    {
        "Cast",
        "Identity",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Transpose",
        "Flatten",
        "Expand",
        "Slice",
        "Clip",
        "Max",
        "Min",
    }
)
"""Operators behind which indices are still the same indices."""

_FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, DataError, ValueError)


def made_up(
    model: onnx.ModelProto,
    deployment: Deployment,
    *,
    count: int | None = None,
    once: Mapping[str, NDArray[Any]] | None = None,
    states: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Samples:
    """Make samples up that a model runs on.

    Args:
        model: the file, self-contained.
        deployment: how it is run.
        count: how many; None for `DEFAULT_COUNT`, or fewer where they are large.
        once: values that are given for some of its inputs.
        states: input -> output, as of `Samples`.
        sizes: of open dimensions, by the names that the file gives them, or as INPUT.PLACE, such as `image.2`.
        seed: from 0 up.

    Raises:
        ModelError: if the model does not run on anything that is made up.
        DataError: if the values, states or sizes given do not fit the model.
    """
    session = Session(model.SerializeToString(), deployment)
    outputs = [output.name for output in session.outputs]
    given = Samples(name="synthetic", once=once or {}, states=states or {}, synthetic=True)
    free = [spec for spec in session.inputs if spec.name not in given.once and spec.name not in given.states]
    textual = [spec for spec in free if spec.dtype is np.str_]
    if textual:
        raise DataError(f"text is not made up: give --dataset an .npz with {needed(textual)}")
    _check_sizes(sizes or {}, free)
    maker = _Maker(free, limits(model), seed, bool(given.states), sizes or {})
    reason = ""
    for layout in layouts(free, [output.shape for output in session.outputs]):
        for tries in _SIZES if any(None in spec.shape for spec in free) else _SIZES[:1]:
            tried = maker.samples(given, layout, tries, 2)
            try:
                session.first_answers([bound(tried, session.inputs, outputs)])
            except _FAILURES as error:
                reason = reason or first_line(error)
                continue
            number = count or max(1, min(DEFAULT_COUNT, _MOST_BYTES // max(1, _bytes(tried))))
            return maker.samples(given, layout, tries, number)
    raise ModelError(
        f"the model does not run on samples that are made up ({reason}): give --dataset an .npz with {needed(free)}, "
        "or values that it needs with --feed"
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which inputs have an axis of samples.

    Attributes:
        rows: those whose first axis is theirs.
        whole: those of which a sample is all that a run takes.
    """

    rows: frozenset[str]
    whole: frozenset[str]


def layouts(specs: Sequence[InputSpec], outputs: Sequence[tuple[int | None, ...] | None]) -> list[Layout]:
    """Return how samples may lie in inputs, the likelier first; scalars are in neither part."""
    shaped = [spec for spec in specs if spec.shape]
    single = [spec for spec in shaped if spec.shape[0] in (None, 1)]
    first = {spec.shape[0] for spec in shaped}
    found = []
    if len(first) == 1 and first.isdisjoint({None, 1}) and all(shape and shape[0] in first for shape in outputs):
        found.append(Layout(frozenset(spec.name for spec in shaped), frozenset()))  # a fixed batch
    if len(single) == len(shaped):
        found.append(Layout(frozenset(spec.name for spec in shaped), frozenset()))
    found.append(Layout(frozenset(), frozenset(spec.name for spec in shaped)))
    return found


def sequence_note(steps: int) -> str:
    """Say what a sample is, and so what figures are of."""
    return f"a sample is a sequence of {steps} steps, and figures are per sequence"


def limits(model: onnx.ModelProto) -> dict[str, int]:
    """Return, for inputs that are looked up in stored tables, how many entries the smallest one has."""
    graph = model.graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}

    def table(name: str) -> list[int] | None:
        while (
            name not in sizes and name in makers and makers[name].op_type in ("DequantizeLinear", "Identity", "Where")
        ):
            name = makers[name].input[1 if makers[name].op_type == "Where" else 0]
        return sizes.get(name)

    def behind(name: str) -> str:
        while name in makers and makers[name].op_type in _PASSED_ON:
            name = makers[name].input[0]
        return name

    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type not in ("Gather", "GatherElements", "EmbedLayerNormalization") or len(node.input) < 2:
            continue
        pairs = [(node.input[0], node.input[1])]
        if node.op_type == "EmbedLayerNormalization":
            pairs = [(node.input[2], node.input[0]), (node.input[4], node.input[1])]
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        for data, index in pairs:
            dims, name = table(data), behind(index)
            if dims:
                found[name] = min(found.get(name, dims[axis]), dims[axis])
    return found


class _Maker:
    """Makes samples of given sizes up."""

    def __init__(
        self,
        specs: Sequence[InputSpec],
        limits: Mapping[str, int],
        seed: int,
        sequences: bool,
        asked: Mapping[str, int],
    ) -> None:
        self._specs = specs
        self._limits = limits
        self._seed = seed
        self._steps = (_STEPS,) if sequences else ()
        self._asked = asked

    def samples(self, given: Samples, layout: Layout, sizes: tuple[int, int], count: int) -> Samples:
        """Return so many samples; number i is the same however many there are."""
        arrays, once = {}, {}
        for spec in self._specs:
            shape = tuple(self._size(spec, place, sizes) for place in range(len(spec.shape)))
            if not shape:
                once[spec.name] = np.ones((), spec.dtype)
                continue
            inner = shape[1:] if spec.name in layout.rows else (1 if spec.shape[0] is None else shape[0], *shape[1:])
            arrays[spec.name] = self._values(spec, (count, *self._steps, *inner))
        told = [f"{name!r} {list(values.shape[1 + len(self._steps) :])}" for name, values in arrays.items()]
        notes = [f"made-up inputs, so that accuracy means nothing: of a sample {', '.join(told)}"]
        if self._steps:
            notes.append(sequence_note(_STEPS))
        if once:
            notes.append(f"fed once: {', '.join(f'{name!r} {value.item()}' for name, value in once.items())}")
        return dataclasses.replace(given, arrays=arrays, once={**given.once, **once}, notes=tuple(notes))

    def _size(self, spec: InputSpec, place: int, sizes: tuple[int, int]) -> int:
        """Return the length of a dimension: the model's own, what was asked for, or what is tried."""
        asked = [self._asked[name] for name in _names(spec, place) if name in self._asked]
        return asked[0] if asked and spec.shape[place] is None else _size(spec, place, sizes)

    def _values(self, spec: InputSpec, shape: tuple[int, ...]) -> NDArray[Any]:
        kind = np.dtype(spec.dtype).kind
        if kind == "b" or "mask" in spec.name.lower():
            return np.ones(shape, spec.dtype)
        if kind == "f" or spec.dtype in (np.uint8, np.int8):
            return self._pattern(spec, shape)
        low, high = (0, self._limits[spec.name]) if spec.name in self._limits else (1, _SMALL)
        size = math.prod(shape[1:])
        drawn = [
            draws.integers(draws.stream("made up", spec.name, self._seed, number), max(1, high - low), size)
            for number in range(shape[0])
        ]
        return (np.stack(drawn).reshape(shape) + low).astype(spec.dtype)

    def _pattern(self, spec: InputSpec, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return patches: pixels, where they may be an image, else numbers around zero."""
        if spec.dtype in (np.uint8, np.int8):
            levels = synthetic_inputs(shape, np.uint8, seed=self._seed)
            return levels if spec.dtype is np.uint8 else (levels.astype(np.int16) - 128).astype(np.int8)
        pixels = synthetic_inputs(shape, np.float32, seed=self._seed)
        return (pixels if len(spec.shape) == 4 else 2 * pixels - 1).astype(spec.dtype)


def _size(spec: InputSpec, place: int, sizes: tuple[int, int]) -> int:
    """Return the length of a dimension; where the model leaves it open, one that is sensible."""
    size = spec.shape[place]
    if size is not None:
        return size
    if len(spec.shape) != 4 or place == 0:
        return sizes[1]
    if place == 1:
        return sizes[0] if spec.channels_last else 3
    return sizes[0]


def _names(spec: InputSpec, place: int) -> tuple[str, ...]:
    """Return what a dimension is called."""
    return f"{spec.name}.{place}", *(spec.axes[place : place + 1] if any(spec.axes) else ())


def _check_sizes(sizes: Mapping[str, int], specs: Sequence[InputSpec]) -> None:
    places = [(spec, place) for spec in specs for place, size in enumerate(spec.shape) if size is None]
    known = {name for spec, place in places for name in _names(spec, place) if name}
    unknown = next((name for name in sizes if name not in known), None)
    if unknown is not None:
        there = ", ".join(_names(spec, place)[-1] or _names(spec, place)[0] for spec, place in places) or "none"
        raise DataError(f"--size {unknown}: the model has no open dimension of that name; there are {there}")


def _bytes(samples: Samples) -> int:
    """Return how many bytes a sample takes."""
    return sum(values[:1].nbytes for values in samples.arrays.values())
