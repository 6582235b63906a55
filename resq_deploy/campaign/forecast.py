"""What a campaign would take: its first faults are run, and what they show and cost is extrapolated."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.testbed import Testbed
from resq_deploy.campaign.executors import AHEAD, Executor
from resq_deploy.campaign.plan import Plan, eq7_sample
from resq_deploy.campaign.proofs import evenly_audited, to_audit
from resq_deploy.campaign.record import Record

_PATIENCE = 60.0
"""Seconds after which no further portion is begun: a pilot that takes longer does not tell how many faults follow."""

_SOME = 5  # faults whose second run is timed


@dataclasses.dataclass(frozen=True)
class Cost:
    """What faults take, in seconds.

    Attributes:
        once: whatever their number: getting ready, sessions, proofs.
        fault: each of them.
        again: each that is run a second time by reload-and-run.
        groups: how many are run again beside those drawn evenly.
    """

    once: float
    fault: float
    again: float
    groups: int

    def of(self, plan: Plan, faults: int, dearer: float = 1.0) -> float:
        """Return what so many faults take; those that the plan does not hold yet cost so many times as much."""
        held = min(len(plan), faults)
        audited = (evenly_audited(plan.options, faults) + self.groups) if self.again else 0
        return self.once + self.fault * (held + dearer * (faults - held)) + self.again * audited


def forecast(
    plan: Plan, testbed: Testbed, executor: Executor, prepared: float, kept: Sequence[Record]
) -> dict[str, Any]:
    """Run faults of a campaign for a while, those of its pilot if that is done by then, and extrapolate.

    Args:
        plan: the first plan of the campaign.
        testbed: its engines.
        executor: runs its faults; its workers are ready.
        prepared: seconds that getting ready took.
        kept: records of a campaign that this one goes on with.

    Returns:
        Faults `planned` by now, `expected` in the end (None where that is not known), and `at_most` by equation 7 of
        Leveugle et al.; `seconds` of each, and of one fault; population and images.
    """
    plan, begun = _beyond(plan, kept), len(kept)
    records, cost = _run(plan, range(begun, len(plan)), testbed, executor, prepared)
    expected, following = None, plan
    if begun + len(records) == len(plan):
        expected, following = plan.expected(_rates([*kept, *records]))
    at_most = len(plan)
    if plan.in_phases and plan.population is not None:
        at_most = max(at_most, eq7_sample(plan.population.size, plan.options))
    dearer = _work(following) / _work(plan)
    return {
        "population": {"bits": plan.bits, "faults": plan.size},
        "images": {"per_fault": following.images_per_fault, "of": testbed.images},
        "planned": len(plan) - begun,
        "expected": None if expected is None else expected - begun,
        "at_most": at_most,
        "seconds_per_fault": cost.fault * dearer,
        "seconds": cost.of(plan, len(plan) - begun),
        "seconds_expected": None if expected is None else cost.of(plan, expected - begun, dearer),
        "seconds_at_most": cost.of(plan, at_most, dearer),
    }


def _rates(records: Sequence[Record]) -> NDArray[np.float64]:
    return np.array([record.sdc1 for record in sorted(records, key=lambda record: record.number)], dtype=np.float64)


def _beyond(plan: Plan, kept: Sequence[Record]) -> Plan:
    """Return the first plan of a campaign that holds faults beyond those that were kept, if any does."""
    rates = _rates(kept)
    while len(plan) <= len(rates):
        further = plan.continued(rates[: len(plan)])
        if further is None:
            break
        plan = further
    return plan


def _run(
    plan: Plan, numbers: Sequence[int], testbed: Testbed, executor: Executor, prepared: float
) -> tuple[list[Record], Cost]:
    """Run portions of faults, all of a pilot's or a few, and some of the faults again; return records and cost."""
    portions, size = testbed.shards(plan, numbers, executor.workers), AHEAD * executor.workers
    if not plan.in_phases:
        spread = np.unique(np.linspace(0, len(portions) - 1, min(2 * size, len(portions)), dtype=int))
        portions = [portions[place] for place in spread]
    records: list[Record] = []
    spent: list[tuple[int, float]] = []  # faults, and seconds, of portions that are run at a time
    for start in range(0, len(portions), size):
        if sum(seconds for _, seconds in spent) > _PATIENCE:
            break
        begin = time.perf_counter()
        found = [record for done in executor.run(plan, portions[start : start + size]) for record in done]
        spent.append((len(found), time.perf_counter() - begin))
        records += found
    later = spent[len(spent) // 2 :]  # the first ones make what all need
    fault = sum(seconds for _, seconds in later) / max(1, sum(faults for faults, _ in later))
    whole = sum(seconds for _, seconds in spent)
    evenly, others = to_audit(plan, records)
    again = 0.0
    if evenly:
        begin = time.perf_counter()
        for _ in executor.run(plan, [[number] for number in evenly[:_SOME]], truth=True):
            pass
        again = (time.perf_counter() - begin) / len(evenly[:_SOME])
    return records, Cost(prepared + max(0.0, whole - fault * len(records)), fault, again, len(others))


def _work(plan: Plan) -> float:
    """Return the counted work of a fault of a plan's last phase; 1 where none is counted."""
    if plan.strata is None or plan.sample is None or plan.partition is None:
        return 1.0
    phase = plan.sample.phases - 1
    work, of_phase = plan.strata.work(plan.effort), plan.sample.stratum[plan.sample.phase == phase]
    images = plan.least_images(phase) or plan.partition.images
    return float((work.fault + images * work.image)[of_phase].mean())
