"""The truth engine: flip the file's bits, create a new session, run all images."""

from collections.abc import Mapping

import numpy as np

from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.record import Record
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.session import Session, Watchdog, first_line
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import ModelError
from resq_deploy.faults.bits import Bytes, bit_positions
from resq_deploy.faults.ecc import secded
from resq_deploy.faults.fault import Edit, Fault, Op


class ReloadEngine:
    """Evaluates faults by reload-and-run. Any faster engine must give the very same records.

    Args:
        patcher: makes and proves the faulty files.
        golden: the fault-free run.
        options: deployment, memory and time limit.
        surfaces: the tensors that may be hit.
    """

    def __init__(
        self, patcher: Patcher, golden: Golden, options: CampaignOptions, surfaces: Mapping[str, Surface]
    ) -> None:
        self._patcher = patcher
        self._golden = golden
        self._options = options
        self._surfaces = surfaces

    def evaluate(self, fault: Fault) -> Record:
        """Return what a fault does; thread-safe.

        A fault that changes no stored bit (a stuck-at on a bit that already has that value, or a flip that the memory
        corrects) leaves the golden file and is masked without a run.

        Raises:
            InjectionError: if the faulty file is not exactly what the fault asks for.
        """
        masks = self._patcher.masks(fault)
        if self._options.ecc == "secded":
            corrected = {tensor: secded(mask) for tensor, mask in masks.items()}
            if any(detected for _, detected in corrected.values()):
                return Record.due(fault.number, 0, "memory: ECC detected an error it cannot correct")
            masks = {tensor: mask for tensor, (mask, _) in corrected.items() if mask.any()}
            fault = self._as_flips(fault, masks)
        faulty = self._patcher.apply(masks)
        changed = self._patcher.prove(fault, faulty)
        if not masks:
            return Record.of(fault.number, self._golden.judge(self._golden.logits), 0, reloaded=False)
        return self._run(fault.number, faulty, changed)

    def _run(self, number: int, faulty: bytes, changed: int) -> Record:
        limit = self._options.time_limit
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
        return Record.of(number, self._golden.judge(logits), changed)

    def _as_flips(self, fault: Fault, masks: Mapping[str, Bytes]) -> Fault:
        """Return what is left of a fault as plain flips, so that it can be proven bit by bit."""
        edits = []
        for tensor, mask in masks.items():
            index, bit = np.divmod(bit_positions(mask), self._surfaces[tensor].width)
            edits.append(Edit(tensor, Op.FLIP, index, bit))
        return Fault(fault.number, tuple(edits), ber=fault.ber, chip=fault.chip)
