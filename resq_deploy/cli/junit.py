"""What became of gates as JUnit XML, which CI servers show test by test."""

import contextlib
import dataclasses
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence

import click

from resq_deploy.cli.shared import PATH, printable
from resq_deploy.errors import FailedError, OptionError

junit_option = click.option(
    "--junit", type=PATH, metavar="FILE", help="Write what became of the gates as JUnit XML, for CI servers."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One gate.

    Attributes:
        name: what was asked.
        passed: whether it was so; None where it was not looked at.
        told: the figure, the bound and the interval, in a line.
    """

    name: str
    passed: bool | None
    told: str


@contextlib.contextmanager
def junit_file(path: pathlib.Path | None, suite: str) -> Iterator[list[Case]]:
    """Write the cases that are added while this is entered, and, of work that failed, the failure as one more.

    What an earlier run left at `path` is removed first, so that no job reads its verdicts as those of this one. Work
    that was refused or interrupted has no verdicts, and leaves no file.

    Args:
        path: the file; None for none.
        suite: what was held against gates.

    Raises:
        OptionError: if the file cannot be written.
    """
    cases: list[Case] = []
    if path is None:
        yield cases
        return
    if path.is_dir():
        raise OptionError(f"--junit {path} is a folder: give a file, such as {path / 'gates.xml'}")
    path.unlink(missing_ok=True)
    try:
        yield cases
    except FailedError as error:
        if all(case.passed is not False for case in cases):
            cases.append(Case(name="the campaign ended well", passed=False, told=str(error)))
        _write(path, suite, cases)
        raise
    _write(path, suite, cases)


def print_gates(option: str, cases: Sequence[Case]) -> None:
    """Print what became of gates.

    Args:
        option: that they were given by.
        cases: the gates.

    Raises:
        FailedError: naming those that failed.
    """
    for case in cases:
        click.echo(f"gate {case.name}: {'passed' if case.passed else 'FAILED'} ({case.told})")
    failed = [f"{option} {case.name}: {case.told}" for case in cases if not case.passed]
    if failed:
        raise FailedError("; ".join(failed))


def _write(path: pathlib.Path, suite: str, cases: list[Case]) -> None:
    from resq_deploy.records import write_atomic

    write_atomic(path, as_xml(suite, cases))


def as_xml(suite: str, cases: list[Case]) -> str:
    """Return cases as a JUnit report of one suite."""
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.passed is False for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.passed is None for case in cases)),
    }
    root = ElementTree.Element("testsuites", counts)
    found = ElementTree.SubElement(root, "testsuite", {"name": printable(suite), **counts})
    for case in cases:
        named = {"classname": printable(suite), "name": printable(case.name)}
        one = ElementTree.SubElement(found, "testcase", named)
        if case.passed is True:
            ElementTree.SubElement(one, "system-out").text = printable(case.told)
        else:
            kind = "skipped" if case.passed is None else "failure"
            ElementTree.SubElement(one, kind, {"message": printable(case.told)})
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'
