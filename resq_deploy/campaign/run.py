"""A campaign from options to run folder: plan, golden run, faults one by one, summary; resumable at any moment."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.campaign.answers import DIGEST
from resq_deploy.campaign.cluster import executor_for
from resq_deploy.campaign.cluster_link import LOCAL, check_scheduler
from resq_deploy.campaign.drawing import drawing, idle_bits, protections
from resq_deploy.campaign.effort import Effort
from resq_deploy.campaign.engines.sweep import Sweep
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.executors import Executor
from resq_deploy.campaign.exposure import exposure, no_exposure
from resq_deploy.campaign.forecast import forecast
from resq_deploy.campaign.gates import Gate, check_reachable, check_rungs, held
from resq_deploy.campaign.golden import Golden, golden_run, untold
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.plan import Plan, make_plan
from resq_deploy.campaign.proofs import audit, audit_figures, canary
from resq_deploy.campaign.record import WHOLE, Record
from resq_deploy.campaign.refine import Base
from resq_deploy.campaign.scrubbing import Units, units_of
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.campaign.summary import Figures, summarise
from resq_deploy.campaign.table import faults_csv
from resq_deploy.data.samples import Data, as_samples
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.sidecar import source_checkpoint
from resq_deploy.errors import FailedError, RunFolderError
from resq_deploy.faults.judges.registry import code_digest, identity
from resq_deploy.records import RunFolder, provenance, write_atomic, write_json


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a campaign is.

    Attributes:
        done: faults evaluated, earlier sessions included.
        total: faults planned so far; a stratified plan may grow.
        sdc1: mean share of image runs with another answer so far, over the faults as drawn.
    """

    done: int
    total: int
    sdc1: float


Report = Callable[[Progress], None]
Say = Callable[[str], None]


class Campaign:
    """A campaign that is ready to run: model, data and options have been checked against each other.

    Args:
        model: the file under test.
        data: what judges the faults: the test images of a data set, or other samples.
        options: what to do.
        say: told what is waited for, such as workers of a cluster.
        gates: bounds that the figures are held against; they decide no figure.
        base: a finished campaign whose faults are kept, and which the last refinement of the options goes on with.

    Raises:
        InputError: if model, data or options cannot be used, a gate cannot pass whatever is found, or the scheduler
            cannot be reached.
    """

    def __init__(
        self,
        model: DeployedModel,
        data: Data,
        options: CampaignOptions,
        say: Say = lambda _: None,
        gates: Sequence[Gate] = (),
        base: Base | None = None,
    ) -> None:
        begin = time.perf_counter()
        self.options = options
        self._base = base
        self._gates = gates
        check_scheduler(options.scheduler)
        self.plan = make_plan(model.surfaces, options)
        check_reachable(gates, self.plan)
        self._units = _units(model, self.plan) if options.scrub_hours is not None else []
        self._votes, self._left_out = model.votes(), [left.as_dict() for left in model.left_out]
        self._protected = protections(model.proto)
        patcher = model.patcher()
        self._idle = idle_bits(self.plan, patcher.stored)
        self._codes = model.codes(patcher)
        samples = as_samples(data)
        self._facts = samples.facts()
        # Workers of a cluster make golden values for themselves, those of the parts that they are handed.
        sweep = Sweep(patcher.golden, options) if options.engine == "replay" and options.scheduler is None else None
        self.golden = golden_run(
            patcher.golden,
            options.deployment,
            samples,
            options.images,
            self.plan.part_size,
            options.judge,
            options.outputs,
            sweep or Session.first_answers,
        )
        check_rungs(gates, self.golden.ladder)
        self.options = options = dataclasses.replace(options, deployment=self.golden.deployment)
        counted = (
            Effort.count(patcher.golden, options.deployment, self.golden.inputs) if self.plan.sizes_shares else None
        )
        self.plan = self.plan.judged_on(self.golden.parts, counted)
        if self.golden.rated:
            notes = untold(self.golden.judge, self.plan.images_per_fault)
            self.golden = dataclasses.replace(self.golden, notes=(*self.golden.notes, *notes))
        if told := crowded(self.golden, options.memory):
            say(told)
        check_reachable(gates, self.plan)  # what a part of the images shows of a fault may not do, where all would
        kit = Kit(
            patcher=patcher,
            surfaces={surface.tensor: surface for surface in model.surfaces},
            golden=self.golden,
            options=options,
        )
        self.testbed = Testbed(kit, sweep.found if sweep else None)
        workers = options.worker_count
        self._executor: Executor = executor_for(kit, self.testbed, workers, say)
        self._settings = {
            "model_file": model.path.name,
            "engine": options.engine,
            "workers": workers if options.scheduler in (None, LOCAL) else None,  # the cluster has what it has
            "memory": options.memory,
            "scheduler": options.scheduler,
            "checkpoint": source_checkpoint(model),
        }
        self._sha256 = {
            "model": model.digest,
            "data": samples.digest,
            "fault_list": self.plan.list_digest,
            "judge_code": code_digest(self.golden.judge),
        }
        # Another onnxruntime may round differently, so that a campaign must not be finished with it.
        runtime = provenance()["versions"]["onnxruntime"]
        judge = identity(self.golden.judge)
        self._identity = {"dataset": samples.name, "onnxruntime": runtime, **options.identity(), "judge": judge}
        self._identity["digest"] = DIGEST
        if base is not None:
            base.check(self._identity, self._sha256)
            base.check_plan(self.plan)
            self._sha256["refined"] = base.digest
        self._prepared = time.perf_counter() - begin

    def estimate(self) -> dict[str, Any]:
        """Run faults for up to a minute, and return population, faults and seconds that a run would take."""
        begin = time.perf_counter()
        with self._executor as executor:
            canary(self.plan, self.testbed.engine, executor, self._votes, self._codes)
            prepared = self._prepared + time.perf_counter() - begin
            kept = self._base.records if self._base is not None else ()
            return forecast(self.plan, self.testbed, executor, prepared, kept)

    def run(self, out: pathlib.Path, *, resume: bool = False, report: Report = lambda _: None) -> dict[str, Any]:
        """Run the campaign, or go on with one, and return its summary.

        Args:
            out: run folder; gets manifest.json, campaign.sqlite, faults.csv and summary.json.
            resume: go on with the campaign in `out`.
            report: called after every fault.

        Raises:
            RunFolderError: if the folder cannot be used.
            FailedError: if an injection, the canary or the audit shows that the figures cannot be trusted.
        """
        # The executor first: where a cluster has no workers that can be used, nothing is written.
        with (
            self._executor as executor,
            RunFolder.open(
                out,
                command="faultcamp",
                options=self._identity,
                sha256=self._sha256,
                settings=self._settings,
                resume=resume,
            ) as folder,
        ):
            seen = canary(self.plan, self.testbed.engine, executor, self._votes, self._codes)
            begin = time.perf_counter()
            with Store(folder.path / FILE) as store:
                self._keep_base(store)
                before = store.numbers()
                self._evaluate_rounds(store, executor, report)
                store.check_complete(len(self.plan))
                records = store.records()
                seconds = time.perf_counter() - begin
                for audited in audit(self.plan, records, executor, self.testbed.engine):
                    store.add_audited(audited)
                checked = audit_figures(self.plan, records, store.audited())
            summary = summarise(self.plan, self.golden, records)
            summary["data"] = self._facts
            summary["arithmetic"] = self.options.deployment.arithmetic_used()
            summary["population"]["left_out"] = self._left_out
            if self._idle is not None:
                summary["population"]["changed"] = 1.0 - sum(self._idle.values()) / self.plan.bits
            summary["engine"] = {"name": self.testbed.engine.name, "fallback": self.testbed.fallback or None}
            reason = no_exposure(self.plan)
            summary["exposure_reason"] = reason
            figures = Figures(self.plan, records, self.options.confidence)
            summary["exposure"] = exposure(figures, self._units) if not reason else None
            summary["drawing"] = drawing(self.plan, self._protected, self._idle)
            kept = len(self._base.records) if self._base is not None else None
            summary["refined"] = None if kept is None else {"kept": kept, "added": len(records) - kept}
            summary["gates"] = held(self._gates, summary)
            summary["canary"] = seen
            summary["audit"] = checked
            summary["throughput"] = _throughput([record for record in records if record.number not in before], seconds)
            write_atomic(folder.path / "faults.csv", faults_csv(self.plan, records, self.golden.judge.figure))
            write_json(folder.path / "summary.json", summary)
            if checked["mismatches"]:
                raise FailedError(
                    f"audit: {checked['mismatches']} of {checked['checked']} faults differ from reload-and-run, the "
                    f"first is fault {checked['first']}: do not use these figures; --resume does not mend them, only a "
                    "new run in another folder can"
                )
        return summary

    def _keep_base(self, store: Store) -> None:
        """Take over the records of the campaign that this one goes on with, all at once, unless that is done."""
        if self._base is not None and not store.numbers():
            store.add(self._base.records)

    def _check_kept(self, records: Sequence[Record]) -> None:
        """Check that faults were judged on the images that the plan says, as far as that goes by now.

        Raises:
            RunFolderError: if another version, which weighed costs otherwise, has decided how many those are.
        """
        for record in records if self.plan.sizes_shares else ():
            if record.number < len(self.plan):
                share = self.plan.fault(record.number).share or WHOLE
                if (record.share, record.parts) != (share.first, share.parts):
                    raise RunFolderError(
                        f"fault {self.plan.label(record.number)} was judged on other images than this version of "
                        "resq-deploy gives it: go on with the version that began this campaign, or run it anew, in "
                        "another folder"
                    )

    def _evaluate_rounds(self, store: Store, executor: Executor, report: Report) -> None:
        """Evaluate the faults the store does not hold yet, round by round until the plan asks for no more."""
        kept = store.records()
        rates = {record.number: record.sdc1 for record in kept}
        while True:
            self._check_kept(kept)
            missing = [number for number in range(len(self.plan)) if number not in rates]
            portions = self.testbed.shards(self.plan, missing, executor.workers)
            with contextlib.closing(executor.run(self.plan, portions)) as runs:
                for records in runs:
                    store.add(records)
                    rates.update((record.number, record.sdc1) for record in records)
                    report(Progress(len(rates), len(self.plan), sum(rates.values()) / len(rates)))
            ordered: NDArray[np.float64] = np.array([rates[number] for number in range(len(self.plan))])
            more = self.plan.continued(ordered)
            if more is None:
                return
            self.plan = more


def _throughput(records: Sequence[Record], seconds: float) -> dict[str, float]:
    """Return the speed of this session; what earlier sessions of a resumed campaign did is not counted in."""
    images = sum(record.images for record in records)
    return {"image_runs_per_s": images / seconds, "faults_per_s": len(records) / seconds, "seconds": seconds}


def crowded(golden: Golden, memory: int) -> str | None:
    """Return what to say where samples and golden outputs, which are held whole, leave a campaign little memory."""
    held = sum(values.nbytes for values in (*golden.inputs.arrays.values(), *golden.outputs.values()))
    if held <= memory // 2:
        return None
    return (
        f"note: {len(golden):,} samples and their golden outputs take {held / 1e9:.3g} GB, and --memory is "
        f"{memory / 1e9:.3g} GB: fewer --images, or more memory, leave more for what makes replay fast"
    )


def _units(model: DeployedModel, plan: Plan) -> list[Units]:
    """Return what fails as one of the tensors that a plan may hit."""
    stored = onnx.ModelProto.FromString(model.path.read_bytes())  # functions not written out
    return units_of(stored, {surface.tensor for surface in plan.surfaces})
