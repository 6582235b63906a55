"""How many bytes each thing that engines hold may take, so that the process stays within its memory."""

import pathlib
import resource
import sys
from typing import NamedTuple

_OF_VALUES, _OF_SESSIONS, _OF_OUTPUTS = 0.5, 0.2, 0.25
"""Shares of the memory that is left; the rest is for batches on their way."""

_LEAST = 2**25


class Room(NamedTuple):
    """Bytes.

    Attributes:
        values: for golden values.
        sessions: for stored values in sessions.
        outputs: for the outputs of the faults of a portion, which are held until the last image is run.
    """

    values: int
    sessions: int
    outputs: int

    @classmethod
    def of(cls, memory: int, stored: int, given: int) -> "Room":
        """Divide up what a process does not use yet of the memory that it may.

        What sessions and outputs leave of their shares goes to golden values.

        Args:
            memory: bytes that it should stay within.
            stored: bytes that sessions can come to.
            given: bytes that outputs can come to.
        """
        used = _used()
        values, sessions, outputs = (
            max(int(share * (memory - used)), _LEAST) for share in (_OF_VALUES, _OF_SESSIONS, _OF_OUTPUTS)
        )
        return cls(values + max(0, sessions - stored) + max(0, outputs - given), sessions, outputs)


def _used() -> int:
    """Return the bytes that the process takes now; the most it has taken so far where the system does not tell.

    An earlier campaign of the same process, as those of a study are, has given back what it held.
    """
    try:
        pages = pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(pages) * resource.getpagesize()
