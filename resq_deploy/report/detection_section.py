"""What a file that reports its own health says of faults: how many of those that do harm it tells."""

from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.report.document import Block, Section, Table
from resq_deploy.report.runs import Run
from resq_deploy.report.task import judged_on
from resq_deploy.report.text import NONE, count, percent, rate

_ABOUT = (
    "The file has an output that counts, when it is loaded, code words and votes that were corrected and words that "
    "cannot be. A fault is detected if that is another report than the fault-free file's. Diagnostic coverage "
    "(ISO 26262) is the share of failing faults, those that change any answer, that are detected; files that no longer "
    "load or run are not among them. Where a fault is taken for a smaller one, a word is reported as corrected that is "
    "not: the last column counts only faults that are reported as uncorrectable."
)
_AT_LEAST = (
    "A fault that fails on none of these may fail on others, and those that were seen to fail are rather the ones that "
    "fail on many: their number is a lower bound, and diagnostic coverage takes --images-per-fault all. Of wrong "
    "answers, the rates sdc1_detected and sdc1_silent tell how many are detected."
)
_HEADERS = (
    "detected, of all faults",
    "failing faults seen",
    "diagnostic coverage",
    "diagnostic coverage, as uncorrectable",
)


def detection_section(run: Run) -> Section:
    """Return the section on what one run's file detects."""
    if "curve" in run.summary:
        points = run.summary["curve"]
        rows = [[rate(point["ber"]), *_row(point["detection"])] for point in points]
        what, told = "bit error rate", [(f" at {rate(point['ber'])}", point["detection"]) for point in points]
    else:
        found = run.summary["detection"]
        rows = [["all", *_row(found)], *([role, *_row(part)] for role, part in found["by_role"].items())]
        what, told = "role", [("", found)]
    blocks: list[Block] = [_ABOUT]
    if any(detection.get("at_least") for _, detection in told):
        blocks.append(f"{judged_on(run)} {_AT_LEAST}")
    blocks.append(Table(headers=[what, *_HEADERS], rows=rows))
    return Section(title=f"{run.label}: {_told(told)}", topic="Detection", blocks=blocks)


def _told(found: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Say what is detected, at the highest bit error rate at which anything fails if there are several."""
    covered = [(at, detection["diagnostic_coverage"]) for at, detection in found if detection["diagnostic_coverage"]]
    if covered:
        at, coverage = covered[-1]
        return f"{percent(coverage)} of the failing faults are detected{at}"
    judged = [(at, detection["detected"]) for at, detection in found if detection["detected"]]
    if not judged:
        return "no fault could be judged"
    at, detected = judged[-1]
    if any(detection.get("at_least") for _, detection in found):
        return f"{percent(detected)} of the faults are detected{at}"
    return f"no fault changed an answer; {percent(detected)} of them are detected{at}"


def _row(found: Mapping[str, Any]) -> list[str]:
    covered = [found["diagnostic_coverage"], found["diagnostic_coverage_uncorrectable"]]
    shares = [percent(share) if share else NONE for share in covered]
    seen = count(found["failing"])
    return [percent(found["detected"]), f"at least {seen}" if found.get("at_least") else seen, *shares]
