"""Importing `module:function` of the user's: from the current directory too, and errors of theirs in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def importable_from_here() -> Iterator[None]:
    """Let modules of the current directory be imported, as `python -m` does, for a while."""
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        if directory in sys.path:  # the user's code may have changed the list
            sys.path.remove(directory)


def in_one_line(error: BaseException) -> str:
    """Return an error's type and message, whatever line ends it has."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
