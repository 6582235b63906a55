"""The option `--junit`, and gates on the terminal."""

from collections.abc import Sequence

import click

from resq_deploy.api import GateVerdict
from resq_deploy.cli.shared import PATH
from resq_deploy.errors import FailedError

junit_option = click.option(
    "--junit", type=PATH, metavar="FILE", help="Write what became of the gates as JUnit XML, for CI servers."
)


def print_gates(option: str, verdicts: Sequence[GateVerdict]) -> None:
    """Print what became of gates.

    Args:
        option: that they were given by.
        verdicts: on the gates.

    Raises:
        FailedError: naming those that failed.
    """
    for verdict in verdicts:
        click.echo(f"gate {verdict.name}: {'passed' if verdict.passed else 'FAILED'} ({verdict.told})")
    failed = [f"{option} {verdict.name}: {verdict.told}" for verdict in verdicts if not verdict.passed]
    if failed:
        raise FailedError("; ".join(failed))
