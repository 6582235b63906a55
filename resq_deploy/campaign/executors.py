"""Evaluating many faults at the same time: on this machine here, on a cluster in `cluster.py`."""

import concurrent.futures
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Protocol, Self

from resq_deploy.campaign.engines.testbed import Testbed
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record

AHEAD = 2  # portions handed out per worker: enough to keep it busy, few enough to stop soon


class Executor(Protocol):
    """Evaluates portions of a plan's faults, several at a time; a context manager."""

    @property
    def workers(self) -> int:
        """How many portions can be evaluated at a time; once the workers are ready."""

    def run(self, plan: Plan, portions: Iterable[list[int]], *, truth: bool = False) -> Generator[list[Record]]:
        """Yield the records of each portion as it is ready, in no particular order."""

    def __enter__(self) -> Self:
        """Get the workers ready."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the workers go."""


class Threads:
    """Workers that are threads of this process.

    Threads suffice: onnxruntime releases Python's lock while it runs, each session has one thread of its own, and
    golden activations are shared.

    Args:
        testbed: the engines.
        workers: how many threads.
    """

    def __init__(self, testbed: Testbed, workers: int) -> None:
        self._testbed = testbed
        self.workers = workers

    def run(self, plan: Plan, portions: Iterable[list[int]], *, truth: bool = False) -> Generator[list[Record]]:
        """Yield the records of each portion as it is ready, in no particular order.

        Leaving the iteration early (an error, Ctrl-C) drops what has not begun and waits for what has.
        """
        pending: set[concurrent.futures.Future[list[Record]]] = set()
        waiting = iter(portions)
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            try:
                while True:
                    while len(pending) < self.workers * AHEAD and (portion := next(waiting, None)) is not None:
                        pending.add(pool.submit(self._testbed.evaluate, plan, portion, truth=truth))
                    if not pending:
                        return
                    done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
