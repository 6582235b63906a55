"""Outputs of a file for some samples, as judges take them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
"""Outputs by name; the first axis is that of the samples.

One whose size differs from sample to sample is an object array [N] that holds an array a sample. Text is an object
array [N, ...] of strings.
"""

Flags = NDArray[np.bool_]
Labels = NDArray[Any]
Rows = NDArray[np.int64]


_PIECE = 2**21
"""Bytes of outputs that are judged at a time: what is read of them several times stays in the cache of the CPU."""


_LONG = 2**15
"""Values of a sample that are compared at a time."""


def take(outputs: Outputs, rows: Rows) -> dict[str, NDArray[Any]]:
    """Return the outputs for some of the samples, in the order given; not copied if these follow one another."""
    if len(rows) and (rows == np.arange(rows[0], rows[0] + len(rows))).all():
        return {name: values[rows[0] : rows[0] + len(rows)] for name, values in outputs.items()}
    return {name: values[rows] for name, values in outputs.items()}


def large(outputs: Outputs) -> bool:
    """Return whether outputs are too large to be judged at once."""
    return count(outputs) > 1 and _bytes(outputs) > _PIECE


def pieces(outputs: Outputs) -> list[dict[str, NDArray[Any]]]:
    """Return outputs a few samples at a time, in their order; views, all of them at once where they are not large."""
    total = count(outputs)
    size = max(1, _PIECE * total // max(_bytes(outputs), 1)) if large(outputs) else max(total, 1)
    starts = range(0, max(total, 1), size)
    return [{name: values[start : start + size] for name, values in outputs.items()} for start in starts]


def _bytes(outputs: Outputs) -> int:
    return sum(values.nbytes for values in outputs.values())


def ragged(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays of different sizes, one a sample, as one output: an object array [N]."""
    packed = np.empty(len(arrays), dtype=object)
    for place, array in enumerate(arrays):
        packed[place] = array
    return packed


def is_ragged(values: NDArray[Any]) -> bool:
    """Return whether an output holds an array a sample, rather than numbers or text."""
    return values.dtype == object and values.ndim == 1 and len(values) > 0 and isinstance(values[0], np.ndarray)


def flat(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values of each sample in one row, [N, ...] -> [N, K]."""
    return values.reshape(len(values), int(np.prod(values.shape[1:], dtype=np.int64)))


def same(golden: Outputs, faulty: Outputs) -> Flags:
    """Return for which samples all golden outputs are there bit by bit, NaN payloads and signs of zeros included, [N].

    Raises:
        ValueError: if an output has another type or shape than the golden one; sizes of single samples may differ.
    """
    equal = np.ones(count(golden), dtype=bool)
    for name, known in golden.items():
        found = faulty[name]
        if found.shape != known.shape or found.dtype != known.dtype:
            raise ValueError(f"output {name!r} of shape {list(found.shape)}, {found.dtype.name}")
        if known.dtype == object:
            equal &= np.array([_equal(one, other) for one, other in zip(known, found, strict=True)], dtype=bool)
        elif known.size:
            equal &= _equal_rows(_bits(known), _bits(found))
    return equal


def _equal_rows(left: NDArray[Any], right: NDArray[Any]) -> Flags:
    """Return which rows are equal; one that is long is looked at up to where it differs."""
    if left.shape[1] <= _LONG:
        equal: Flags = (left == right).all(axis=1)
        return equal
    starts = range(0, left.shape[1], _LONG)
    pairs = zip(left, right, strict=True)
    return np.array(
        [all(np.array_equal(one[at : at + _LONG], other[at : at + _LONG]) for at in starts) for one, other in pairs]
    )


def finite(outputs: Outputs) -> Flags:
    """Return which samples have finite outputs; integers, truth values and text always are, [N]."""
    good = np.ones(count(outputs), dtype=bool)
    for values in outputs.values():
        if is_ragged(values):
            good &= np.array([not _is_float(one) or bool(np.isfinite(one).all()) for one in values], dtype=bool)
        elif _is_float(values):
            good &= np.isfinite(flat(values)).all(axis=1)
    return good


def count(outputs: Outputs) -> int:
    """Return the number of samples."""
    return len(next(iter(outputs.values())))


def _is_float(values: NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(flat(values)).view(f"u{values.dtype.itemsize}")


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or one.dtype == object:
        return bool(np.array_equal(one, other))
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
