#!/usr/bin/env python3
"""Take one measurement of the campaign engines, or of PyTorchFI, in this process: a child of bench_faultcamp.py.

A measurement has a process of its own, as a campaign has: what an engine may hold depends on what its process has held
before. The job is a JSON object as `plan_jobs` of bench_faultcamp.py makes it; so is the result, on one line.

Example:
  python tools/measure_faultcamp.py '{"measure": "memory", "model": "net.int8.onnx", "dataset": "digits",
      "data_dir": null, "images": 500, "faults": 40, "workers": 2}'
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resq_deploy.campaign import cluster_link
from resq_deploy.campaign.cluster import executor_for
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.executors import Threads
from resq_deploy.campaign.golden import golden_run
from resq_deploy.campaign.options import DEFAULT_MEMORY, LEAST_MEMORY, CampaignOptions, FaultModel
from resq_deploy.campaign.plan import Plan, make_plan
from resq_deploy.campaign.proofs import audit, audit_figures
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.run import Campaign
from resq_deploy.cores import usable_cores
from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.deployment import BATCH
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import MissingExtraError, OptionError, ResqError

if TYPE_CHECKING:
    import torch

POPULATIONS = {"weight": (Role.WEIGHT,), "all": ()}
RATES = (1e-6, 1e-4, 1e-2)
_AUDIT_SHARE = 0.01
Job = dict[str, Any]
Result = dict[str, Any]


def _load(job: Job) -> tuple[DeployedModel, Dataset]:
    data_dir = pathlib.Path(job["data_dir"]) if job["data_dir"] else None
    return DeployedModel.load(pathlib.Path(job["model"])), load_dataset(job["dataset"], data_dir)


def _prepare(job: Job, options: CampaignOptions) -> tuple[Plan, Kit]:
    """Return the plan of a job and, its golden run done, what its engines are built from."""
    model, dataset = _load(job)
    patcher = model.patcher()
    golden = golden_run(patcher.golden, options.deployment, dataset, options.images)
    surfaces = {surface.tensor: surface for surface in model.surfaces}
    return make_plan(model.surfaces, options), Kit(patcher=patcher, surfaces=surfaces, golden=golden, options=options)


def check(job: Job) -> Result:
    """Try out all that the measurements of a network need, before the first of them; return what the file is."""
    for roles in POPULATIONS.values():
        plan, kit = _prepare(job, CampaignOptions(samples=1, images=1, roles=roles))
        if job["faults"] > plan.size:
            raise OptionError(f"--faults {job['faults']}: only {plan.size:,} are possible")
    if job["checkpoint"]:
        from resq_deploy.hardening.checkpoint import load_checkpoint

        load_checkpoint(pathlib.Path(job["checkpoint"])).build()
    model, dataset = _load(job)
    return {
        "file": model.path.name,
        "sha256": model.digest,
        "bits": sum(surface.bits for surface in kit.surfaces.values()),
        "images": len(dataset.evaluation(job["images"])),
    }


def measure_engine(job: Job) -> Result:
    """Evaluate the faults of a population, or the `first` of them, with one engine, by threads or by Dask."""
    if not job["dask"]:
        return _evaluate(job, None)
    try:
        # What the scheduler `local` starts; started here, since that is not counted.
        with cluster_link.cluster(cluster_link.LOCAL, job["workers"]) as client:
            return _evaluate(job, client.scheduler.address)
    except MissingExtraError as error:
        return {"skipped": str(error)}


def _evaluate(job: Job, scheduler: str | None) -> Result:
    options = CampaignOptions(
        samples=job["faults"],
        images=job["images"],
        roles=POPULATIONS[job["population"]],
        seed=job["seed"],
        engine=job["engine"],
        workers=job["workers"],
        scheduler=scheduler,
        memory=max(DEFAULT_MEMORY // job["workers"], LEAST_MEMORY) if scheduler else DEFAULT_MEMORY,  # of one machine
    )
    plan, kit = _prepare(job, options)
    begin = time.perf_counter()
    testbed = Testbed(kit)
    portions = testbed.shards(plan, range(min(job["first"], len(plan))))
    own = time.perf_counter() - begin
    begin = time.perf_counter()
    with executor_for(kit, testbed, job["workers"], lambda _: None) as executor:
        ready = time.perf_counter()
        records = [record for done in executor.run(plan, portions) for record in done]
        seconds = time.perf_counter() - ready
    setup = ready - begin if scheduler else own  # where the faults are run: workers of a cluster have their own engines
    records.sort(key=lambda record: record.number)
    return {
        "engine": testbed.engine.name,
        "fallback": testbed.fallback or None,
        "faults": len(records),
        "reloaded": sum(record.reloaded for record in records),
        "setup_s": setup,
        "run_s": seconds,
        "s_per_fault": (setup + seconds) / len(records),
        "audit": _audit(plan, records, testbed) if job["audit"] else None,
        "outputs": {str(record.number): f"{record.outcome} {record.logits}" for record in records},
    }


def _audit(plan: Plan, records: Sequence[Record], testbed: Testbed) -> Result:
    """Audit one in a hundred of the faults that were replayed, and as many more as an audit takes at least."""
    options = dataclasses.replace(plan.options, audit=_AUDIT_SHARE)
    plan = dataclasses.replace(plan, options=options)
    audited = [one for portion in audit(plan, records, Threads(testbed, 1), testbed.engine) for one in portion]
    return audit_figures(plan, records, audited)


def measure_chips(job: Job) -> Result:
    """Evaluate masks of random bit errors one by one, after a golden run: session creation and all images."""
    options = CampaignOptions(
        faults=FaultModel.BER,
        ber=RATES,
        chips=job["chips"],
        roles=POPULATIONS[job["population"]],
        images=job["images"],
        workers=1,
    )
    plan, kit = _prepare(job, options)
    begin = time.perf_counter()
    Session(kit.patcher.golden, options.deployment).run(kit.golden.inputs)
    golden = time.perf_counter() - begin
    testbed = Testbed(kit)
    records, seconds = [], []
    for number in range(len(plan)):
        begin = time.perf_counter()
        records += testbed.evaluate(plan, [number])
        seconds.append(time.perf_counter() - begin)
    rates = [rate for rate, _ in plan.masks]
    return {
        "golden_s": golden,
        "masks": len(plan),
        "s_per_mask": statistics.mean(seconds),
        "s_per_mask_by_rate": {
            f"{rate:g}": statistics.mean(s for s, of in zip(seconds, rates, strict=True) if of == rate)
            for rate in RATES
        },
        "audit": _audit(plan, records, testbed) if job["audit"] else None,
    }


def measure_memory(job: Job) -> Result:
    """Run a whole campaign, all roles, with the default memory; return the most this process ever held."""
    model, dataset = _load(job)
    options = CampaignOptions(samples=job["faults"], images=job["images"], workers=job["workers"])
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        Campaign(model, dataset, options).run(pathlib.Path(folder) / "run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "images": len(dataset.evaluation(job["images"])),
        "faults": job["faults"],
        "workers": job["workers"],
        "seconds": time.perf_counter() - begin,
        "peak_mb": peak / 1e6,
        "limit_mb": DEFAULT_MEMORY / 1e6,
    }


def measure_pytorchfi(job: Job) -> Result:
    """Inject the first weight faults into the float network with PyTorchFI, as its users do, on all cores.

    Its constructor is not counted.
    """
    if not job["checkpoint"]:
        return {"skipped": "no checkpoint of the network was given (NET=MODEL.onnx,CHECKPOINT.pt)"}
    try:
        import torch
        from pytorchfi.core import fault_injection
    except ImportError as error:
        return {"skipped": f"{error.name} is not installed: pip install {error.name}"}
    from resq_deploy.hardening.checkpoint import load_checkpoint

    torch.set_num_threads(len(usable_cores()))
    model, dataset = _load(job)
    network = load_checkpoint(pathlib.Path(job["checkpoint"])).build()
    inputs = torch.from_numpy(to_model_input(dataset.evaluation(job["images"]).images))
    options = CampaignOptions(samples=job["faults"], roles=(Role.WEIGHT,), seed=job["seed"])
    places = _float_faults(make_plan(model.surfaces, options), network, job["first"])
    if not places:
        return {"skipped": "no layer of the file is a convolution or linear layer of the checkpoint"}
    handlers = list(logging.root.handlers)
    tool = fault_injection(network, BATCH, input_shape=list(inputs.shape[1:]), layer_types=list(_layer_types()))
    logging.root.handlers = handlers  # the one it installs cannot print: its format asks for a field of its own
    seconds = []
    with torch.no_grad():
        _forward(network, inputs)  # the golden run; it also warms up
        for place in places:
            begin = time.perf_counter()
            faulty = tool.declare_weight_fi(**{name: [value] for name, value in place.items()})
            _forward(faulty, inputs)
            seconds.append(time.perf_counter() - begin)
    return {"threads": torch.get_num_threads(), "faults": len(places), "s_per_fault": statistics.mean(seconds)}


def _layer_types() -> tuple[type["torch.nn.Module"], ...]:
    from torch import nn

    return (nn.Conv2d, nn.Linear)


def _forward(network: "torch.nn.Module", inputs: "torch.Tensor") -> None:
    for start in range(0, len(inputs), BATCH):
        network(inputs[start : start + BATCH]).argmax(1)


def _float_faults(plan: Plan, network: "torch.nn.Module", count: int) -> list[dict[str, Any]]:
    """Return the first weight faults that have a place in the float network, as arguments of PyTorchFI."""
    layers: dict[str, torch.nn.Module] = {
        name: part for name, part in network.named_modules() if isinstance(part, _layer_types())
    }
    places: list[dict[str, Any]] = []
    for number in range(len(plan)):
        (edit,) = plan.fault(number).edits
        surface = plan.surface(edit.tensor)
        if len(places) == count or surface.layer not in layers:
            continue
        weight = layers[surface.layer].get_parameter("weight").detach().numpy()
        index = np.unravel_index(int(edit.index[0]), surface.shape)
        if surface.shape != weight.shape:
            index = index[::-1]  # ONNX may store a linear layer the other way round
        if surface.shape not in (weight.shape, weight.shape[::-1]):
            continue
        k, *rest = (int(part) for part in index)
        dims = dict(zip(("dim1", "dim2", "dim3"), (*rest, None, None), strict=False))
        value = _flipped(weight[k], float(weight[tuple(index)]), int(edit.bit[0]))
        places.append({"layer_num": list(layers).index(surface.layer), "k": k, **dims, "value": value})
    return places


def _flipped(channel: np.ndarray, value: float, bit: int) -> float:
    """Return what a weight becomes when a bit of its int8 code, symmetric over its channel, flips."""
    scale = float(np.abs(channel).max()) / 127 or 1.0
    code = np.array([round(value / scale)], dtype=np.int8).view(np.uint8) ^ np.uint8(1 << min(bit, 7))
    return float(code.view(np.int8)[0]) * scale


MEASURES = {
    "check": check,
    "engine": measure_engine,
    "chips": measure_chips,
    "memory": measure_memory,
    "pytorchfi": measure_pytorchfi,
}


def answer(job: Job) -> Result:
    """Measure, in a child process; an expected error becomes a result."""
    try:
        return MEASURES[job["measure"]](job)
    except ResqError as error:
        return {"error": " ".join(str(error).split()), "status": error.exit_status}


def main() -> None:
    """Parse the command line, measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads, help="what to measure, as a JSON object")
    print(json.dumps(answer(parser.parse_args().job)))


if __name__ == "__main__":
    main()
