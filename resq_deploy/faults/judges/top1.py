"""`top1`: classifiers. The ladder of `faults.outcomes`, figure by figure."""

import copy
import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults import outcomes
from resq_deploy.faults.gaps import Codes
from resq_deploy.faults.judges.judge import Bench, Judge, option
from resq_deploy.faults.judges.outputs import Flags, Labels, Outputs, Rows, finite, flat, same, take
from resq_deploy.faults.judges.quality import Contributions
from resq_deploy.faults.judges.verdict import Verdict

_CONFIDENCE = ("sdc10", "sdc20", "sdc10_abs", "sdc20_abs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Top1(Judge):
    """One row of class scores a sample, [N, C] or [N, C, 1, 1]; the answer is the best class, ties to the lowest index.

    `confidence` says how a row becomes a confidence: it is one already (`given`), by softmax (`softmax`), or not at all
    (`none`: integers of an unknown scale), which leaves out the rungs that look at it.
    """

    name: ClassVar[str] = "top1"
    rungs: ClassVar[tuple[str, ...]] = ("sdc5", *_CONFIDENCE)

    confidence: str = option("auto", "given|softmax|none", "how scores become confidences; auto: told by the outputs")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("confidence", ("auto", "given", "softmax", "none"))

    def ladder(self, rated: bool) -> tuple[str, ...]:
        """Return the rungs that exist, in the order of `faults.outcomes.COUNTS`."""
        return tuple(
            name
            for name in outcomes.COUNTS
            if (rated or name not in ("corrected", "corrupted"))
            and (self.confidence != "none" or name not in _CONFIDENCE)
        )

    def settled(self, golden: Outputs) -> Self:
        """Return the judge with what a confidence is fixed by the golden outputs."""
        values = self.only(self.chosen(golden))
        scores = _scores(self, values)
        if self.confidence != "auto":
            return self
        if not np.issubdtype(values.dtype, np.floating):
            return dataclasses.replace(self, confidence="none")
        given = outcomes.are_probabilities(scores[np.isfinite(scores).all(axis=1)])
        return dataclasses.replace(self, confidence="given" if given else "softmax")

    def on(self, golden: Outputs, labels: Labels | None) -> Bench:
        """Return what judges faulty outputs of these samples; labels int [N]."""
        return _Ladder(self.settled(golden), golden, labels)


class _Ladder:
    """`outcomes.Judge` on the samples whose golden outputs are finite."""

    def __init__(self, judge: Top1, golden: Outputs, labels: Labels | None) -> None:
        self._judge = judge
        mine = judge.chosen(golden)
        scores = _scores(judge, judge.only(mine))
        self.usable: Flags = finite(mine) & np.isfinite(scores).all(axis=1)
        self._rows: Rows = np.flatnonzero(self.usable)
        self._known, scores = take(mine, self._rows), scores[self._rows]
        if labels is not None and (labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer)):
            raise DataError(f"judge top1 takes one class a sample, the labels are {labels.dtype.name} {labels.shape}")
        self._rated = labels is not None
        right = np.full(len(scores), -1, dtype=np.int64) if labels is None else labels[self._rows].astype(np.int64)
        self._compare = outcomes.Judge(scores, right, probabilities=judge.confidence == "given")
        self.golden: Verdict = self(mine)

    def __call__(self, faulty: Outputs, codes: Codes | None = None) -> Verdict:
        """Judge faulty outputs of the same samples, whose differences from the golden ones may be known, [N]."""
        name = self._judge.outputs[0]
        mine = take({name: faulty[name]}, self._rows)
        equal = same(self._known, mine) if codes is None else codes[self._rows] == 0
        judgement = self._compare(_scores(self._judge, mine[name]))
        flags = {rung: judgement.flags[rung] for rung in self._judge.ladder(self._rated)}
        # Two values of a wider type may be one float32, in which the ladder compares.
        flags["benign"] = flags["benign"] | (flags["masked"] & ~equal)
        flags["masked"] = equal
        right = judgement.right if self._rated else None
        rating = None if right is None else Contributions.even(right, np.ones(len(right)))
        verdict = Verdict(flags=flags, amounts={}, contributions=rating, right=right)
        return verdict.spread(self._rows, len(self.usable))

    def among(self, samples: Rows) -> "_Ladder":
        """Return what judges faulty outputs of some of the samples, in the order given; nothing is ranked again."""
        part = copy.copy(self)
        part.usable = self.usable[samples]
        part._rows = np.flatnonzero(part.usable)
        mine = (np.cumsum(self.usable) - 1)[samples[part.usable]]
        part._known, part._compare = take(self._known, mine), self._compare.among(mine)
        part.golden = self.golden.take(samples)
        return part


def _scores(judge: Top1, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return one row of scores a sample, [N, C]."""
    sizes = [size for size in values.shape[1:] if size != 1]
    if values.dtype == object or len(sizes) != 1:
        raise ModelError(
            f"judge top1 takes one row of two or more scores a sample; output {judge.outputs[0]!r} has shape "
            f"{list(values.shape)}: give another --judge (binary for one score, map for a row a position)"
        )
    with np.errstate(over="ignore"):  # what a wider type holds beyond float32 is infinite
        return flat(values).astype(np.float32, copy=False)
