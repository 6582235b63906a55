"""Two fault campaigns side by side: what they share is paired, chip by chip, fault by fault and image by image.

Runs can be paired when they judged the same faults on the same images: the same data (SHA-256) and number of images,
fault model, roles, layers and bits. The files, and whether memory corrects errors, are what may differ. Random bit
errors are paired by chip: a chip has the same faults in all files with the same tensors. Other faults are paired
where both files were hit at the same bits; where they share too few, the populations are compared.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.statistics import (
    Estimate,
    apart,
    as_estimate,
    cluster,
    difference,
    holm,
    matched,
    mcnemar,
    paired_difference,
    permutation_p,
    sign_test,
    spread,
    ways,
)
from resq_deploy.report.fault_table import FaultTable, golden_right, read_faults, right_answers
from resq_deploy.report.runs import Run, arithmetic
from resq_deploy.report.text import rate as written

FEWEST_SHARED = 30
"""Fewer faults than this, hit in both files, are not compared one by one."""

_SAME: Sequence[tuple[str, Callable[[Run], Any]]] = (
    ("fault model", lambda run: run.summary["fault_model"]),
    ("data (SHA-256)", lambda run: run.digest("data")),
    ("arithmetic", lambda run: arithmetic(run)),
    ("number of images", lambda run: run.summary["golden"]["images"]),
    ("roles", lambda run: sorted(run.options.get("roles") or ["all"])),
    ("layers", lambda run: run.options.get("layers", "*")),
    ("bits", lambda run: run.options.get("bits") or "all"),
    ("length of bursts", lambda run: run.options.get("burst") if run.summary["fault_model"] == "burst" else None),
    ("fault list (SHA-256)", lambda run: run.digest("fault_list")),
    ("confidence", lambda run: run.confidence),
)
_NOTED: Sequence[tuple[str, Callable[[Run], Any]]] = (
    ("ECC", lambda run: run.options.get("ecc")),
    ("deployment", lambda run: run.options.get("deployment")),
    ("onnxruntime", lambda run: run.manifest["versions"].get("onnxruntime")),
    ("CPU features", lambda run: run.manifest.get("cpu_flags")),
)


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


def pair_up(campaigns: Sequence[Run]) -> tuple[list[tuple[Run, Run]], list[Single]]:
    """Pair each fault campaign with the first one given that it can be compared with.

    Returns:
        The pairs, and the campaigns that are in none; a campaign given alone is in neither.
    """
    pairs: list[tuple[Run, Run]] = []
    for place, run in enumerate(campaigns):
        reference = next((earlier for earlier in campaigns[:place] if obstacle(earlier, run) is None), None)
        if reference is not None:
            pairs.append((reference, run))
    paired = {id(run) for pair in pairs for run in pair}
    lonely = [run for run in campaigns if id(run) not in paired] if len(campaigns) > 1 else []
    return pairs, [Single(run=run, reason=_reason(run, campaigns)) for run in lonely]


def obstacle(first: Run, second: Run) -> str | None:
    """Return why two fault campaigns cannot be paired, or None where they can."""
    for what, value in _SAME:
        if value(first) != value(second):
            return f"{what}: {_told(value(first))} in {first.label}, {_told(value(second))} in {second.label}"
    return None


def _reason(run: Run, campaigns: Sequence[Run]) -> str:
    model = run.summary["fault_model"]
    alike = [other for other in campaigns if other is not run and other.summary["fault_model"] == model]
    if not alike:
        return f"no other run given has the fault model {model}"
    obstacles = [obstacle(other, run) for other in alike]
    return "; ".join(f"other {text}" for text in dict.fromkeys(obstacles) if text)


def _told(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] if len(text) == 64 else text


def compare(first: Run, second: Run) -> Comparison:
    """Compare two campaigns that can be paired.

    Raises:
        RunFolderError: if a table of faults or a store is missing or broken.
    """
    tables = read_faults(first), read_faults(second)
    right = golden_right(first), golden_right(second)
    found = [_clean(first, second, right)]
    notes = [
        f"{what}: {_told(value(first))} in {first.label}, {_told(value(second))} in {second.label}"
        for what, value in _NOTED
        if value(first) != value(second)
    ]
    pairing = _Pairing(first, second, *tables)
    if first.summary["fault_model"] == "ber":
        found += [pairing.at_rate(rate) for rate in pairing.rates()]
        notes += pairing.chip_notes()
    else:
        found += pairing.single_faults()
        notes += pairing.fault_notes()
    if right[0] is None or right[1] is None:
        notes.append("clean accuracy was compared without pairing images: no fault was masked on all of them")
    return Comparison(first=first, second=second, differences=_adjusted(found), notes=notes)


def _clean(first: Run, second: Run, right: tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]) -> Difference:
    """Compare the fault-free answers, image by image where they are known."""
    a, b = (as_estimate(run.summary["golden"]["accuracy"]) for run in (first, second))
    if right[0] is None or right[1] is None:
        unpaired = difference(a, b)
        return Difference(figure="clean accuracy", first=a, second=b, estimate=unpaired, unit="images, unpaired")
    changed = right[1] - right[0]
    estimate = matched(int((changed > 0).sum()), int((changed < 0).sum()), len(changed), a.confidence)
    return Difference(
        figure="clean accuracy", first=a, second=b, estimate=estimate, unit="images", p_images=mcnemar(changed)
    )


class _Pairing:
    """The faults two runs share."""

    def __init__(self, first: Run, second: Run, a: FaultTable, b: FaultTable) -> None:
        self._runs = first, second
        self._tables = a, b
        self._populations = _population(first), _population(second)
        self._confidence = first.confidence
        _, self._at_a, self._at_b = np.intersect1d(a.key, b.key, return_indices=True)

    def rates(self) -> list[float]:
        """Return the bit error rates both runs have."""
        return sorted(set(self._tables[0].ber[self._at_a].tolist()))

    def at_rate(self, rate: float) -> Difference:
        """Compare accuracy at one bit error rate, chip by chip."""
        chosen = self._tables[0].ber[self._at_a] == rate
        return self._accuracy(f"accuracy at {written(rate)}", self._at_a[chosen], self._at_b[chosen], "chips")

    def chip_notes(self) -> list[str]:
        """Say how many of the chips flipped the very same bits."""
        a, b = self._tables
        same = sum(a.mask[i] == b.mask[j] for i, j in zip(self._at_a, self._at_b, strict=True))
        if same != len(self._at_a):
            return [
                f"{same} of {len(self._at_a)} masks, one for each chip and rate, flip the very same bits; elsewhere "
                "the files differ in tensors, so that their chips are alike in rate only"
            ]
        rates = len(self.rates())
        at = "" if rates == 1 else f" at each of {rates} rates"
        every = "all" if same == len(self._tables[0]) == len(self._tables[1]) else "the shared"
        chips = f"{every} {same // rates} chips{at}" if rates and same % rates == 0 else f"{every} {same} masks"
        return [f"{chips} flip the very same bits in both files"]

    def single_faults(self) -> list[Difference]:
        """Compare SDC-1 and accuracy under a fault: over shared faults, over the populations, or over both."""
        found = [] if self._stand_for_all else self._of_populations()
        return [*found, *self._of_shared()] if self._enough_shared else found

    @property
    def _is_stratified(self) -> bool:
        return any(run.summary["design"] == "stratified" for run in self._runs)

    @property
    def _enough_shared(self) -> bool:
        """Whether enough faults are shared to be compared one by one, or all of them are."""
        shared = len(self._at_a)
        return shared >= FEWEST_SHARED or shared == len(self._tables[0]) == len(self._tables[1])

    @property
    def _stand_for_all(self) -> bool:
        """Whether shared faults are most of what either run saw, so that little is lost with the others."""
        fewest = min(len(table) for table in self._tables)
        return self._enough_shared and not self._is_stratified and 2 * len(self._at_a) >= fewest

    def fault_notes(self) -> list[str]:
        """Say how many faults are shared, and what is compared therefore."""
        sizes = [len(table) for table in self._tables]
        shared = f"{len(self._at_a):,} of {sizes[0]:,} and {sizes[1]:,} faults hit the same bits in both files"
        if self._enough_shared and self._is_stratified:
            return [f"{shared}; they were drawn in strata, so that figures over shared faults are about these alone"]
        if self._stand_for_all:
            return [f"{shared}: they are compared one by one"]
        few = "they are compared one by one" if self._enough_shared else "too few to compare them one by one"
        note = f"{shared}: {few}; the populations are compared, as drawn independently"
        if self._is_stratified:
            both = f"{100 * (2 * self._confidence - 1):g} %"
            return [f"{note}, by the furthest that their intervals allow, which holds with {both}"]
        return [f"{note}, by a permutation test"]

    def _of_populations(self) -> list[Difference]:
        found = []
        for figure, key in (("SDC-1", "sdc1"), ("accuracy under a fault", "accuracy")):
            given = [run.summary["rates"][key] if key == "sdc1" else run.summary[key] for run in self._runs]
            if None in given:
                continue
            a, b = map(as_estimate, given)
            rates = [getattr(table, key) for table in self._tables]
            judged = [r[~np.isnan(r)] for r in rates]
            estimate, tested = apart(a, b), None
            if not self._is_stratified:
                surer = (1.0 + self._confidence) / 2
                sides = zip(judged, self._populations, strict=True)
                estimate, tested = apart(*(cluster(r, size, surer) for r, size in sides)), permutation_p(*judged)
            unit = "faults, drawn independently"
            found.append(Difference(figure=figure, first=a, second=b, estimate=estimate, unit=unit, p_units=tested))
        return found

    def _of_shared(self) -> list[Difference]:
        at_a, at_b = self._at_a, self._at_b
        a, b = self._tables[0].sdc1[at_a], self._tables[1].sdc1[at_b]
        judged = ~(np.isnan(a) | np.isnan(b))
        found = []
        if judged.any():
            found.append(
                Difference(
                    figure="SDC-1, shared faults",
                    first=cluster(a[judged], self._populations[0], self._confidence),
                    second=cluster(b[judged], self._populations[1], self._confidence),
                    unit="shared faults",
                    **self._paired(b[judged] - a[judged]),
                )
            )
        return [*found, self._accuracy("accuracy, shared faults", at_a, at_b, "shared faults")]

    def _accuracy(self, figure: str, at_a: NDArray[np.intp], at_b: NDArray[np.intp], unit: str) -> Difference:
        a, b = self._tables[0].accuracy[at_a], self._tables[1].accuracy[at_b]
        sizes = (math.inf, math.inf) if unit == "chips" else self._populations
        counts = [
            right_answers(run, np.isin(np.arange(len(table)), at))
            for run, table, at in zip(self._runs, self._tables, (at_a, at_b), strict=True)
        ]
        return Difference(
            figure=figure,
            first=cluster(a, sizes[0], self._confidence),
            second=cluster(b, sizes[1], self._confidence),
            unit=unit,
            p_images=mcnemar(counts[1] - counts[0]),
            **self._paired(b - a),
        )

    def _paired(self, differences: NDArray[np.float64]) -> dict[str, Any]:
        """Return what pairs tell: the bound on their mean, what they look like, and the sign test."""
        higher, lower = ways(differences)
        return {
            "estimate": paired_difference(differences, self._confidence),
            "pairs": {"higher": higher, "lower": lower, **spread(differences)},
            "p_units": sign_test(differences),
        }


def _population(run: Run) -> float:
    """Return how many faults a run drew from evenly; without end where it did not, or that is not known."""
    size = run.summary["population"]["faults"]
    return math.inf if size is None or run.summary["design"] == "stratified" else float(size)


def _adjusted(found: Sequence[Difference]) -> list[Difference]:
    """Adjust p-values for their number; a figure must stand both tests it has, so that the larger p counts."""
    larger = [max((p for p in (one.p_units, one.p_images) if p is not None), default=None) for one in found]
    tested = [place for place, p in enumerate(larger) if p is not None]
    values = holm([p for p in larger if p is not None])
    changed = dict(zip(tested, values, strict=True))
    return [dataclasses.replace(one, p=changed.get(place)) for place, one in enumerate(found)]
