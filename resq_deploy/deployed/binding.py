"""From samples to what a model takes: each input gets its values, or one line says which values are missing or wrong.

An input of rank r with an array of rank r has samples along its first axis, be that open, of a fixed size or 1. With an
array of rank r + 1 it has none: what a sample has for it is all that a run takes. Of sequences arrays have one more
axis, the second, for the steps.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.samples import Samples
from resq_deploy.deployed.inputs import MAX_BATCH, Inputs, InputSpec, State, image_input
from resq_deploy.errors import DataError, ModelError


def bound(samples: Samples, inputs: Sequence[InputSpec], outputs: Iterable[str]) -> Inputs:
    """Return samples as a model takes them.

    Args:
        samples: what it is to be run on.
        inputs: what it takes.
        outputs: the names of its outputs.

    Raises:
        DataError: if values are missing for an input, or do not fit it; or some are given for none.
        ModelError: if it takes images alone and they cannot be fed, or samples of several fixed numbers at a time.
    """
    specs = {spec.name: spec for spec in inputs}
    _check_names(samples, specs, set(outputs))
    wanted = [spec for spec in inputs if spec.name not in samples.once and spec.name not in samples.states]
    if samples.images is not None and wanted == list(inputs) and _takes_images(wanted):
        image = image_input(inputs)
        return Inputs.of(image, image.prepare(samples.images))
    arrays = _arrays_of(samples, inputs, wanted)
    steps = 1 if samples.states else 0
    whole = {spec.name for spec in wanted if _is_whole(spec, arrays[spec.name].ndim - steps)}
    for spec in wanted:
        _check(spec, arrays[spec.name], 1 + steps if spec.name in whole else steps, steps)
    _check_lengths(samples.name, arrays, steps)
    rows = [spec for spec in wanted if spec.name not in whole]
    fixed = _fixed(rows, alone=bool(whole))
    axes = {spec.first_axis for spec in rows} - {""}
    fed = [_fed(specs[name], value, axes, fixed) for name, value in samples.once.items() if name not in samples.states]
    states = [_state(specs[name], output, axes, samples.once.get(name)) for name, output in samples.states.items()]
    if states and fixed is None and all(state.axis is None for state in states):
        fixed = 1  # the states leave no room for more than one sample
    return Inputs(
        arrays=arrays,
        each={one.name: one.value for one in fed if one.each},
        once={one.name: one.value for one in fed if not one.each},
        whole=frozenset(whole),
        fixed=fixed,
        states=tuple(states),
    )


def needed(inputs: Sequence[InputSpec]) -> str:
    """Say what an `.npz` for a model has to hold."""
    return ", ".join(f"{spec.name!r} ({spec.described})" for spec in inputs)


def _check_names(samples: Samples, specs: dict[str, InputSpec], outputs: set[str]) -> None:
    """Refuse values for inputs, and states of outputs, that the model has not."""
    there = needed(list(specs.values()))
    for option, names in (("--feed", samples.once), ("--state", samples.states)):
        unknown = next((name for name in names if name not in specs), None)
        if unknown is not None:
            raise DataError(f"{option}: the model has no input {unknown!r}; it takes {there}")
    lost = next((output for output in samples.states.values() if output not in outputs), None)
    if lost is not None:
        known = ", ".join(map(repr, sorted(outputs)))
        raise DataError(f"--state: the model has no output {lost!r}; it gives {known}")
    both = next((name for name in samples.arrays if name in samples.once or name in samples.states), None)
    if both is not None:
        raise DataError(f"the input {both!r} is given by {samples.name}, and once more as an option: give it once")


def _arrays_of(samples: Samples, inputs: Sequence[InputSpec], wanted: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    """Return an array for each input that has a value of its own for every sample."""
    if not wanted:
        raise DataError("every input is fed once or is a state, so that no sample differs from another: give arrays")
    if samples.images is not None:
        if not _takes_images(wanted) or samples.states:
            kind = "1 input, which is no image" if len(inputs) == 1 else f"{len(inputs)} inputs"
            raise DataError(
                f"the model takes {kind}, and {samples.name} gives images alone: give --dataset an .npz "
                f"with one array an input, samples first: {needed(wanted)}; values that are the same for all samples "
                "with --feed; or try --dataset synthetic"
            )
        (spec,) = wanted
        return {spec.name: image_input([spec]).prepare(samples.images)}
    missing = [spec for spec in wanted if spec.name not in samples.arrays]
    if missing:
        raise DataError(
            f"{samples.name} holds no array for the model's input {needed(missing[:1])}: add one, samples first, or "
            f"give --feed {missing[0].name}=VALUE if it is the same for all samples, or --state OUT={missing[0].name} "
            "if an output is fed back to it"
        )
    return {spec.name: samples.arrays[spec.name] for spec in wanted}


def _takes_images(wanted: Sequence[InputSpec]) -> bool:
    """Return whether there is one input, and it may take the images of a data set."""
    return len(wanted) == 1 and wanted[0].dtype in (np.float32, np.uint8) and len(wanted[0].shape) > 1


def _is_whole(spec: InputSpec, rank: int) -> bool:
    """Return whether a sample is all that a run takes, told by the rank of the samples together."""
    unknown = not spec.shape and rank > 1  # a file that gives no shape at all
    return not unknown and rank == len(spec.shape) + 1


def _check(spec: InputSpec, values: NDArray[Any], skipped: int, steps: int) -> None:
    """Check type and shape of the samples of an input; `skipped` axes in front are not the model's."""
    if values.dtype != spec.dtype and not (spec.dtype is np.str_ and values.dtype.kind == "U"):
        raise _unfit(f"the array {spec.name!r}", spec, values, steps)
    if not spec.shape and not skipped:
        return
    sizes = values.shape[skipped:] if skipped > steps else (None, *values.shape[skipped + 1 :])
    if len(sizes) != len(spec.shape) or any(
        want is not None and have not in (None, want) for want, have in zip(spec.shape, sizes, strict=True)
    ):
        raise _unfit(f"the array {spec.name!r}", spec, values, steps)


def _check_lengths(source: str, arrays: dict[str, NDArray[Any]], steps: int) -> None:
    for axis, what in [(0, "samples"), (1, "steps")][: 1 + steps]:
        sizes = {name: values.shape[axis] for name, values in arrays.items()}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name!r} {size}" for name, size in sizes.items())
            raise DataError(f"the arrays of {source} hold different numbers of {what}: {told}")
        if not min(sizes.values()):
            raise DataError(f"the arrays of {source} hold no {what}")


def _fixed(rows: Sequence[InputSpec], *, alone: bool) -> int | None:
    """Return how many samples a run takes; None where that is open."""
    sizes = {spec.shape[0] for spec in rows if spec.shape and spec.shape[0] is not None}
    if alone:
        sizes.add(1)
    if len(sizes) > 1:
        raise ModelError(
            f"the model's inputs take {' and '.join(map(str, sorted(filter(None, sizes))))} samples at a time: give "
            "each what a whole run takes, with one more axis in front for the samples"
        )
    fixed = sizes.pop() if sizes else None
    if (fixed or 1) > MAX_BATCH:
        raise ModelError(f"the model takes {fixed} samples at a time; export it for {MAX_BATCH} or fewer")
    return fixed


@dataclasses.dataclass(frozen=True, eq=False)
class _Fed:
    """A value that is the same for all samples; `each`: it is that of one sample."""

    name: str
    value: NDArray[Any]
    each: bool = False


def _fed(spec: InputSpec, given: NDArray[Any], axes: set[str], fixed: int | None) -> _Fed:
    """Return how a value is fed: as it is, or once for each sample of a run."""
    value, rank = _cast(spec, given), len(spec.shape)
    if rank == 0:
        return _Fed(spec.name, value)
    by_sample = spec.first_axis in axes or (spec.shape[0] is not None and spec.shape[0] == fixed)
    if value.ndim == rank - 1:
        if rank == 1 and not by_sample and spec.shape[0] in (None, 1):
            value = value[None]
        elif not _fits(value.shape, spec.shape[1:]):
            raise _unfit(f"--feed {spec.name}", spec, value)
        elif by_sample or (spec.shape[0] is None and rank > 1):
            return _Fed(spec.name, value, each=True)
        else:
            value = np.repeat(value[None], spec.shape[0] or 1, axis=0)
    if not _fits(value.shape, spec.shape):
        raise _unfit(f"--feed {spec.name}", spec, value)
    if spec.shape[0] is None and len(value) == 1 and (by_sample or (rank > 1 and not spec.first_axis)):
        return _Fed(spec.name, value[0], each=True)
    return _Fed(spec.name, value)


def _state(spec: InputSpec, output: str, axes: set[str], begin: NDArray[Any] | None) -> State:
    """Return a state; which of its open dimensions is that of the samples is told by their names, or there is one."""
    opened = [place for place, size in enumerate(spec.shape) if size is None]
    named = [place for place in opened if spec.axes and spec.axes[place] in axes]
    axis = next(iter(named or opened), None)
    if begin is None and len(opened) > 1:
        raise DataError(
            f"--state {output}={spec.name}: the input is {spec.described}, and it is not known how large it is: give "
            f"what it begins with as --feed {spec.name}=FILE.npy"
        )
    value = np.zeros([size or 1 for size in spec.shape], spec.dtype) if begin is None else _cast(spec, begin)
    if not _fits(value.shape, spec.shape):
        raise _unfit(f"--feed {spec.name}", spec, value)
    return State(
        input=spec.name, output=output, begin=value, axis=axis if axis is not None and value.shape[axis] == 1 else None
    )


def _cast(spec: InputSpec, value: NDArray[Any]) -> NDArray[Any]:
    """Return a value that was given as an option in the type of an input, if nothing is lost by that.

    Raises:
        DataError: if something is.
    """
    if spec.dtype is np.str_:
        if value.dtype.kind != "U":
            raise _unfit(f"--feed {spec.name}", spec, value)
        return value
    if value.dtype.kind == "U" or (value.dtype.kind == "b") != (spec.dtype is np.bool_):
        raise _unfit(f"--feed {spec.name}", spec, value)
    with np.errstate(all="ignore"):
        cast = value.astype(spec.dtype)
    if np.dtype(spec.dtype).kind != "f" and not np.array_equal(cast, value):
        raise _unfit(f"--feed {spec.name}", spec, value)
    return cast


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, have) for have, want in zip(shape, wanted, strict=True))


def _unfit(what: str, spec: InputSpec, values: NDArray[Any], steps: int = 0) -> DataError:
    kind = "string" if values.dtype.kind == "U" else values.dtype.name
    axes = ", with an axis for the steps behind that of the samples" if steps else ""
    return DataError(f"{what} is {kind} {list(values.shape)}, and the model's input takes {spec.described}{axes}")
