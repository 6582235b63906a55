"""What the tools share: how an expected error becomes a line and an exit status."""

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence

from resq_deploy.errors import ResqError

Main = Callable[[Sequence[str] | None], int]


def with_one_line_errors(main: Main) -> Main:
    """Let a tool's `main` end with one line and an exit status where something given cannot be used."""
    name = pathlib.Path(main.__code__.co_filename).stem

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
