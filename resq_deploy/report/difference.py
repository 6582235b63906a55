"""What two fault campaigns differ in, figure by figure, and when a difference is real."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.faults.statistics import Estimate
from resq_deploy.report.runs import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure of two runs.

    Attributes:
        figure: what is compared.
        first: the figure of the first run.
        second: the figure of the second run.
        estimate: second less first, with its interval over units, given the images.
        unit: what `estimate.n` counts: chips, shared faults, images, or faults drawn independently.
        pairs: what the pairs look like - how many are higher, lower, and their spread; None where units are not paired.
        p_units: p-value over the units, by the sign test of pairs or a permutation test; None where the interval
            decides.
        p_images: McNemar's p-value over images, for figures of right answers where the images are known.
        p: the larger of both, adjusted for the number of figures of the comparison; None where no p-value is known.
    """

    figure: str
    first: Estimate
    second: Estimate
    estimate: Estimate
    unit: str
    pairs: Mapping[str, float] | None = None
    p_units: float | None = None
    p_images: float | None = None
    p: float | None = None

    @property
    def real(self) -> bool:
        """Whether the difference is beyond chance: for further units and, where tested, for further images.

        Tests decide where there are any, and of pairs most must differ the way the mean does; else the interval does.
        """
        return self._one_way and (self._apart if self.p is None else self.p <= self._alpha)

    @property
    def _alpha(self) -> float:
        return 1.0 - self.first.confidence

    @property
    def _apart(self) -> bool:
        return self.estimate.low > 0.0 or self.estimate.high < 0.0

    @property
    def _one_way(self) -> bool:
        most = 0.0 if self.pairs is None else self.pairs["higher"] - self.pairs["lower"]
        return most * self.estimate.value >= 0.0

    @property
    def over_images(self) -> bool:
        """Whether the verdict is about further images, too: they were tested, or are the units."""
        return self.p_images is not None or self.unit.startswith("images")

    @property
    def verdict(self) -> str:
        """The verdict in words, with what it holds for."""
        way = "higher" if self.estimate.value > 0 else "lower"
        if self.real:
            return f"{way}, real" if self.over_images else f"{way}, for further faults on these images"
        if (self.p_images or 0.0) > self._alpha >= (1.0 if self.p_units is None else self.p_units):
            return "not beyond chance for further images"
        return "not beyond chance"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "figure": self.figure,
            "first": self.first.as_dict(),
            "second": self.second.as_dict(),
            "difference": self.estimate.as_dict(),
            "unit": self.unit,
            "pairs": self.pairs,
            "p_units": self.p_units,
            "p_images": self.p_images,
            "p_adjusted": self.p,
            "real": self.real,
            "verdict": self.verdict,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What two runs differ in.

    Attributes:
        first: the run that comes first, the reference.
        second: the other one.
        differences: figure by figure, second less first.
        notes: what a reader must know to judge them.
    """

    first: Run
    second: Run
    differences: Sequence[Difference]
    notes: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Single:
    """A campaign that no other one can be paired with, and why."""

    run: Run
    reason: str
