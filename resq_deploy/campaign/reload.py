"""The truth engine: flip the file's bits, create a new session, run all images."""

from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.record import Record
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.session import Deployment, Session, Watchdog, first_line
from resq_deploy.errors import ModelError
from resq_deploy.faults.fault import Fault


class ReloadEngine:
    """Evaluates faults by reload-and-run. Any faster engine must give the very same records.

    Args:
        patcher: makes and proves the faulty files.
        golden: the fault-free run.
        deployment: how the file is run.
        time_limit: seconds a run over all images may take; None for no limit.
    """

    def __init__(self, patcher: Patcher, golden: Golden, deployment: Deployment, time_limit: float | None) -> None:
        self._patcher = patcher
        self._golden = golden
        self._deployment = deployment
        self._time_limit = time_limit

    def evaluate(self, fault: Fault) -> Record:
        """Return what a fault does; thread-safe.

        A fault that changes no stored bit (a stuck-at on a bit that already has that value) leaves the golden file
        and is masked without a run.

        Raises:
            InjectionError: if the faulty file is not exactly what the fault asks for.
        """
        masks = self._patcher.masks(fault)
        faulty = self._patcher.apply(masks)
        changed = self._patcher.prove(fault, faulty)
        if not masks:
            return Record.of(fault.number, self._golden.judge(self._golden.logits), 0, reloaded=False)
        try:
            session = Session(faulty, self._deployment)
        except ModelError as error:
            return Record.due(fault.number, changed, f"load error: {first_line(error)}")
        with Watchdog(self._time_limit) as watchdog:
            try:
                logits = session.run(self._golden.inputs, watchdog.options)
            except Exception as error:  # onnxruntime's exceptions have no common base
                reason = f"no answer in {self._time_limit} s" if watchdog.expired else first_line(error)
                return Record.due(fault.number, changed, reason)
        if logits.shape != self._golden.logits.shape:
            return Record.due(fault.number, changed, f"outputs of shape {logits.shape}")
        return Record.of(fault.number, self._golden.judge(logits), changed)
