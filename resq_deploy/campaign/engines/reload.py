"""The truth engine: flip the file's bits, create a new session, run the images of the fault."""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.answers import run_in_pieces
from resq_deploy.campaign.engines.injection import Injection, Injector
from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.record import Record, Way
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.session import Session, Watchdog
from resq_deploy.errors import FailedError, ModelError, OutOfMemoryError
from resq_deploy.faults.fault import Fault, Share
from resq_deploy.faults.judges.outputs import same

_FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, MemoryError, ValueError)
"""What a faulty file, or a lack of memory, leads to; a ValueError where outputs are not as many as images."""

_REQUEST = re.compile(r"allocate memory for requested buffer of size (\d+)")  # onnxruntime's arena
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate memory", "cannot allocate memory", "out of memory")


class ReloadEngine:
    """Evaluates faults by reload-and-run. Any faster engine must give the very same records.

    Args:
        injector: makes and proves the injections.
        golden: the fault-free run.
        options: deployment and time limit.
    """

    name = "reload"

    def __init__(self, injector: Injector, golden: Golden, options: CampaignOptions) -> None:
        self._injector = injector
        self._golden = golden
        self._options = options

    def group(self, tensors: Sequence[str]) -> None:
        """Return None: no two faults have anything in common."""

    def way(self, fault: Fault) -> Way:
        """Return how a fault is evaluated."""
        return Way.UNCHANGED if without_run(self._injector.inject(fault), self._golden) else Way.RELOAD

    def widest(self, _: Sequence[str], elements: int) -> NDArray[np.int64]:
        """Return which elements of tensors that are alike one fault may hit and still go the way of a single flip."""
        return np.arange(elements)

    def inert(self, _: Fault) -> bool:
        """Return False: of other images than a fault's own nothing is known."""
        return False

    def evaluate(self, faults: Sequence[Fault]) -> list[Record]:
        """Return what each fault does; thread-safe.

        Raises:
            InjectionError: if a faulty file is not exactly what its fault asks for.
            OutOfMemoryError: if the machine lacks the memory to tell.
            FailedError: if the golden file fails beside a fault that seems to be `due`.
        """
        return [self.run(self._injector.inject(fault)) for fault in faults]

    def run(self, injection: Injection) -> Record:
        """Return what an injection does.

        One that changes no stored bit (a stuck-at on a bit that already has that value, or a flip that the memory
        corrects) leaves the golden file and is masked without a run. One that seems to be `due` is run a second time,
        after the golden file: what is wrong with the machine must not be put down to the fault.

        Raises:
            OutOfMemoryError: if the machine lacks the memory to tell.
            FailedError: if the golden file fails in between.
        """
        settled = without_run(injection, self._golden)
        if settled:
            return settled
        faulty = self._injector.patcher.apply(injection.masks)
        changed = self._injector.patcher.prove(injection.fault, faulty)
        number, share = injection.fault.number, injection.fault.share
        found = self._attempt(faulty, share)
        if isinstance(found, str):
            self._check_golden(found, share)
            found = self._attempt(faulty, share)
        if isinstance(found, str):
            return self._golden.due(number, changed, found, share=share)
        outputs, health = found
        return self._golden.record(number, outputs, changed, share=share, health=health)

    def _attempt(self, model: bytes, share: Share | None) -> tuple[dict[str, NDArray[Any]], Health | None] | str:
        """Return the outputs of a file for the images of a share, part by part, and what it reports of its code words.

        Or why there are none.

        Raises:
            OutOfMemoryError: if memory ran out, which says nothing about the file.
        """
        watchdog, pieces = Watchdog(self._options.time_limit), self._golden.pieces(share)
        try:
            session = Session(model, self._options.deployment)
            with watchdog:
                outputs = run_in_pieces(session, self._golden.inputs, pieces, self._golden.forms, watchdog.options)
            health = session.health(self._golden.inputs)
        except _FAILURES as error:
            if lacks_memory(error):
                raise OutOfMemoryError(f"memory ran out while a fault was run ({first_line(error)})") from error
            if watchdog.expired:
                return self._late
            return f"load error: {first_line(error)}" if isinstance(error, ModelError) else first_line(error)
        if watchdog.expired:
            return self._late
        return self._golden.differs(outputs, share) or (outputs, health)

    def _check_golden(self, reason: str, share: Share | None) -> None:
        """Check that the golden file still does what it did, now that a fault seems to have stopped the other.

        Raises:
            FailedError: if it does not; the campaign cannot go on like that.
        """
        found = self._attempt(self._injector.patcher.golden, share)
        if isinstance(found, str):
            raise FailedError(
                f"a fault was about to be counted as due ({reason}), but the golden file fails, too ({found}): "
                "see what this machine lacks, time perhaps, then --resume"
            )
        if not same(self._golden.outputs_on(share), found[0]).all() or found[1] != self._golden.health:
            raise FailedError(
                f"a fault was about to be counted as due ({reason}), but the golden file does not answer as it did: "
                "this machine cannot be trusted with a campaign"
            )

    @property
    def _late(self) -> str:
        return f"no answer in {self._options.time_limit} s"


def without_run(injection: Injection, golden: Golden) -> Record | None:
    """Return the record of an injection that needs no run, as it changes no bit or the memory stops it."""
    number, share = injection.fault.number, injection.fault.share
    if injection.detected:
        return golden.due(number, 0, "memory: ECC detected an error it cannot correct", way=Way.UNCHANGED, share=share)
    if not injection.masks:
        outputs = golden.outputs_on(share)
        return golden.record(number, outputs, 0, way=Way.UNCHANGED, share=share, health=golden.health)
    return None


def lacks_memory(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, says that the machine ran out of memory.

    A file that asks for more than the whole machine has, as one with a faulty shape may, is wrong whatever the machine.
    """
    while error is not None:
        asked = _REQUEST.search(str(error))
        if asked:
            return int(asked[1]) <= _physical_memory()
        if isinstance(error, MemoryError) or any(word in str(error).lower() for word in _OUT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


def _physical_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
