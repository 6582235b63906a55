"""From records to the figures of `summary.json`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import FaultModel
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.faults import stratified
from resq_deploy.faults.outcomes import COUNTS, Outcome
from resq_deploy.faults.statistics import Estimate, cluster, proportion, share, spread

SCHEMA = 1

Flags = NDArray[np.bool_]
JsonEstimate = dict[str, float | int]


class Figures:
    """Estimates over the faults of a campaign, whatever way they were drawn.

    Args:
        plan: what was drawn, from which population.
        records: all its faults, in the order of the plan.
        confidence: coverage of the intervals.
    """

    def __init__(self, plan: Plan, records: Sequence[Record], confidence: float) -> None:
        self.plan = plan
        self.records = records
        self._confidence = confidence
        self.judged: Flags = np.array([record.outcome is not Outcome.DUE for record in records], dtype=bool)
        images = np.array([max(record.images, 1) for record in records], dtype=np.float64)
        self._rates = {name: np.array([record.counts[name] for record in records]) / images for name in COUNTS}
        self._accuracy = np.array([record.accuracy for record in records])

    def rates(
        self, domain: Flags, population: float, part: NDArray[np.int64] | None = None
    ) -> dict[str, JsonEstimate | None]:
        """Return the rate of every kind of outcome over image runs of the faults in a domain.

        Faults that are `due` have no image runs and stay out; without any judged fault a rate is None.

        Args:
            domain: which faults count, shape [n].
            population: how many faults of the population belong to the domain.
            part: the same for each stratum, shape [strata]; None for all faults, or where there are no strata.
        """
        inside = domain & self.judged
        if not inside.any():
            return dict.fromkeys(COUNTS, None)
        return {name: self._estimate(self._rates[name], domain, population, part).as_dict() for name in COUNTS}

    def rate(self, name: str, domain: Flags) -> NDArray[np.float64]:
        """Return the rate of one kind of outcome of each judged fault in a domain, shape [faults]."""
        return self._rates[name][domain & self.judged]

    def over_chips(self, values: ArrayLike) -> Estimate:
        """Estimate the mean of one figure a chip over further chips."""
        return cluster(values, math.inf, self._confidence, stopped=self._stopped)

    def accuracy(self) -> Estimate:
        """Estimate the accuracy under a fault of the population; a `due` fault scores 0."""
        return self._of_all(self._accuracy)

    def due(self) -> Estimate:
        """Estimate the share of the population's faults that are `due`."""
        due = ~self.judged
        if self.plan.sample is None and not self._stopped:
            return proportion(int(due.sum()), len(due), self.plan.size, self._confidence)
        return self._of_all(due.astype(np.float64))

    @property
    def _stopped(self) -> bool:
        """Whether the results of a simple sample decided how many units were drawn."""
        return self.plan.options.margin is not None

    def _of_all(self, values: NDArray[np.float64]) -> Estimate:
        if self.plan.sample is not None:
            return stratified.estimate(values, self.plan.sample, self._confidence)
        return cluster(values, self.plan.size, self._confidence, stopped=self._stopped)

    def _estimate(
        self, values: NDArray[np.float64], domain: Flags, population: float, part: NDArray[np.int64] | None
    ) -> Estimate:
        """Estimate a rate over the judged faults of a domain."""
        sample = self.plan.sample
        if sample is not None:
            within = sample if part is None else sample.inside(domain, part)
            return stratified.estimate(values[domain], within, self._confidence, self.judged[domain])
        judged = values[domain & self.judged]
        complete = int(domain.sum()) >= population
        return cluster(judged, len(judged) if complete else population, self._confidence, stopped=self._stopped)


def summarise(plan: Plan, golden: Golden, records: Sequence[Record]) -> dict[str, Any]:
    """Return the figures of a campaign, as in `summary.json`.

    Args:
        plan: what was drawn, from which population.
        golden: the fault-free run.
        records: its faults, in the order of the plan.
    """
    confidence = plan.options.confidence
    figures = Figures(plan, records, confidence)
    everything = np.ones(len(records), dtype=bool)
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "fault_model": str(plan.model),
        "design": "stratified" if plan.sample is not None else "simple",
        "golden": {
            "accuracy": share(golden.right, len(golden.labels), confidence).as_dict(),
            "images": len(golden.labels),
        },
        "population": {"bits": plan.bits, "faults": None if math.isinf(plan.size) else int(plan.size), **_layers(plan)},
        "faults": {
            "evaluated": len(records),
            "due": int((~figures.judged).sum()),
            "reloaded": sum(record.reloaded for record in records),
        },
        "rates": figures.rates(everything, plan.size),
        "due": figures.due().as_dict(),
        "accuracy": figures.accuracy().as_dict(),
    }
    if plan.model is FaultModel.BER:
        summary["curve"] = [_point(figures, rate) for rate in sorted({rate for rate, _ in plan.masks})]
    else:
        for key in ("role", "layer", "bit"):
            summary[f"by_{key}"] = _by_group(figures, key)
    return summary


def _layers(plan: Plan) -> dict[str, list[str]]:
    """Return which layers could be hit, so that those no fault fell on can be named."""
    if plan.population is None:
        return {}
    return {"layers": list(dict.fromkeys(cell.group("layer") for cell in plan.population.cells))}


def _by_group(figures: Figures, key: str) -> dict[str, Any]:
    """Return the rates of the faults in each role, layer or bit that was hit, in the order of the population."""
    plan = figures.plan
    names = np.array([plan.group(number, key) for number in range(len(figures.records))])
    present = list(dict.fromkeys(names.tolist()))
    if plan.population is not None:
        ordered = dict.fromkeys(cell.group(key) for cell in plan.population.cells)
        present = [name for name in ordered if name in set(present)]
    return {name: figures.rates(names == name, plan.group_size(key, name), plan.part(key, name)) for name in present}


def _point(figures: Figures, rate: float) -> dict[str, Any]:
    """Return one point of the curve of accuracy over bit error rate: bounds on further chips, and the chips seen."""
    chosen = np.array([at == rate for at, _ in figures.plan.masks])
    accuracy = [record.accuracy for record, inside in zip(figures.records, chosen, strict=True) if inside]
    sdc1 = figures.rate("sdc1", chosen)
    return {
        "ber": rate,
        "accuracy": figures.over_chips(accuracy).as_dict(),
        "spread": spread(accuracy),
        "worst": min(accuracy),
        "chips": len(accuracy),
        "due": len(accuracy) - len(sdc1),
        "sdc1": figures.over_chips(sdc1).as_dict() if len(sdc1) else None,
    }
