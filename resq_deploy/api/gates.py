"""What became of gates, and the same as JUnit XML, which CI servers show test by test."""

import contextlib
import dataclasses
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resq_deploy.api.given import PathLike, as_path
from resq_deploy.api.words import percent, printable
from resq_deploy.errors import FailedError, OptionError
from resq_deploy.records import write_atomic

_IN_PERCENT = ("outputs", "answers")
"""Gates of an export whose figure is a share, and no drop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """What became of one gate.

    Attributes:
        name: what was asked.
        passed: whether it was so; None where it was not looked at.
        told: the figure, the bound and the interval, in a line.
    """

    name: str
    passed: bool | None
    told: str


@contextlib.contextmanager
def junit(path: PathLike | None, suite: str) -> Iterator[list[GateVerdict]]:
    """Write the verdicts that are added while this is entered, and, of work that failed, the failure as one more.

    What an earlier run left at `path` is removed first, so that no job reads its verdicts as those of this one. Work
    that was refused or interrupted has no verdicts, and leaves no file.

    Example:
        >>> with rd.junit("gates.xml", "net.int8.onnx") as verdicts:
        ...     run = rd.faultcamp("net.int8.onnx", "digits", out="run", gates=["sdc1=0.01"])
        ...     verdicts += run.gates

    Args:
        path: the file; None for none.
        suite: what was held against gates.

    Raises:
        OptionError: if the file cannot be written.
    """
    verdicts: list[GateVerdict] = []
    if path is None:
        yield verdicts
        return
    target = as_path(path)
    if target.is_dir():
        raise OptionError(f"--junit {target} is a folder: give a file, such as {target / 'gates.xml'}")
    target.unlink(missing_ok=True)
    try:
        yield verdicts
    except FailedError as error:
        if all(verdict.passed is not False for verdict in verdicts):
            verdicts.append(GateVerdict(name="the campaign ended well", passed=False, told=str(error)))
        _write(target, suite, verdicts)
        raise
    _write(target, suite, verdicts)


def of_faults(gate: Mapping[str, Any]) -> GateVerdict:
    """Return what became of a gate of a fault campaign, as `summary.json` has it."""
    at = "" if gate["ber"] is None else f"@{gate['ber']:g}"
    found = percent(gate["estimate"]) if gate["estimate"] else "no fault that could be judged"
    told = f"{found}, bound {100 * gate['bound']:g} %"
    return GateVerdict(
        name=f"{gate['metric']}{at}={gate['bound']:g}",
        passed=gate["passed"],
        told=told if gate["passed"] else f"{told}; the upper end is above the bound",
    )


def of_audit(audit: Mapping[str, Any], confidence: float) -> GateVerdict:
    """Return what became of a fault campaign's audit, which is an error of its own where it fails."""
    if not audit["checked"]:
        return GateVerdict(name="faults equal reload-and-run", passed=None, told="no fault was audited")
    text = (
        f"audit: {audit['checked']} faults run again ({audit['evenly']} drawn evenly, others so that each of "
        f"{audit['groups']} groups of way, role and layer is visited), {audit['mismatches']} differ"
    )
    if audit["rules_out"]:
        text += f"; rules out more than {100 * audit['rules_out']:.2g} % wrong records (at {100 * confidence:g} %)"
    elif audit["rules_out"] is not None:
        text += "; no record was left out"
    return GateVerdict(name="faults equal reload-and-run", passed=True, told=text)


def of_attacks(gate: Mapping[str, Any]) -> GateVerdict:
    """Return what became of a gate of an attack campaign, as `summary.json` has it."""
    place = gate.get("severity") if gate["epsilon"] is None else gate["epsilon"]  # older runs know none
    at = "" if place is None else f"@{place}"
    bound = "" if gate["bound"] is None else f"={gate['bound']:g}"
    figure = [f"{percent(gate['estimate'])}, bound {100 * gate['bound']:g} %"] if gate["estimate"] else []
    told = "; ".join([*figure, *filter(None, [gate["reason"]])])
    return GateVerdict(name=f"{gate['metric']}{at}{bound}", passed=gate["passed"], told=told or "all checks passed")


def of_export(gate: Mapping[str, Any]) -> GateVerdict:
    """Return what became of a gate of an export, as the sidecar has it: its figure with its interval, and its bound."""
    if "not_run" in gate:
        return GateVerdict(name=gate["gate"], passed=None, told=gate["not_run"])
    figure = f"{gate['figure']:.2f} %" if gate["gate"] in _IN_PERCENT else f"drop {gate['figure']:.2f} points"
    drop = gate.get("drop")
    interval = f" [{100 * drop['low']:.2f}, {100 * drop['high']:.2f}]" if drop else ""
    told = f"{figure}{interval}, bound {gate['bound']:.2f}; on {gate['images_from']} images"
    return GateVerdict(name=gate["gate"], passed=gate["passed"], told=told)


def _write(path: pathlib.Path, suite: str, verdicts: Sequence[GateVerdict]) -> None:
    write_atomic(path, as_xml(suite, verdicts))


def as_xml(suite: str, verdicts: Sequence[GateVerdict]) -> str:
    """Return verdicts as a JUnit report of one suite."""
    counts = {
        "tests": str(len(verdicts)),
        "failures": str(sum(verdict.passed is False for verdict in verdicts)),
        "errors": "0",
        "skipped": str(sum(verdict.passed is None for verdict in verdicts)),
    }
    root = ElementTree.Element("testsuites", counts)
    found = ElementTree.SubElement(root, "testsuite", {"name": printable(suite), **counts})
    for verdict in verdicts:
        named = {"classname": printable(suite), "name": printable(verdict.name)}
        one = ElementTree.SubElement(found, "testcase", named)
        if verdict.passed is True:
            ElementTree.SubElement(one, "system-out").text = printable(verdict.told)
        else:
            kind = "skipped" if verdict.passed is None else "failure"
            ElementTree.SubElement(one, kind, {"message": printable(verdict.told)})
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'
