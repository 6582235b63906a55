"""Running the units of a campaign in several processes.

Processes, not threads: attacks of the toolbox draw from numpy's global random state.
"""

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

from resq_deploy.attacks.units import Attacked, Unit
from resq_deploy.errors import FailedError

Run = Callable[[Unit], Attacked]
if TYPE_CHECKING:
    Link = Connection[Any, Any]
else:
    Link = Connection


class Kit(Protocol):
    """All that a process needs to run units; it is sent to each worker once."""

    def opened(self) -> AbstractContextManager[Run]:
        """Load model and attacks for a while; gives what runs a unit, in one thread."""


def run_units(kit: Kit, units: Sequence[Unit], workers: int) -> Generator[tuple[Unit, Attacked]]:
    """Yield what came of each unit as it is ready, in no particular order.

    Leaving the iteration early (an error, Ctrl-C) stops the workers at once; what they were at is lost. A script that
    asks for several workers must be importable (`if __name__ == "__main__":`), as for any process that is spawned.

    Raises:
        ResqError: what a unit raised.
        FailedError: if a worker dies.
    """
    if not units:
        return
    if min(workers, len(units)) == 1:
        with kit.opened() as run:
            for unit in units:
                yield unit, run(unit)
        return
    waiting = iter(units)
    with _started(kit, min(workers, len(units))) as links:
        busy: dict[Link, Unit] = {}
        for link in links:
            _hand_out(waiting, link, busy)
        while busy:
            for ready in wait(list(busy)):
                link = next(link for link in busy if link is ready)
                unit, result = busy.pop(link), _answer(link)
                _hand_out(waiting, link, busy)
                yield unit, result


def _hand_out(waiting: Iterator[Unit], link: Link, busy: dict[Link, Unit]) -> None:
    """Give a worker the next unit, if there is one."""
    unit = next(waiting, None)
    if unit is None:
        return
    try:
        link.send(unit)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise _death() from error
    busy[link] = unit


def _answer(link: Link) -> Attacked:
    try:
        answer = link.recv()
    except (EOFError, ConnectionResetError) as error:
        raise _death() from error
    if isinstance(answer, BaseException):
        raise answer
    result: Attacked = answer
    return result


def _death() -> FailedError:
    return FailedError("a worker process died, most likely for lack of memory: --resume with fewer --workers")


@contextlib.contextmanager
def _started(kit: Kit, count: int) -> Iterator[list[Link]]:
    """Start workers, give a connection to each, and stop them at the end whatever they are at."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of onnxruntime and torch
    links, processes = [], []
    try:
        with _interrupts_ignored():
            for _ in range(count):
                link, other = context.Pipe()
                process = context.Process(target=_work, args=(kit, other), daemon=True)
                process.start()
                other.close()  # so that this end hears when the worker dies
                links.append(link)
                processes.append(process)
        yield links
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        for link in links:
            link.close()


def _work(kit: Kit, link: Link) -> None:
    """Run units until the campaign stops asking, or is no more."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), kit.opened() as run:
        while True:
            unit = link.recv()
            try:
                link.send(run(unit))
            except Exception as error:  # the campaign decides what becomes of it
                link.send(error)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes that are started meanwhile ignore Ctrl-C: the campaign stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signals
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
