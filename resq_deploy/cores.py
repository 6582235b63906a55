"""The processor cores that this process may use."""

import os


def usable_cores() -> list[int]:
    """Return the numbers of the cores this process may run on; all of them where the system knows no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS


def keep_to(cores: set[int]) -> None:
    """Have this thread, and the processes it starts, run on some cores alone, where the system knows affinity."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
