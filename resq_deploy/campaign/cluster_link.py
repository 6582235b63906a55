"""Starting and reaching a Dask cluster. Dask is imported when one is used; it belongs to the extra `dask`."""

import asyncio
import concurrent.futures
import contextlib
import logging
import multiprocessing.resource_tracker
import signal
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
_CONNECT = 10.0


def dask() -> Any:
    """Return Dask's package for clusters.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError("--scheduler", "dask") from error
    return distributed


def check_scheduler(address: str | None) -> None:
    """Check that Dask is there and the scheduler can be reached, before anything takes time.

    Raises:
        MissingExtraError: if Dask is not installed.
        InputError: if the scheduler cannot be reached.
    """
    if address is None:
        return
    dask()
    if address == LOCAL:
        return
    with quiet(), concurrent.futures.ThreadPoolExecutor(1) as pool:  # the caller may have an event loop of its own
        try:
            kind = pool.submit(asyncio.run, _ask_kind(address)).result()
        except TimeoutError as error:
            raise InputError(_unreachable(address, f"no answer in {_CONNECT:.0f} s")) from error
        except Exception as error:  # of the network, of addresses, of TLS: they have no common base
            raise InputError(_unreachable(address, first_line(error))) from error
    if kind != "Scheduler":
        raise InputError(_unreachable(address, f"a Dask {kind.lower()} answers"))


@contextlib.contextmanager
def cluster(address: str, workers: int) -> "Iterator[Client]":
    """Connect to a cluster; `local` starts one of so many processes, which ends with the context.

    Raises:
        InputError: if the scheduler cannot be reached.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        if address == LOCAL:
            yield stack.enter_context(dask().Client(_started(workers, stack), set_as_default=False))
            return
        try:
            with warnings.catch_warnings():  # of versions that differ; those that matter are compared by us
                warnings.simplefilter("ignore")
                client = stack.enter_context(dask().Client(address, timeout=_CONNECT, set_as_default=False))
        except OSError as error:
            raise InputError(_unreachable(address, first_line(error))) from error
        yield client


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Dask's own messages off standard error: what matters of them is raised or said here."""
    dask()
    from dask import config

    with contextlib.ExitStack() as stack:
        for handler in logging.getLogger("distributed").handlers:
            stack.callback(handler.setLevel, handler.level)
            handler.setLevel(logging.CRITICAL + 1)
        stack.enter_context(warnings.catch_warnings())  # of what Ctrl-C kept Dask's event loop from starting
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        stack.enter_context(config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}))
        yield


def _started(workers: int, stack: contextlib.ExitStack) -> Any:
    """Start a scheduler and workers that only this machine can reach; they end with the stack."""
    from dask import config

    # Nobody else needs the room that is made by dropping copies, and workers would fetch them again in each round;
    # and nobody sees the profile that workers take of themselves a hundred times a second.
    unwanted = ("distributed.scheduler.active-memory-manager.start", "distributed.worker.profile.enabled")
    stack.enter_context(config.set(dict.fromkeys(unwanted, False)))
    # Without Dask's MALLOC_TRIM_THRESHOLD_: memory handed back after every batch is had anew, a page at a time.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1)
    stack.enter_context(config.set({"distributed.nanny.pre-spawn-environ": one_thread}))
    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "silence_logs": logging.CRITICAL,
        "memory_limit": 0,  # --memory bounds what a worker takes
        # A port of its own even without the dashboard, where Dask's fixed one may be in use.
        "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        "dashboard_address": None,
    }

    def start() -> Any:
        # What is started from here inherits this: a terminal's Ctrl-C is for the coordinator alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return dask().LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, **options)

    multiprocessing.resource_tracker.ensure_running()  # where it is started first, it lets Ctrl-C through again
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # Dask cannot break off its start, so Ctrl-C waits for it
        starting = pool.submit(start)
        stack.callback(lambda: starting.result().close())
        return starting.result()


async def _ask_kind(address: str) -> str:
    """Return what kind of Dask server answers at an address."""
    arguments = dask().Security().get_connection_args("client")
    async with asyncio.timeout(_CONNECT):  # the connection's own limit does not hold for one who never answers
        async with dask().rpc(address, connection_args=arguments, timeout=_CONNECT) as server:
            return str((await server.identity())["type"])


def _unreachable(address: str, reason: str) -> str:
    return (
        f"--scheduler {address!r}: no Dask scheduler can be reached there ({reason}); give the address that "
        "'dask scheduler' prints, such as tcp://host:8786, or local"
    )
