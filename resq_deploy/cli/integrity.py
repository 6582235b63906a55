"""How `inspect --check` and `--digests` are answered: from the bytes of a file, which need not load any more."""

import json
import pathlib

import click

from resq_deploy import api
from resq_deploy.api.words import printable
from resq_deploy.cli.shared import print_table

_MOST_RANGES = 3
_OUTSIDE = "(outside of all tensors)"


def check(model: pathlib.Path, against: pathlib.Path | None, as_json: bool) -> None:
    """Print what the digests of a file say of it.

    Raises:
        FailedError: if it is not what it was.
    """
    found = api.check_digests(model, against=against)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        rows = [
            (printable(each.tensor) or _OUTSIDE, each.role or "-", printable(each.layer) or "-", _told(each.ranges))
            for each in found.damaged
        ]
        if rows:
            print_table("Damaged", ("tensor", "role", "layer", "in bytes"), rows)
        click.echo(f"checked {model} against {found.against}: {printable(found.line)}")
    found.check()  # which says what can be done


def write_digests(model: pathlib.Path, out: pathlib.Path) -> None:
    """Write the digests of a file."""
    api.write_digests(model, out)
    click.echo(f"written: {out}; resq-deploy inspect {model} --check --against {out} compares the file with them")


def _told(ranges: "tuple[tuple[int, int], ...]") -> str:
    """Write ranges of bytes, the last one of each counted in."""
    parts = [f"{begin:,}-{end - 1:,}" for begin, end in ranges[:_MOST_RANGES]]
    more = len(ranges) - _MOST_RANGES
    return "; ".join([*parts, *([f"{more} more"] if more > 0 else [])])
