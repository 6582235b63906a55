"""Two fault campaigns side by side: what they share is paired, chip by chip, fault by fault and image by image.

Runs can be paired when they judged the same faults on the same images: the same data (SHA-256) and number of images,
fault model, drawing, roles, layers and bits. The files, and whether memory corrects errors, are what may differ. Random
bit errors are paired by chip: a chip has the same faults in all files with the same tensors. Other faults are paired
where both files were hit at the same bits and judged on the same images; where they share too few, the populations are
compared. McNemar's test over images is left out where faults were judged on some of them each.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.statistics import (
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
from resq_deploy.report.difference import Comparison, Difference, Single
from resq_deploy.report.fault_table import FaultTable, golden_right, read_faults, right_answers
from resq_deploy.report.runs import Run, arithmetic, draws_layers, subsampled
from resq_deploy.report.task import clean, clean_told, knows_right_answers, quality, quality_name
from resq_deploy.report.text import counted
from resq_deploy.report.text import rate as written

FEWEST_SHARED = 30
"""Fewer faults than this, hit in both files, are not compared one by one."""

_SAME: Sequence[tuple[str, Callable[[Run], Any]]] = (
    ("judge", lambda run: run.summary.get("judge", {}).get("name", "top1")),
    ("options of the judge", lambda run: sorted(run.summary.get("judge", {}).get("options", {}).items())),
    ("fault model", lambda run: run.summary["fault_model"]),
    ("what is drawn evenly", lambda run: "layers" if draws_layers(run) else "bits"),
    ("data (SHA-256)", lambda run: run.digest("data")),
    ("arithmetic", lambda run: arithmetic(run)),
    ("number of images", lambda run: run.summary["golden"]["images"]),
    ("roles", lambda run: sorted(run.options.get("roles") or ["all"])),
    ("layers", lambda run: run.options.get("layers", "*")),
    ("bits", lambda run: run.options.get("bits") or "all"),
    ("length of bursts", lambda run: run.options.get("burst") if run.summary["fault_model"] == "burst" else None),
    ("which way bits flip", lambda run: run.summary.get("flip_direction", "both")),
    ("true cells", lambda run: run.summary.get("true_cells", "all")),
    ("seed, by which cells turn one way or the other", lambda run: run.options["seed"] if _drawn_cells(run) else None),
    ("memory layout", lambda run: run.options.get("memory_layout")),
    ("patterns of upsets", lambda run: run.options.get("cluster_shares")),
    ("fault list (SHA-256)", lambda run: run.digest("fault_list")),
    ("confidence", lambda run: run.confidence),
)
_NOTED: Sequence[tuple[str, Callable[[Run], Any]]] = (
    ("ECC", lambda run: run.options.get("ecc")),
    ("deployment", lambda run: run.options.get("deployment")),
    ("onnxruntime", lambda run: run.manifest["versions"].get("onnxruntime")),
    ("CPU features", lambda run: run.manifest.get("cpu_flags")),
)


def _drawn_cells(run: Run) -> bool:
    """Return whether the seed decides which way a strike turns a cell."""
    way, cells = (run.summary.get(name, "") for name in ("flip_direction", "true_cells"))
    by_seed = run.summary["fault_model"] != "ber"  # whose chips have their own
    return (by_seed and ":" in way) or bool(cells[:1].isdigit())


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
    found = _clean(first, second, right)
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
    if found and clean(first) and (right[0] is None or right[1] is None):
        notes.append("clean accuracy was compared without pairing images: no fault was masked on all of them")
    elif not clean(first) and quality_name(first):
        notes.append(f"{quality_name(first)} without faults is {clean_told(first)} and {clean_told(second)}")
    return Comparison(first=first, second=second, differences=_adjusted(found), notes=notes)


def _clean(
    first: Run, second: Run, right: tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]
) -> list[Difference]:
    """Compare the fault-free answers, image by image where they are known; not where there is no accuracy."""
    known = [accuracy for run in (first, second) if (accuracy := clean(run))]
    if len(known) < 2:
        return []
    a, b = map(as_estimate, known)
    if right[0] is None or right[1] is None:
        unpaired = difference(a, b)
        return [Difference(figure="clean accuracy", first=a, second=b, estimate=unpaired, unit="images, unpaired")]
    changed = right[1] - right[0]
    estimate = matched(int((changed > 0).sum()), int((changed < 0).sum()), len(changed), a.confidence)
    return [
        Difference(
            figure="clean accuracy", first=a, second=b, estimate=estimate, unit="images", p_images=mcnemar(changed)
        )
    ]


class _Pairing:
    """The faults two runs share."""

    def __init__(self, first: Run, second: Run, a: FaultTable, b: FaultTable) -> None:
        self._runs = first, second
        self._tables = a, b
        self._populations = _population(first), _population(second)
        self._confidence = first.confidence
        self._quality = quality_name(first) if quality_name(first) == quality_name(second) else None
        self._all_images = not (subsampled(first) or subsampled(second))
        self._seen = _least_share(a, first), _least_share(b, second)
        _, at_a, at_b = np.intersect1d(a.key, b.key, return_indices=True)
        alike = _same_images(first, second, a, b, at_a, at_b)
        self._elsewhere = int((~alike).sum())
        self._at_a, self._at_b = at_a[alike], at_b[alike]

    def rates(self) -> list[float]:
        """Return the bit error rates both runs have."""
        return sorted(set(self._tables[0].ber[self._at_a].tolist()))

    def at_rate(self, rate: float) -> Difference:
        """Compare quality at one bit error rate, chip by chip; SDC-1 where nothing is labelled."""
        chosen = self._tables[0].ber[self._at_a] == rate
        at_a, at_b = self._at_a[chosen], self._at_b[chosen]
        if self._quality is None:
            return self._sdc1(f"SDC-1 at {written(rate)}", at_a, at_b, "chips")
        return self._rated(f"{self._quality} at {written(rate)}", at_a, at_b, "chips")

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
        """Compare SDC-1 and quality under a fault: over shared faults, over the populations, or over both."""
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
        return [*self._notes_on_images(), *self._notes_on_faults()]

    def _notes_on_images(self) -> list[str]:
        """Say what fewer images than all leave out."""
        if self._all_images:
            return []
        notes = ["faults were judged on some of the images each, so that there is no test over images under faults"]
        if self._elsewhere:
            notes.append(
                f"{counted(self._elsewhere, 'further fault')} of both runs hit the same bits, but were judged on "
                "different images, and are not paired"
            )
        return notes

    def _notes_on_faults(self) -> list[str]:
        sizes = [len(table) for table in self._tables]
        where = "" if self._all_images else ", judged on the same images"
        shared = f"{len(self._at_a):,} of {sizes[0]:,} and {sizes[1]:,} faults hit the same bits in both files{where}"
        if self._enough_shared and self._is_stratified:
            return [f"{shared}; they were drawn in strata, so that figures over shared faults are about these alone"]
        if self._stand_for_all:
            return [f"{shared}: they are compared one by one"]
        few = "they are compared one by one" if self._enough_shared else "too few to compare them one by one"
        note = f"{shared}: {few}; the populations are compared, as drawn independently"
        if self._is_stratified:
            both = f"{100 * (2 * self._confidence - 1):g} %"
            return [f"{note}, by the furthest that their intervals allow, which holds with {both}"]
        return [f"{note}, {'by a permutation test' if self._exchangeable else 'by their intervals'}"]

    @property
    def _exchangeable(self) -> bool:
        """Whether equal faults have equal figures in both runs: those on fewer images scatter more."""
        numbers = {int(number) for table in self._tables for number in table.images[table.images > 0]}
        return self._all_images or len(numbers) == 1

    def _of_populations(self) -> list[Difference]:
        found = []
        for figure, key in (("SDC-1", "sdc1"), (f"{self._quality} under a fault", "quality")):
            given = [run.summary["rates"][key] if key == "sdc1" else quality(run.summary) for run in self._runs]
            known = [estimate for estimate in given if estimate]
            if len(known) < 2:
                continue
            a, b = map(as_estimate, known)
            rates = [getattr(table, key) for table in self._tables]
            judged = [r[~np.isnan(r)] for r in rates]
            estimate, tested = apart(a, b), None
            if not self._is_stratified:
                surer = (1.0 + self._confidence) / 2
                sides = zip(judged, self._populations, self._seen, strict=True)
                estimate = apart(*(cluster(r, size, surer, share=seen) for r, size, seen in sides))
                tested = permutation_p(*judged) if self._exchangeable else None
            unit = "faults, drawn independently"
            found.append(Difference(figure=figure, first=a, second=b, estimate=estimate, unit=unit, p_units=tested))
        return found

    def _of_shared(self) -> list[Difference]:
        at_a, at_b = self._at_a, self._at_b
        judged = ~(np.isnan(self._tables[0].sdc1[at_a]) | np.isnan(self._tables[1].sdc1[at_b]))
        found = []
        if judged.any():
            found.append(self._sdc1("SDC-1, shared faults", at_a[judged], at_b[judged], "shared faults"))
        if self._quality is not None:
            found.append(self._rated(f"{self._quality}, shared faults", at_a, at_b, "shared faults"))
        return found

    def _sdc1(self, figure: str, at_a: NDArray[np.intp], at_b: NDArray[np.intp], unit: str) -> Difference:
        a, b = self._tables[0].sdc1[at_a], self._tables[1].sdc1[at_b]
        if unit == "chips":  # one that no longer loads answers nothing as it should
            a, b = np.nan_to_num(a, nan=1.0), np.nan_to_num(b, nan=1.0)
        sizes = (math.inf, math.inf) if unit == "chips" else self._populations
        return Difference(
            figure=figure,
            first=cluster(a, sizes[0], self._confidence, share=self._seen[0]),
            second=cluster(b, sizes[1], self._confidence, share=self._seen[1]),
            unit=unit,
            **self._paired(b - a),
        )

    def _rated(self, figure: str, at_a: NDArray[np.intp], at_b: NDArray[np.intp], unit: str) -> Difference:
        a, b = self._tables[0].quality[at_a], self._tables[1].quality[at_b]
        sizes = (math.inf, math.inf) if unit == "chips" else self._populations
        return Difference(
            figure=figure,
            first=cluster(a, sizes[0], self._confidence, share=self._seen[0]),
            second=cluster(b, sizes[1], self._confidence, share=self._seen[1]),
            unit=unit,
            p_images=self._over_images(at_a, at_b),
            **self._paired(b - a),
        )

    def _over_images(self, at_a: NDArray[np.intp], at_b: NDArray[np.intp]) -> float | None:
        """Return McNemar's p-value over images; None where faults were judged on some of them each.

        None as well where quality is not made of right answers.
        """
        if not self._all_images or not all(map(knows_right_answers, self._runs)):
            return None
        counts = [
            right_answers(run, np.isin(np.arange(len(table)), at))
            for run, table, at in zip(self._runs, self._tables, (at_a, at_b), strict=True)
        ]
        return mcnemar(counts[1] - counts[0])

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


def _least_share(table: FaultTable, run: Run) -> float:
    """Return the least part of all images that any fault of a run was judged on."""
    judged = table.images[table.images > 0]
    return float(judged.min()) / int(run.summary["golden"]["images"]) if len(judged) and subsampled(run) else 1.0


def _same_images(
    first: Run, second: Run, a: FaultTable, b: FaultTable, at_a: NDArray[np.intp], at_b: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return which of the faults of both runs, by their places there, were judged on the same images."""
    whole = [
        table.parts[at] >= run.summary["images"]["parts"] if subsampled(run) else np.ones(len(at), dtype=bool)
        for run, table, at in ((first, a, at_a), (second, b, at_b))
    ]
    alike: NDArray[np.bool_] = whole[0] & whole[1]
    if subsampled(first) and subsampled(second) and _cut(first) == _cut(second):
        alike |= (a.share[at_a] == b.share[at_b]) & (a.parts[at_a] == b.parts[at_b])
    return alike


def _cut(run: Run) -> tuple[int, int]:
    return run.summary["images"]["of"], run.summary["images"]["parts"]


def _adjusted(found: Sequence[Difference]) -> list[Difference]:
    """Adjust p-values for their number; a figure must stand both tests it has, so that the larger p counts."""
    larger = [max((p for p in (one.p_units, one.p_images) if p is not None), default=None) for one in found]
    tested = [place for place, p in enumerate(larger) if p is not None]
    values = holm([p for p in larger if p is not None])
    changed = dict(zip(tested, values, strict=True))
    return [dataclasses.replace(one, p=changed.get(place)) for place, one in enumerate(found)]
