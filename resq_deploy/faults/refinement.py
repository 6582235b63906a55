"""Which faults to draw next where a finished sample tells too little: of rows of its tables, those with wide intervals.

A row is a part of the population, such as a role or a layer. Its faults are drawn from the strata that it has a part
in, as many as are expected to bring its margin; a fault counts for every row that it lies in. As with other phases, the
numbers are fixed before any fault of the phase is evaluated, and what was drawn before stays as it is, so that the
bounds hold (`stratified`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.allocation import next_phase
from resq_deploy.faults.stratified import Sample, estimate

_FIRST = 4
"""Faults of each stratum that a row is given where none fell on it."""

_STEPS = 20
"""Halvings of the margin between what a number of faults surely brings and what it does not."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A part of the population.

    Attributes:
        inside: which faults of the sample lie in it, shape [n].
        sizes: how many faults of each stratum's population lie in it, shape [strata].
    """

    inside: NDArray[np.bool_]
    sizes: Integers


def widths(values: Floats, sample: Sample, rows: Sequence[Row], confidence: float) -> Floats:
    """Return the half-width of each row's interval, shape [rows]; 1 where no fault fell on it.

    Args:
        values: rate of each fault, shape [n].
        sample: where the faults come from.
        rows: parts of its population.
        confidence: coverage of the intervals.
    """
    found = np.ones(len(rows))
    for place, row in enumerate(rows):
        if row.inside.any():
            within = sample.inside(row.inside, row.sizes)
            found[place] = estimate(values[row.inside], within, confidence).half_width
    return found


def for_margin(
    values: Floats, sample: Sample, rows: Sequence[Row], margin: float, confidence: float, images: int | None = None
) -> Integers:
    """Return how many faults of each stratum to draw, so that every row is expected to have a margin, shape [strata].

    Args:
        values: rate of each fault so far, shape [n].
        sample: where those faults come from.
        rows: parts of its population.
        margin: half-width wanted of every row.
        confidence: coverage wanted.
        images: on how many images the faults are judged; None for all.

    Returns:
        None are drawn where all rows have the margin, or nothing is left of those that have not.
    """
    wide = [row for row, width in zip(rows, widths(values, sample, rows, confidence), strict=True) if width > margin]
    return _together(values, sample, wide, margin, confidence, images)


def for_number(
    values: Floats, sample: Sample, rows: Sequence[Row], number: int, confidence: float, images: int | None = None
) -> Integers:
    """Return how many faults of each stratum to draw, so many in all, where rows are widest, shape [strata].

    They are those that are expected to bring the smallest margin that all rows can have; what that leaves over is
    shared out alike. Arguments as of `for_margin`.
    """
    reach = widths(values, sample, rows, confidence)
    low, high = 0.0, float(reach.max(initial=0.0))
    best = np.zeros(len(sample.sizes), dtype=np.int64)
    for _ in range(_STEPS):
        margin = (low + high) / 2
        wide = [row for row, width in zip(rows, reach, strict=True) if width > margin]
        counts = _together(values, sample, wide, margin, confidence, images)
        if counts.sum() <= number:
            best, high = counts, margin
        else:
            low = margin
    if not best.any():  # even the widest row alone asks for more
        best = _together(values, sample, [rows[int(reach.argmax())]], low, confidence, images)
    return _shared_out(number, best, sample.rest[-1])


def _together(
    values: Floats, sample: Sample, rows: Sequence[Row], margin: float, confidence: float, images: int | None
) -> Integers:
    """Return how many faults of each stratum bring the margin in all of these rows."""
    rest = sample.rest[-1]
    counts = np.zeros(len(rest), dtype=np.int64)
    for row in rows:
        within = sample.inside(row.inside, row.sizes)
        left = row.sizes - np.bincount(within.stratum, minlength=len(rest))
        if not left.any():
            continue
        if row.inside.any():
            wanted = next_phase(values[row.inside], within, margin, confidence, images=images)
        else:
            wanted = np.minimum(left, _FIRST)
        # Of the faults that are left in a stratum, these are so many times rarer.
        rarer = np.divide(rest, left, out=np.zeros(len(rest)), where=left > 0)
        drawn = np.ceil(np.round(wanted * rarer, 9)).astype(np.int64)
        counts = np.maximum(counts, np.minimum(drawn, rest))
    return counts


def _shared_out(number: int, like: Integers, rest: Integers) -> Integers:
    """Return whole numbers with this sum, or as near as what is left allows, in proportion to others."""
    counts = np.zeros_like(like)
    parts = np.where(like > 0, like, 0).astype(np.float64)
    while (open_ := parts * (counts < rest)).any() and counts.sum() < number:
        ideal = open_ / open_.sum() * (number - counts.sum())
        more = np.floor(ideal).astype(np.int64)
        if not more.any():  # the largest remainders, one each
            order = np.argsort(-ideal, kind="stable")[: int(number - counts.sum())]
            more[order] = open_[order] > 0
        counts = np.minimum(counts + more, rest)
    return counts
