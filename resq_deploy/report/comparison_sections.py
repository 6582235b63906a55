"""Two fault campaigns side by side, in words: which differences are real, and which runs could not be paired."""

from collections.abc import Sequence

from resq_deploy.report.compare import Comparison, Difference, Single
from resq_deploy.report.document import Block, Section, Table
from resq_deploy.report.text import count, listed, percent, points, probability

_RULE = (
    "Differences are second less first, in percentage points. Their intervals are over chips or faults, given the "
    "images; McNemar's test is over images. A difference is called real if its interval leaves out 0 and, where it was "
    "tested, the larger of both p-values stays below {alpha:g} after Holm's correction for the number of figures."
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
    alpha = 1.0 - first.summary["accuracy"]["confidence"]
    rows = [_row(one) for one in comparison.differences]
    headers = ["figure", first.label, second.label, "difference", "over", "p over units", "p over images", "verdict"]
    blocks: list[Block] = [] if explained else [_RULE.format(alpha=round(alpha, 6))]
    blocks += [f"{_sentence(note)}." for note in comparison.notes]
    return Section(title=_finding(comparison), topic="Comparison", blocks=[*blocks, Table(headers=headers, rows=rows)])


def _finding(comparison: Comparison) -> str:
    real = [one for one in comparison.differences if one.real]
    between = f"{comparison.second.label} against {comparison.first.label}"
    if not real:
        return f"{between}: no difference is beyond chance"
    largest = max(real, key=lambda one: abs(one.estimate.value))
    return (
        f"{between}: {len(real)} of {len(comparison.differences)} differences are real, the largest in {_told(largest)}"
    )


def _told(one: Difference) -> str:
    return f"{one.figure} ({100 * one.estimate.value:+.2g} points)"


def _row(one: Difference) -> list[str]:
    verdict = "higher" if one.estimate.value > 0 else "lower"
    return [
        one.figure,
        percent(one.first.as_dict()),
        percent(one.second.as_dict()),
        points(one.estimate.as_dict()),
        count(one.estimate.n, one.unit),
        probability(one.p_units),
        probability(one.p_images),
        f"{verdict}, real" if one.real else "not beyond chance",
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
