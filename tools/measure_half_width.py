#!/usr/bin/env python3
"""Measure what a bound of a given half-width costs, by reload, replay and two stages: a child of bench_faultcamp.py.

Two-stage sampling runs its pilot; what it finds plans the main phase, once on as many images a fault as `auto` decides
and once on all of them. With `run` the two-stage campaign is run to its end, whatever that takes. Else, and for replay
and reload on all images always, the cost is extrapolated: faults planned x seconds a fault, measured on whole portions
of these very faults, taken at random until `seconds` are spent, two at least, or until it is known to 2 %. Golden run
and set-up count for each.
The records of faults are the same for all engines, so that the width does not depend on which ran them.

Sessions and golden values are made once for a group of faults, however many it has, and a sample has few of each: a
portion of faults on all images is therefore run twice. The second run says what faults take; what the first one took
beyond it counts once a group. Of two stages that are not run to their end the first run counts for all, which makes
them too dear rather than too cheap. `relative_error` is the standard error of the extrapolated seconds over them.

Example:
  python tools/measure_half_width.py '{"model": "net.int8.onnx", "dataset": "digits", "data_dir": null, "images": 1000,
      "half_width": 0.005, "seed": 0, "workers": 1, "seconds": 60, "run": false}'
"""

import argparse
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from resq_deploy.campaign.engines.group import Group
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import FailedError, ResqError

_FEWEST = 2  # samples
_MANY, _EXACT = 12, 0.02  # samples that suffice where their relative standard error is no more than this
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_EACH = 4  # portions that each of several workers is given at a time

Job = dict[str, Any]
Result = dict[str, Any]


@dataclasses.dataclass
class Clock:
    """Seconds spent, by this machine's clock and by its processors."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> "Clock":
        self._begin = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._begin[0]
        self.cpu += time.process_time() - self._begin[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """What portions of faults took.

    Attributes:
        faults: how many each portion that was evaluated has.
        spent: seconds of each of them.
        once: seconds of what is made once, of the groups of faults that these portions belong to.
        portions: how many portions there are.
        groups: how many groups there are for each that was met.
    """

    faults: Sequence[int]
    spent: Sequence[Clock]
    once: Clock
    portions: int
    groups: float

    def of(self, faults: int, *before: Clock) -> Result:
        """Return seconds to evaluate so many faults, extrapolated, with what came before, and what they rest on."""
        measured = sum(self.faults)
        found: Result = {"faults": faults, "measured": measured}
        for kind in ("wall", "cpu"):
            begun = sum(getattr(clock, kind) for clock in before) + self.groups * getattr(self.once, kind)
            found[kind] = begun + faults * sum(getattr(clock, kind) for clock in self.spent) / measured
        found["cpu_a_fault"] = sum(clock.cpu for clock in self.spent) / measured
        left = math.sqrt(1.0 - len(self.spent) / self.portions)
        part = faults * found["cpu_a_fault"] / found["cpu"]
        found["relative_error"] = part * left * error(self.faults, self.spent)
        return found


def error(faults: Sequence[int], spent: Sequence[Clock]) -> float:
    """Return the relative standard error of processor seconds a fault, a ratio of sums (Cochran, section 2.11).

    Args:
        faults: of each of many portions, shape [n].
        spent: what they took, shape [n].
    """
    counts, seconds = np.array(faults, dtype=np.float64), np.array([clock.cpu for clock in spent])
    if len(seconds) < _FEWEST:
        return 0.0
    apart = seconds - counts * seconds.sum() / counts.sum()
    return math.sqrt(len(seconds) / (len(seconds) - 1) * float(apart @ apart)) / float(seconds.sum())


def begun(
    job: Job, images_per_fault: Literal["auto", "all"], engine: Literal["replay", "reload"]
) -> tuple[Campaign, Clock]:
    """Return a campaign that is ready to run, and what that took."""
    data_dir = pathlib.Path(job["data_dir"]) if job["data_dir"] else None
    model, dataset = DeployedModel.load(pathlib.Path(job["model"])), load_dataset(job["dataset"], data_dir)
    options = CampaignOptions(
        images=job["images"],
        images_per_fault=images_per_fault,
        margin=job["half_width"],
        seed=job["seed"],
        workers=job["workers"],
        engine=engine,
        audit=0.0,
    )
    with Clock() as clock:
        campaign = Campaign(model, dataset, options)
    return campaign, clock


def evaluated(campaign: Campaign, plan: Plan, numbers: Sequence[int]) -> tuple[list[Record], Clock]:
    """Return the records of faults, in order, and what they took."""
    with Clock() as clock:
        portions = campaign.testbed.shards(plan, numbers)
        records = [record for done in campaign._executor.run(plan, portions) for record in done]
    return sorted(records, key=lambda record: record.number), clock


def sampled(
    campaign: Campaign, plan: Plan, numbers: Sequence[int], seconds: float, rng: np.random.Generator
) -> Sampled:
    """Evaluate whole portions of faults, until the seconds of processor time are spent or it is known what they take.

    They are taken from all over the file, so that however few are the most even choice: multiples of the golden ratio,
    begun anywhere. Those of faults on all images are evaluated twice, where the engine makes anything once for many of
    them. Several workers are given some portions each at a time.
    """
    portions = campaign.testbed.shards(plan, numbers)
    groups = [campaign.testbed.engine.group(plan.tensors(portion[0])) for portion in portions]
    workers = campaign.options.worker_count
    size = 1 if workers == 1 else max(1, min(_EACH * workers, len(portions) // _FEWEST))
    order = np.argsort(np.argsort((rng.random() + _GOLDEN * np.arange(len(portions))) % 1.0))
    faults, spent, whole, once = list[int](), list[Clock](), Clock(), Clock()
    met = set[Group | None]()
    for start in range(0, len(order), size):
        if len(spent) >= _FEWEST and whole.cpu >= seconds:
            break
        if len(spent) >= _MANY and error(faults, spent) <= _EXACT:
            break
        places = order[start : start + size].tolist()
        chosen, found = [portions[place] for place in places], {groups[place] for place in places} - {None}
        with whole, Clock() as first:
            count = _run(campaign, plan, chosen)
        if found and plan.images_per_fault is None:
            with whole, Clock() as again:
                _run(campaign, plan, chosen)
            once.wall, once.cpu = once.wall + first.wall - again.wall, once.cpu + first.cpu - again.cpu
            first, met = again, met | found
        faults.append(count)
        spent.append(first)
    return Sampled(
        faults=faults,
        spent=spent,
        once=once,
        portions=-(-len(portions) // size),
        groups=len(set(groups) - {None}) / max(1, len(met)),
    )


def _run(campaign: Campaign, plan: Plan, portions: Sequence[list[int]]) -> int:
    return sum(len(done) for done in campaign._executor.run(plan, portions))


def measure(job: Job) -> Result:
    """Return seconds to the half-width of each way."""
    rng = np.random.default_rng(job["seed"])
    two, before = begun(job, "auto", "replay")
    if two.plan.sample is None:
        raise FailedError(f"a half-width of {job['half_width']:g} takes every fault of this file")
    plan, rates, spent = two.plan, np.empty(0), Clock()
    pilots = 0
    further: Plan | None = plan
    while further is not None:
        plan = further
        if plan.sample is None or (plan.sample.phases > plan.sample.pilots and not job["run"]):
            break
        records, took = evaluated(two, plan, range(len(rates), len(plan)))
        rates = np.concatenate([rates, [record.sdc1 for record in records]])
        spent = Clock(spent.wall + took.wall, spent.cpu + took.cpu)
        pilots = len(plan) if plan.sample.phases <= plan.sample.pilots else pilots
        further = plan.continued(rates)
    first = _pilots(plan, pilots)
    planned = _planned(first.continued(rates[:pilots]), pilots)
    on_all = _planned(_on_all(first).continued(rates[:pilots]), pilots)
    main = range(pilots, len(plan))
    if job["run"]:
        found: Result = {"faults": len(plan), "measured": len(plan), "relative_error": 0.0}
        found |= {"wall": before.wall + spent.wall, "cpu": before.cpu + spent.cpu}
        found["cpu_a_fault"] = spent.cpu / len(plan)
    else:
        some = sampled(two, plan, main, job["seconds"], rng)
        found = {**some.of(len(plan) - pilots, before, spent), "faults": len(plan)}
    faults = round(len(plan) * on_all / planned)
    result: Result = {"two_stage": {**found, "images": plan.images_per_fault or job["images"]}}
    engines: tuple[Literal["replay", "reload"], ...] = ("replay", "reload")
    for engine in engines:
        campaign, setup = begun(job, "all", engine)
        whole = dataclasses.replace(plan, partition=campaign.plan.partition, counts=campaign.plan.counts)
        some = sampled(campaign, whole, main, job["seconds"], rng)
        result[engine] = {**some.of(faults, setup), "images": job["images"]}
        del campaign
    return result


def _pilots(plan: Plan, count: int) -> Plan:
    """Return a plan as it was when its pilots were drawn."""
    if plan.sample is None:
        raise FailedError("the plan has no strata")
    phases = int(plan.sample.phase[count - 1]) + 1
    sample = dataclasses.replace(
        plan.sample,
        stratum=plan.sample.stratum[:count],
        phase=plan.sample.phase[:count],
        images=plan.sample.images[:phases],
        pilots=phases,
    )
    return dataclasses.replace(plan, positions=plan.positions[:count], sample=sample, counts=plan.counts[:phases])


def _on_all(plan: Plan) -> Plan:
    """Return a plan whose next phase is judged on all images."""
    if plan.partition is None:
        return plan
    options = dataclasses.replace(plan.options, images_per_fault=plan.partition.images)
    return dataclasses.replace(plan, options=options, counts=(*plan.counts[:-1], plan.partition.parts))


def _planned(plan: Plan | None, pilots: int) -> int:
    return pilots if plan is None else len(plan)


def main() -> None:
    """Parse the command line, measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads, help="what to measure, as a JSON object")
    try:
        print(json.dumps(measure(parser.parse_args().job)))
    except ResqError as error:
        print(json.dumps({"error": " ".join(str(error).split()), "status": error.exit_status}))


if __name__ == "__main__":
    main()
