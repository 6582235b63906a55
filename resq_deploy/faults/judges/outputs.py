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


def take(outputs: Outputs, rows: Rows) -> dict[str, NDArray[Any]]:
    """Return the outputs for some of the samples, in the order given; not copied if that is all of them."""
    if len(rows) == count(outputs) and (rows == np.arange(len(rows))).all():
        return dict(outputs)
    return {name: values[rows] for name, values in outputs.items()}


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
            equal &= (_bits(known) == _bits(found)).all(axis=1)
    return equal


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
