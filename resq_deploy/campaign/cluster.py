"""Evaluating faults on a Dask cluster: the campaign's values are sent once, this process alone writes the results.

What a campaign needs travels as results of Dask tasks that take no input, not as scattered data: a worker that comes
later gets them from another one, and where all that held them have died, Dask runs those tasks again. Dask itself
reruns the faults a dead worker had; what it gives up on is handed out anew here, a few times.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import queue
import time
import uuid
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from resq_deploy.campaign import cluster_worker
from resq_deploy.campaign.cluster_link import LOCAL, cluster, dask
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.executors import AHEAD, Executor, Threads
from resq_deploy.campaign.options import LEAST_MEMORY
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.stretches import Stretches
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.errors import FailedError, InputError
from resq_deploy.records import provenance

if TYPE_CHECKING:
    from distributed import Future

_PATIENCE = 60.0  # seconds without any worker before the campaign gives up
_LOOK = 1.0  # seconds between two looks at the cluster
_TRIES = 3  # of a task that Dask has given up on; each is several dead workers

Say = Callable[[str], None]
Start = Callable[[str], "Future"]
"""Starts a task, given the worker that had better do it."""


class _Task(NamedTuple):
    future: "Future"
    start: Start
    worker: str
    tries: int


def executor_for(kit: Kit, testbed: Testbed, workers: int, say: Say) -> Executor:
    """Return what evaluates a campaign's faults: threads of this process, or a Dask cluster.

    Args:
        kit: what the workers' engines are built from.
        testbed: this process's engines.
        workers: how many threads, or processes where Dask is started here.
        say: told what the cluster is waited for.
    """
    if kit.options.scheduler is None:
        return Threads(testbed, workers)
    return Cluster(kit, kit.options.scheduler, workers, say)


class Cluster:
    """Workers that are processes of a Dask cluster.

    Args:
        kit: what the workers' engines are built from.
        address: of the scheduler; `local` for a cluster on this machine, which lives as long as the context.
        workers: how many processes a local cluster has.
        say: told what the cluster is waited for.
    """

    def __init__(self, kit: Kit, address: str, workers: int, say: Say) -> None:
        self._local = address == LOCAL
        self._where = "on this machine" if self._local else f"at {address}"
        self._address = address
        self._processes = workers
        if self._local:  # they share what the campaign may use
            memory = max(kit.options.memory // workers, LEAST_MEMORY)
            kit = dataclasses.replace(kit, options=dataclasses.replace(kit.options, memory=memory, workers=1))
        self._values = cluster_worker.Values(uuid.uuid4().hex, cluster_worker.terms(kit.options.deployment), kit)
        self._say = say

    def __enter__(self) -> Self:
        self._sent: dict[str, tuple[object, Future]] = {}
        self._threads: dict[str, int] = {}
        self._looked, self._alone_since = -math.inf, math.inf
        with contextlib.ExitStack() as stack:
            self._client = stack.enter_context(cluster(self._address, self._processes))
            stack.callback(self._sent.clear)
            self._await_worker()
            self._check_workers()
            stack.callback(self._dismiss)
            for _ in self._collect([self._get_ready] * len(self._threads)):
                pass
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def workers(self) -> int:
        """How many threads the cluster has by now; one where it has lost all."""
        self._look()
        return max(1, sum(self._threads.values()))

    def run(self, plan: Plan, portions: Iterable[list[int]], *, truth: bool = False) -> Generator[list[Record]]:
        """Yield the records of each portion as it is ready, in no particular order.

        Leaving the iteration early (an error, Ctrl-C) drops what has not begun, and what has goes unheard.

        Raises:
            FailedError: if no worker is left, or the scheduler is gone.
            ResqError: whatever a worker raises.
        """
        yield from self._collect(
            [functools.partial(self._evaluate, plan, tuple(portion), truth) for portion in portions]
        )

    # Handing out tasks.

    def _evaluate(self, plan: Plan, numbers: tuple[int, ...], truth: bool, worker: str) -> "Future":
        values, sent = self._send("values", self._values), self._send("plan", plan)
        return self._submit(cluster_worker.evaluate, values, sent, numbers, truth, **_rather(worker))

    def _get_ready(self, worker: str) -> "Future":
        return self._submit(cluster_worker.warm_up, self._send("values", self._values), **_rather(worker))

    def _submit(self, function: Callable[..., Any], *arguments: Any, **where: Any) -> "Future":
        return self._client.submit(function, *arguments, pure=False, **where)

    def _send(self, name: str, value: object) -> "Future":
        """Return a value as the result of a task: the last one of this name, if it is of this very object.

        A task that came to nothing is made anew.
        """
        held, future = self._sent.get(name, (None, None))
        if future is None or held is not value or future.status not in ("pending", "finished"):
            future = self._submit(cluster_worker.as_it_is, value)
            self._sent[name] = (value, future)
        return future

    def _collect(self, starts: Iterable[Start]) -> Generator[Any]:
        """Start tasks, a few for each thread of the cluster at a time, and yield what they give as it comes."""
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        pending: dict[str, _Task] = {}
        waiting = Stretches(starts)

        def begin(start: Start, worker: str, tries: int) -> None:
            future = start(worker)
            pending[future.key] = _Task(future, start, worker, tries)
            future.add_done_callback(lambda done: ended.put(done.key))

        try:
            while True:
                self._look()
                while waiting and (worker := self._freest(pending.values())) is not None:
                    begin(waiting.take(worker), worker, 1)
                if not pending and not waiting:
                    return
                with contextlib.suppress(queue.Empty):
                    task = pending.pop(ended.get(timeout=_LOOK))
                    try:
                        yield self._result(task.future)
                    except _LostError as error:
                        if task.tries == _TRIES:
                            raise FailedError(_given_up(error)) from error
                        self._look(at_once=True)
                        begin(task.start, task.worker, task.tries + 1)
        finally:
            self._drop([task.future for task in pending.values()])

    def _freest(self, pending: Iterable[_Task]) -> str | None:
        """Return the worker with the most room for another task; None if none has any."""
        room = {worker: AHEAD * threads for worker, threads in self._threads.items()}
        for task in pending:
            if task.worker in room:
                room[task.worker] -= 1
        best = max(room, key=lambda worker: room[worker], default=None)
        return best if best is not None and room[best] > 0 else None

    def _result(self, future: "Future") -> Any:
        """Return what a task that has ended gives; Dask may have to run it again, if its worker died just now.

        Raises:
            _LostError: if Dask gave up on it.
            InputError: if scheduler or worker could not read it.
            Exception: whatever the task raised.
        """
        distributed = dask()
        while True:
            try:
                return future.result(timeout=_LOOK)
            except (distributed.KilledWorker, concurrent.futures.CancelledError) as error:
                raise _LostError(first_line(error)) from error
            except TimeoutError:
                if future.status == "error":
                    raise
                self._look()
            except (ImportError, RuntimeError) as error:
                if isinstance(error, ImportError) or "deserializ" in str(error):
                    raise InputError(_unreadable(f"cluster {self._where}", error)) from error
                raise

    def _drop(self, futures: "list[Future]") -> None:
        if futures and self._client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                self._client.cancel(futures)

    # Watching the cluster.

    def _look(self, *, at_once: bool = False) -> None:
        """Find out about the cluster's threads, if the last time is a while ago.

        Raises:
            FailedError: if there has been no worker for too long, or the scheduler is gone.
        """
        now = time.monotonic()
        if not at_once and now < self._looked + _LOOK:
            return
        while self._client.status == "connecting":  # it gives up by itself
            time.sleep(0.1)
        try:
            if self._client.status != "running":
                raise OSError
            self._threads = self._client.nthreads()
        except OSError as error:
            raise FailedError(f"lost the Dask scheduler {self._where}: start it again and give --resume") from error
        self._looked = now
        if self._threads:
            self._alone_since = math.inf
        elif self._alone_since == math.inf:
            self._alone_since = now
            self._say(f"no Dask worker {self._where}: waiting {_PATIENCE:.0f} s for one")
        elif now > self._alone_since + _PATIENCE:
            mend = f"start some with 'dask worker {self._address}'"
            if self._local:
                mend = "they die again and again, of too little memory perhaps: give fewer --workers"
            raise FailedError(f"no Dask worker {self._where} for {_PATIENCE:.0f} s: {mend}; then --resume")

    def _await_worker(self) -> None:
        self._look()
        while not self._threads:
            time.sleep(_LOOK)
            self._look()

    def _check_workers(self) -> None:
        """Check that all workers would compute the same figures as this process.

        A worker that comes later checks itself.
        """
        deployment = self._values.kit.options.deployment
        for worker, terms in self._client.run(cluster_worker.terms, deployment, on_error="return").items():
            if isinstance(terms, OSError):  # it died, which is for Dask to handle
                continue
            if isinstance(terms, Exception):
                raise InputError(_unreadable(f"worker {worker}", terms))
            cluster_worker.compare(self._values.terms, terms, worker)

    def _dismiss(self) -> None:
        """Let the workers' memory go."""
        if not self._local and self._client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                self._client.run(cluster_worker.forget, self._values.token, on_error="ignore")


def _rather(worker: str) -> dict[str, Any]:
    """Return where a task had better run; others may do it, lest the campaign waits for a worker that died."""
    return {"workers": [worker], "allow_other_workers": True}


class _LostError(Exception):
    """Dask gave up on a task through no fault of the task's; the reason is for people to read."""


def _given_up(error: Exception) -> str:
    return f"Dask lost a task {_TRIES} times: find what ends its workers, memory perhaps, then --resume ({error})"


def _unreadable(where: str, error: Exception) -> str:
    version = provenance()["versions"]["resq-deploy"]
    reason = " ".join(str(error).split())
    return f"the Dask {where} cannot load the campaign: install resq-deploy {version} there, too ({reason})"
