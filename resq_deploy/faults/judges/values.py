"""`values`: numbers that are used as they are: regression, autoencoders, masks, and all that no other judge fits."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import ModelError
from resq_deploy.faults.judges.judge import Answers, Judge, Weighed, option
from resq_deploy.faults.judges.outputs import Flags, Labels, Outputs, Rows, flat, is_ragged
from resq_deploy.faults.judges.quality import Contributions

Numbers = NDArray[Any]

_LEAST = 1e-200  # of a sum of squares that is taken as it is
_BLOCK = 2**18  # numbers at a time, so that their float64 stay in the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Values(Judge):
    """Numbers; sdc1: their relative error is beyond a bound.

    The error of a sample is ||faulty - golden|| / ||golden|| over all outputs together (`norm` l2), or the largest
    difference against the largest golden magnitude (`norm` max); with `each`, the worst output's own error, which is
    what to ask where outputs have unlike units. Where golden is all zero, any difference is beyond every bound.

    With labels of the one output's size, `within`: the share of samples whose error against them is within the bound.
    """

    name: ClassVar[str] = "values"

    bound: float = option(0.1, "relative error", "sdc1 beyond it")
    norm: str = option("l2", "l2|max", "how an error is measured")
    each: bool = option(False, "yes or no", "each output by itself, the worst counts")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("norm", ("l2", "max"))

    @property
    def figure(self) -> str:
        """The name of its quality figure with labels."""
        return "within"

    def settled(self, golden: Outputs) -> Self:
        """Return the judge itself: nothing is left open."""
        for name, values in self.chosen(golden).items():
            if values.dtype.kind not in "fiub" and not is_ragged(values):
                raise ModelError(f"judge values takes numbers, output {name!r} is text: leave it out with --outputs")
        return self

    def read(self, outputs: Outputs) -> Answers:
        """Return the outputs."""
        return {name: outputs[name] for name in self.outputs}

    def blanked(self, answers: Answers, rows: Rows) -> Answers:  # noqa: ARG002 - none needs to be changed
        """Return answers as they are: an error that is not finite is within no bound."""
        return answers

    def weigh(self, golden: Answers, found: Answers, labels: Labels | None) -> Weighed:
        """Return whose error is beyond the bound; labels [N, ...] of the one output's size, others rate nothing."""
        first, rating = found[self.outputs[0]], None
        rates = labels is not None and labels.dtype.kind in "fiub" and labels.size == first.size and labels.ndim > 0
        if labels is not None and rates and len(self.outputs) == 1 and first.dtype != object:
            right = self._within({"": labels.reshape(first.shape)}, {"": first})
            rating = Contributions.even(right, np.ones(len(right)))
        return Weighed(sdc1=~self._within(golden, found), contributions=rating)

    def _within(self, golden: Answers, found: Answers) -> Flags:
        """Return whose error is within the bound, shape [N]."""
        with np.errstate(all="ignore"):  # errors that are not finite are within no bound
            parts = [self._parts(golden[name], found[name]) for name in golden]
            error, size = np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])
            if not self.each:
                together = np.linalg.norm if self.norm == "l2" else np.max
                error, size = together(error, axis=0)[None], together(size, axis=0)[None]
            inside: Flags = ((error == 0) | (error / size <= self.bound)).all(axis=0)
        return inside

    def _parts(self, golden: Numbers, found: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return size of the difference and of golden, of one output, shape [N] each."""
        if golden.dtype != object:
            step = max(1, _BLOCK // max(1, flat(golden).shape[1]))
            blocks = [slice(start, start + step) for start in range(0, len(golden), step)] or [slice(0)]
            error = [self._size(_difference(golden[block], found[block])) for block in blocks]
            return np.concatenate(error), np.concatenate([self._size(_wide(golden[block])) for block in blocks])
        fits = [one.shape == other.shape and one.dtype != object for one, other in zip(golden, found, strict=True)]
        unlike = np.array([np.inf])
        error = [
            self._size(_difference(one[None], other[None])) if fit else unlike
            for one, other, fit in zip(golden, found, fits, strict=True)
        ]
        size = [self._size(_wide(one[None])) for one in golden]
        return np.concatenate([np.empty(0), *error]), np.concatenate([np.empty(0), *size])

    def _size(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = flat(values)
        if self.norm == "max":
            largest: NDArray[np.float64] = np.abs(rows).max(axis=1, initial=0.0)
            return largest
        squares = np.einsum("nk,nk->n", rows, rows)
        size: NDArray[np.float64] = np.sqrt(squares)
        for row in np.flatnonzero(~((squares > _LEAST) & (squares < 1 / _LEAST))):  # squares over- or underflow
            scale = np.abs(rows[row]).max(initial=0.0)
            size[row] = scale * np.linalg.norm(rows[row] / scale) if scale > 0 else scale
        return size


def _difference(golden: Numbers, found: Numbers) -> NDArray[np.float64]:
    return _wide(found) - _wide(golden)


def _wide(values: Numbers) -> NDArray[np.float64]:
    return values.astype(np.float64)
