"""The truth engine: flip the file's bits, create a new session, run all images."""

from collections.abc import Sequence

from resq_deploy.campaign.engines.injection import Injection, Injector
from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.record import Record
from resq_deploy.deployed.session import Session, Watchdog, first_line
from resq_deploy.errors import ModelError
from resq_deploy.faults.fault import Fault


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

    def evaluate(self, faults: Sequence[Fault]) -> list[Record]:
        """Return what each fault does; thread-safe.

        Raises:
            InjectionError: if a faulty file is not exactly what its fault asks for.
        """
        return [self.run(self._injector.inject(fault)) for fault in faults]

    def run(self, injection: Injection) -> Record:
        """Return what an injection does.

        One that changes no stored bit (a stuck-at on a bit that already has that value, or a flip that the memory
        corrects) leaves the golden file and is masked without a run.
        """
        number, limit = injection.fault.number, self._options.time_limit
        settled = without_run(injection, self._golden)
        if settled:
            return settled
        faulty = self._injector.patcher.apply(injection.masks)
        changed = self._injector.patcher.prove(injection.fault, faulty)
        try:
            session = Session(faulty, self._options.deployment)
        except ModelError as error:
            return Record.due(number, changed, f"load error: {first_line(error)}")
        watchdog = Watchdog(limit)
        logits, raised = None, ""
        try:
            with watchdog:
                logits = session.run(self._golden.inputs, watchdog.options)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raised = first_line(error)
        if watchdog.expired:
            return Record.due(number, changed, f"no answer in {limit} s")
        if logits is None:
            return Record.due(number, changed, raised)
        if logits.shape != self._golden.logits.shape:
            return Record.due(number, changed, f"outputs of shape {logits.shape}")
        return Record.of(number, self._golden.judge(logits), changed, logits)


def without_run(injection: Injection, golden: Golden) -> Record | None:
    """Return the record of an injection that needs no run, as it changes no bit or the memory stops it."""
    number = injection.fault.number
    if injection.detected:
        return Record.due(number, 0, "memory: ECC detected an error it cannot correct")
    if not injection.masks:
        return Record.of(number, golden.judge(golden.logits), 0, golden.logits, reloaded=False)
    return None
