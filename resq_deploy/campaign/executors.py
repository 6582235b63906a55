"""Evaluating many faults at the same time on this machine."""

import concurrent.futures
import os
from collections.abc import Callable, Generator, Iterable

from resq_deploy.campaign.record import Record

_AHEAD = 4  # faults handed out per worker: enough to keep it busy, few enough to stop soon


def worker_count(requested: int | None) -> int:
    """Return how many workers to use: what was asked for, else every core this process may run on."""
    return requested if requested is not None else len(os.sched_getaffinity(0))


def evaluate_all(evaluate: Callable[[int], Record], numbers: Iterable[int], workers: int) -> Generator[Record]:
    """Yield the record of each fault as it is ready, in no particular order.

    Threads suffice: onnxruntime releases Python's lock while it runs, and each session has one thread of its own.
    Leaving the iteration early (an error, Ctrl-C) drops what has not begun and waits for what has.
    """
    pending: set[concurrent.futures.Future[Record]] = set()
    waiting = iter(numbers)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(pending) < workers * _AHEAD and (number := next(waiting, None)) is not None:
                    pending.add(pool.submit(evaluate, number))
                if not pending:
                    return
                done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
