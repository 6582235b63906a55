"""What the tools share: how an expected error becomes a line and an exit status."""

import functools
import inspect
import pathlib
import sys
from collections.abc import Sequence
from typing import Protocol

from resq_deploy.errors import ResqError


class Main(Protocol):
    """A tool's `main`: takes a command line, or the process's own, and returns an exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run the tool."""
        ...


def with_one_line_errors(main: Main) -> Main:
    """Let a tool's `main` end with one line and an exit status where something given cannot be used."""
    name = pathlib.Path(inspect.getfile(main)).stem

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except ResqError as error:
            print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
            return error.exit_status
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return 130

    return run
