"""From records to `summary.json` and `faults.csv`."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import FaultModel
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.faults.fault import digest
from resq_deploy.faults.outcomes import COUNTS, Outcome
from resq_deploy.faults.statistics import Estimate, cluster, share, student

SCHEMA = 1


def summarise(plan: Plan, golden: Golden, records: Sequence[Record], confidence: float) -> dict[str, Any]:
    """Return the figures of a campaign, as in `summary.json`.

    Args:
        plan: what was drawn, from which population.
        golden: the fault-free run.
        records: the faults evaluated, in the order of the plan.
        confidence: coverage of the intervals.
    """
    population = plan.faults_in_population
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "fault_model": str(plan.model),
        "golden": {
            "accuracy": share(golden.right, len(golden.labels), confidence).as_dict(),
            "images": len(golden.labels),
        },
        "population": {
            "bits": plan.population.size,
            "faults": None if math.isinf(population) else int(population),
        },
        "faults": {
            "evaluated": len(records),
            "due": sum(record.outcome is Outcome.DUE for record in records),
            "reloaded": sum(record.reloaded for record in records),
        },
        "rates": rates(records, population, confidence),
        "accuracy": mean_accuracy(records, population, confidence).as_dict(),
    }
    if plan.model is FaultModel.BER:
        summary["curve"] = [_point(plan, records, rate, confidence) for rate in sorted({p for p, _ in plan.masks})]
    else:
        for key in ("role", "layer", "bit"):
            summary[f"by_{key}"] = _by_group(plan, records, key, confidence)
    return summary


def rates(records: Sequence[Record], population: float, confidence: float) -> dict[str, dict[str, float | int] | None]:
    """Return the rate of every kind of outcome over image runs; a rate without any judged fault is None.

    Faults that are `due` have no image runs and stay out.
    """
    judged = [record for record in records if record.outcome is not Outcome.DUE]
    if not judged:
        return dict.fromkeys(COUNTS, None)
    result: dict[str, dict[str, float | int] | None] = {}
    for name in COUNTS:
        values = np.array([record.counts[name] / record.images for record in judged])
        result[name] = cluster(values, population, confidence).as_dict()
    return result


def mean_accuracy(records: Sequence[Record], population: float, confidence: float) -> Estimate:
    """Estimate the accuracy under a fault of the population; a `due` fault scores 0."""
    values = np.array([record.accuracy for record in records])
    return cluster(values, population, confidence)


def _by_group(plan: Plan, records: Sequence[Record], key: str, confidence: float) -> dict[str, Any]:
    """Return the rates of the faults in each role, layer or bit that was hit."""
    members: dict[str, list[Record]] = {}
    for record in records:
        members.setdefault(_group(plan, record, key), []).append(record)
    totals = plan.population.per_group(key)
    ordered = [name for name in totals if name in members]
    return {name: rates(members[name], totals[name], confidence) for name in ordered}


def _group(plan: Plan, record: Record, key: str) -> str:
    surface, _, bit = plan.population.locate(int(plan.positions[record.number]))
    return str(bit) if key == "bit" else str(getattr(surface, key))


def _point(plan: Plan, records: Sequence[Record], rate: float, confidence: float) -> dict[str, Any]:
    """Return one point of the curve of accuracy over bit error rate."""
    chosen = [record for record in records if plan.masks[record.number][0] == rate]
    accuracy: NDArray[np.float64] = np.array([record.accuracy for record in chosen])
    judged = [record for record in chosen if record.outcome is not Outcome.DUE]
    return {
        "ber": rate,
        "accuracy": student(accuracy, confidence).as_dict(),
        "worst": float(accuracy.min()),
        "chips": len(chosen),
        "due": len(chosen) - len(judged),
        "sdc1": student([r.counts["sdc1"] / r.images for r in judged], confidence).as_dict() if judged else None,
    }


def faults_csv(plan: Plan, records: Sequence[Record]) -> str:
    """Return the per-fault table; where it holds bits it is itself a valid fault list."""
    positions = ("fault", "op", "tensor", "role", "layer", "index", "bit", "value")
    masks = ("fault", "ber", "chip", "flips", "mask")
    head = masks if plan.model is FaultModel.BER else positions
    stream = io.StringIO()
    writer = csv.DictWriter(stream, (*head, "outcome", "images", *COUNTS, "accuracy"), lineterminator="\n")
    writer.writeheader()
    for record in records:
        result: Mapping[str, object] = {
            "outcome": str(record.outcome),
            "images": record.images,
            **record.counts,
            "accuracy": f"{record.accuracy:.6f}",
        }
        for row in _fault_rows(plan, record):
            writer.writerow({**row, **result})
    return stream.getvalue()


def _fault_rows(plan: Plan, record: Record) -> Iterator[dict[str, object]]:
    fault = plan.fault(record.number)
    if plan.model is FaultModel.BER:
        flips = sum(len(edit.index) for edit in fault.edits)
        mask = digest(fault.edits)
        yield {"fault": record.number, "ber": fault.ber, "chip": fault.chip, "flips": flips, "mask": mask}
        return
    for edit in fault.edits:
        surface = plan.surface(edit.tensor)
        for place, (index, bit) in enumerate(zip(edit.index, edit.bit, strict=True)):
            yield {
                "fault": record.number,
                "op": str(edit.op),
                "tensor": edit.tensor,
                "role": str(surface.role),
                "layer": surface.layer,
                "index": int(index),
                "bit": int(bit),
                "value": int(edit.value[place]) if len(edit.value) else "",
            }
