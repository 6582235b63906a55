"""Two fault campaigns side by side, in words: which differences are real, and which runs could not be paired."""

from collections.abc import Sequence

from resq_deploy.report.difference import Comparison, Difference, Single
from resq_deploy.report.document import Block, Section, Table
from resq_deploy.report.text import NONE, count, counted, listed, percent, points, probability

_RULE = (
    "Differences are second less first, in percentage points. The interval bounds the mean over further chips or "
    "faults on these images, whatever their distribution, and is wide where they are few; how many pairs differ which "
    "way, and between which differences half of them lie, describes the pairs that were drawn. p over units is that "
    "of the exact sign test for pairs - that as many further ones are higher as lower -, and of a permutation test "
    "for samples drawn apart; p over images is McNemar's. A difference is beyond chance if the larger of both stays "
    "below {alpha:g} after Holm's correction for the number of figures, and most pairs differ the way the mean does; "
    "without a test, if the interval leaves out 0. "
    "It is called real where that holds for further images, too; SDC-1, and figures of samples drawn in strata or "
    "apart, have no test over images, and tell of further faults on these images."
)


def comparison_sections(comparisons: Sequence[Comparison], singles: Sequence[Single]) -> list[Section]:
    """Return a section for each pair of runs, and one for those that have no partner."""
    sections = [_pair(comparison, explained=place > 0) for place, comparison in enumerate(comparisons)]
    if singles:
        told = [f"{single.run.label} was not compared: {single.reason}." for single in singles]
        blocks: list[Block] = ["Runs are paired only where they judged the same faults on the same images.", *told]
        sections.append(
            Section(
                title=f"Not compared: {listed([single.run.label for single in singles])}",
                topic="Comparison",
                blocks=blocks,
            )
        )
    return sections


def _pair(comparison: Comparison, *, explained: bool) -> Section:
    first, second = comparison.first, comparison.second
    alpha = 1.0 - first.confidence
    rows = [_row(one) for one in comparison.differences]
    sides = [first.label, second.label]
    headers = ["figure", *sides, "difference", "over", "pairs", "p over units", "p over images", "verdict"]
    blocks: list[Block] = [] if explained else [_RULE.format(alpha=round(alpha, 6))]
    blocks += [f"{_sentence(note)}." for note in comparison.notes]
    return Section(title=_finding(comparison), topic="Comparison", blocks=[*blocks, Table(headers=headers, rows=rows)])


def _finding(comparison: Comparison) -> str:
    beyond = [one for one in comparison.differences if one.real]
    real = [one for one in beyond if one.over_images]
    between = f"{comparison.second.label} against {comparison.first.label}"
    if not beyond:
        return f"{between}: no difference is beyond chance"
    largest = max(real or beyond, key=lambda one: abs(one.estimate.value))
    shown = f"{len(real or beyond)} of {counted(len(comparison.differences), 'difference')}"
    what = "real" if real else "beyond chance for further faults on these images"
    are = "is" if len(real or beyond) == 1 else "are"
    return f"{between}: {shown} {are} {what}, the largest in {_told(largest)}"


def _told(one: Difference) -> str:
    return f"{one.figure} ({points(one.estimate.as_dict())} points)"


def _row(one: Difference) -> list[str]:
    return [
        one.figure,
        percent(one.first.as_dict()),
        percent(one.second.as_dict()),
        points(one.estimate.as_dict()),
        count(one.estimate.n, one.unit),
        _pairs(one),
        probability(one.p_units),
        probability(one.p_images),
        one.verdict,
    ]


def _pairs(one: Difference) -> str:
    """Describe the pairs that were drawn."""
    if one.pairs is None:
        return NONE
    half = " to ".join(f"{100 * one.pairs[name]:+.3g}" for name in ("quarter", "three_quarters"))
    return f"{one.pairs['higher']:,} higher, {one.pairs['lower']:,} lower; half of them {half}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
