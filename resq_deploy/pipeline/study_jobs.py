"""Running the steps of a study: several at once where they do not need each other, each on cores of its own."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import FrameType
from typing import IO, Self

from resq_deploy.cores import keep_to, usable_cores
from resq_deploy.errors import OptionError
from resq_deploy.pipeline.study_steps import Step

LOGS = "logs"

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: outlives exec
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the study has ended")
os.execv(sys.executable, [sys.executable, "-m", "resq_deploy", *sys.argv[2:]])
"""
"""Run as the command, but ended when the study is killed with no time to say so, as by kill -9.

A step left behind would hold its run folder against the study that goes on. Popen's `preexec_fn` could do the same, but
is not safe where there are threads."""


def core_shares(jobs: int) -> list[set[int]]:
    """Share this process's cores out among jobs, as evenly as they go.

    Raises:
        OptionError: if there are more jobs than cores.
    """
    cores = usable_cores()
    if jobs > len(cores):
        raise OptionError(f"--jobs {jobs}: this process may use {len(cores)} cores, and every job needs one")
    return [set(cores[index::jobs]) for index in range(jobs)]


class Children:
    """The processes that steps run as, in a `with`: SIGTERM to this one ends them, too, and then acts as Ctrl-C does.

    Otherwise a killed study would leave a training behind, in whose folder the resumed study could not go on.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python's rule for signals
            self._before = signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)

    def call(self, line: Sequence[str], *, stdout: IO[bytes], stderr: IO[bytes] | None) -> int:
        """Run a command and return its exit status."""
        with subprocess.Popen(line, stdout=stdout, stderr=stderr) as process:
            self._running.add(process)
            try:
                return process.wait()
            finally:
                self._running.discard(process)

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        for process in list(self._running):
            process.terminate()
        raise KeyboardInterrupt


def in_parallel(
    steps: Sequence[Step], jobs: int, start: Callable[[Step], bool], run: Callable[[Step], str | None]
) -> Iterator[tuple[Step, str | None, float]]:
    """Run steps, each as soon as all that it reads is there, and yield each when it has ended.

    Args:
        steps: in an order that works.
        jobs: how many at once.
        start: told of a step whose turn has come; returns whether it is to be run. Called from this thread.
        run: runs a step; returns why it failed, or None. Called from a thread that holds its job's cores, which
            the processes that it starts inherit.

    A Ctrl-C that reaches this process alone takes effect when the steps that run have ended; the terminal's reaches
    them as well.

    Yields:
        A step, why it failed or None, and the seconds it took.
    """
    shares = core_shares(jobs)
    lock = threading.Lock()

    def take_cores() -> None:
        with lock:
            keep_to(shares.pop())

    waiting, running = list(steps), dict[Future[tuple[str | None, float]], Step]()
    with ThreadPoolExecutor(jobs, initializer=take_cores) as pool:
        while waiting or running:
            blocked = {path for step in [*waiting, *running.values()] for path in step.writes}
            for step in [*waiting]:
                if len(running) == jobs:
                    break
                if any(path in blocked for _, path in step.reads):
                    continue
                waiting.remove(step)
                if start(step):
                    running[pool.submit(_timed, run, step)] = step
                else:
                    blocked.difference_update(step.writes)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                yield step, *future.result()


def _timed(run: Callable[[Step], str | None], step: Step) -> tuple[str | None, float]:
    began = time.monotonic()
    return run(step), time.monotonic() - began


def execute(
    step: Step, folder: pathlib.Path, data_dir: pathlib.Path | None, children: Children, *, alone: bool
) -> str | None:
    """Run a step as a process; return why it failed, or None.

    Args:
        step: what to run.
        folder: the study's folder.
        data_dir: where named data sets lie.
        children: gets the process.
        alone: no other step runs beside it, so that its progress may be shown; what it prints goes to a log.
    """
    line = [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *step.command_line(folder, data_dir)]
    log = folder / LOGS / f"{step.name.replace('/', '.')}.log"
    try:
        (folder / step.out).parent.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            stream.write(f"$ {shlex.join(['resq-deploy', *line[4:]])}\n".encode())
            stream.flush()
            shown = alone and sys.stderr.isatty()
            status = children.call(line, stdout=stream, stderr=None if shown else stream)
    except OSError as error:
        return f"cannot write {error.filename}: {error.strerror}"
    if status == 0:
        return None
    return f"exit status {status}: {_last_line(log)}"


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
