"""A campaign from options to run folder: plan, golden run, faults one by one, summary; resumable at any moment."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

from resq_deploy.campaign.executors import evaluate_all, worker_count
from resq_deploy.campaign.golden import golden_run
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.plan import Plan, make_plan
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.reload import ReloadEngine
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.campaign.summary import faults_csv, summarise
from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import DataError
from resq_deploy.records import RunFolder, write_atomic, write_json


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a campaign is.

    Attributes:
        done: faults evaluated, earlier sessions included.
        total: faults planned.
        sdc1: mean share of image runs with another top-1 so far.
    """

    done: int
    total: int
    sdc1: float


def run_campaign(
    model: DeployedModel,
    dataset: Dataset,
    options: CampaignOptions,
    out: pathlib.Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a fault campaign, or go on with one, and return its summary.

    Args:
        model: the file under test.
        dataset: its test set judges the faults.
        options: what to do.
        out: run folder; gets manifest.json, campaign.sqlite, faults.csv and summary.json.
        resume: go on with the campaign in `out`.
        report: called after every fault.

    Raises:
        InputError: if model, data, options or folder cannot be used.
        InjectionError: if a fault did not change exactly the bits it should.
    """
    evaluation = dataset.evaluation(options.images)
    if not len(evaluation):
        raise DataError(f"data set {dataset.name} has no test images")
    plan = make_plan(model.surfaces, options)
    patcher = model.patcher()
    golden = golden_run(patcher.golden, options.deployment, evaluation.images, evaluation.labels, len(dataset.classes))
    engine = ReloadEngine(patcher, golden, options.deployment, options.time_limit)
    identity = {
        "model": model.digest,
        "data": dataset.digest("test"),
        "dataset": dataset.name,
        **options.identity(),
    }
    settings = {"model_file": model.path.name, "engine": "reload", "workers": worker_count(options.workers)}
    with RunFolder.open(out, command="faultcamp", identity=identity, settings=settings, resume=resume) as folder:
        with Store(folder.path / FILE) as store:
            seconds = _evaluate(plan, engine, store, worker_count(options.workers), report)
            records = list(store.records())
        summary = summarise(plan, golden, records, options.confidence)
        summary["throughput"] = _throughput(records, *seconds)
        write_atomic(folder.path / "faults.csv", faults_csv(plan, records))
        write_json(folder.path / "summary.json", summary)
    return summary


def _evaluate(
    plan: Plan,
    engine: ReloadEngine,
    store: Store,
    workers: int,
    report: Callable[[Progress], None],
) -> tuple[int, float]:
    """Evaluate the faults the store does not hold yet; return how many, and in how many seconds."""
    known = store.numbers()
    missing = [number for number in range(len(plan)) if number not in known]
    sdc1 = [record.counts["sdc1"] / record.images for record in store.records() if record.images]
    events, judged, done = sum(sdc1), len(sdc1), len(known)
    begin = time.perf_counter()
    runs = evaluate_all(lambda number: engine.evaluate(plan.fault(number)), missing, workers)
    with contextlib.closing(runs):
        for record in runs:
            store.add([record])
            done += 1
            if record.images:
                events += record.counts["sdc1"] / record.images
                judged += 1
            report(Progress(done, len(plan), events / max(1, judged)))
    return len(missing), time.perf_counter() - begin


def _throughput(records: list[Record], evaluated: int, seconds: float) -> dict[str, float]:
    """Return the speed of this session; earlier sessions of a resumed campaign are not counted in."""
    images = max((record.images for record in records), default=0)
    rate = evaluated / seconds if evaluated else 0.0
    return {"image_runs_per_s": rate * images, "faults_per_s": rate, "seconds": seconds}
