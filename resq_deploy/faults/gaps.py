"""How far faulty outputs lie from golden ones, sample by sample, in a byte each: what a self-test could see.

The largest difference of a sample over its outputs, each in the unit of the output's largest golden magnitude, is kept
as a small floating-point number: five bits of exponent and three of mantissa, rounded down. A code is therefore a
lower bound that is at most an eighth too low (but for the rounding of the outputs' own type), codes are in the order of
the differences, and every CPU gives the same. 0 stands for outputs that are bit-equal, `BEYOND` for what no tolerance
covers: NaN, infinity, another size, other text.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.judges.outputs import Flags, Outputs, Rows, count, take

Codes = NDArray[np.uint8]

BEYOND = 255
"""Code of a difference that no tolerance covers."""

_MANTISSA = 3
_SHIFT = 52 - _MANTISSA
_LOWEST = -28  # exponent of the least difference that is told from a smaller one
_FIRST = ((1023 + _LOWEST) << _MANTISSA) - 1  # the leading bits of a float64 are those of a code, this much higher
_WIDE = (np.dtype(np.float32), np.dtype(np.float64))
_CHUNK = 1 << 20  # values compared at a time
_IN_CACHE = 1 << 15  # of them at once, so that what is written is found in the cache


def scales(golden: Outputs) -> dict[str, float]:
    """Return the largest finite magnitude of each output over all samples; 1 where none is above 0, as of text."""
    return {
        name: max(map(_magnitude, values if _is_packed(values) else [values])) or 1.0 for name, values in golden.items()
    }


def gaps(golden: Outputs, faulty: Outputs, scale: Mapping[str, float], rows: Rows) -> Codes:
    """Return the code of each sample's largest difference, shape [N].

    Args:
        golden: outputs of the fault-free file, first axis: samples.
        faulty: outputs of the same samples, of the same types.
        scale: what each output is measured in.
        rows: the samples whose outputs are not bit-equal, ascending; the others have the code 0.
    """
    worst = np.zeros(len(rows), dtype=np.float64)
    for name, known in golden.items():
        found = faulty[name]
        size = max(1, int(np.prod(known.shape[1:], dtype=np.int64)))
        step = 1 if _is_packed(known) else max(1, _CHUNK // size)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            if _is_packed(known):
                differences = np.array([_largest(known[part[0]][None], found[part[0]][None])[0]])
            else:
                differences = _largest(*(take({name: values}, part)[name] for values in (known, found)))
            chunk = worst[start : start + step]
            np.maximum(chunk, differences / scale[name], out=chunk)
    codes = np.zeros(count(golden), dtype=np.uint8)
    codes[rows] = encoded(worst)
    return codes


def encoded(differences: NDArray[np.float64]) -> Codes:
    """Return the codes of differences between outputs that are not bit-equal, 0 and infinity among them."""
    leading = np.ascontiguousarray(differences, dtype=np.float64).view(np.int64) >> _SHIFT
    codes: Codes = np.clip(leading - _FIRST, 1, BEYOND - 1).astype(np.uint8)
    codes[~np.isfinite(differences)] = BEYOND
    return codes


def least(codes: Codes) -> NDArray[np.float64]:
    """Return the least difference that has each code; 0 for the smallest ones, whose differences may be nothing."""
    lead = (codes.astype(np.int64) + _FIRST) << _SHIFT
    values: NDArray[np.float64] = lead.view(np.float64).copy()
    values[codes <= 1] = 0.0
    values[codes == BEYOND] = np.inf
    return values


def at_least(codes: Codes, difference: float) -> Flags:
    """Return whether a difference is sure to be that large, by its code; as many bytes as there are codes."""
    every = np.arange(BEYOND + 1, dtype=np.uint8)
    found: Flags = (least(every) >= difference)[codes]
    return found


def most(codes: Codes) -> NDArray[np.float64]:
    """Return what the differences that have each code lie below, or at 0; infinity for what no tolerance covers."""
    bound = least(np.minimum(codes, BEYOND - 1) + np.uint8(1))
    return np.where(codes == 0, 0.0, np.where(codes >= BEYOND - 1, np.inf, bound))


def _is_packed(values: NDArray[np.generic]) -> bool:
    return values.dtype == object and values.ndim == 1 and len(values) > 0 and isinstance(values[0], np.ndarray)


def _magnitude(values: NDArray[np.generic]) -> float:
    if not _is_number(values):
        return 0.0
    with np.errstate(all="ignore"):
        sizes = np.abs(values.astype(np.float64))
    return float(sizes.max(initial=0.0, where=np.isfinite(sizes)))


def _largest(known: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the largest difference of each row, [n, ...] -> [n]; infinity where they cannot be compared."""
    if known.shape != found.shape or known.dtype != found.dtype:
        return np.full(len(known), np.inf)
    if not _is_number(known):
        unlike = (known != found).reshape(len(known), -1).any(axis=1)
        return np.where(unlike, np.inf, 0.0)
    wide = known.dtype if known.dtype in _WIDE else np.float64  # float32 itself: half the time, and near enough
    known, found = known.reshape(len(known), -1), found.reshape(len(found), -1)
    largest = np.zeros(len(known), dtype=np.float64)
    step = max(1, _IN_CACHE // max(len(known), 1))
    with np.errstate(all="ignore"):
        for start in range(0, known.shape[1], step):
            columns = slice(start, start + step)
            apart = np.subtract(found[:, columns], known[:, columns], dtype=wide)
            np.maximum(largest, np.abs(apart, out=apart).max(axis=1, initial=0.0), out=largest)
    return np.where(np.isnan(largest), np.inf, largest)


def _is_number(values: NDArray[np.generic]) -> bool:
    return values.dtype.kind in "fiub"
