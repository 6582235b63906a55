"""Proofs that a campaign measures what it says: the canary, and the audit against reload-and-run."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from resq_deploy.campaign.executors import evaluate_all
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.reload import ReloadEngine
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import FailedError
from resq_deploy.faults import draws
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.faults.outcomes import Outcome

_CANDIDATES = 5


def canary(surfaces: Sequence[Surface], engine: ReloadEngine) -> dict[str, Any]:
    """Check that a fault nobody could miss is seen: the top bit of every element of a large tensor flipped.

    Raises:
        FailedError: if that is masked for each of the largest tensors; the figures could then not be trusted.
    """
    largest = sorted(surfaces, key=lambda surface: -surface.bits)[:_CANDIDATES]
    for surface in largest:
        index = list(range(surface.elements))
        fault = Fault(0, (Edit.of(surface.tensor, index, [surface.width - 1] * len(index)),))
        record = engine.evaluate(fault)
        if record.outcome is not Outcome.MASKED:
            return {"tensor": surface.tensor, "flips": record.changed, "outcome": str(record.outcome)}
    names = ", ".join(repr(surface.tensor) for surface in largest)
    raise FailedError(
        f"canary: flipping the top bit of every element of {names} changed no output: faults do not arrive"
    )


def audit(plan: Plan, records: Sequence[Record], engine: ReloadEngine, workers: int) -> dict[str, Any]:
    """Evaluate a random share of the faults once more by reload-and-run; count those whose record differs."""
    options = plan.options
    count = min(len(records), math.ceil(options.audit * len(records)))
    chosen = np.sort(draws.sample(draws.stream("audit", options.seed), len(records), count))
    again = evaluate_all(lambda number: engine.evaluate(plan.fault(number)), chosen.tolist(), workers)
    differing = sorted(record.number for record in again if not _same(record, records[record.number]))
    return {"checked": count, "mismatches": len(differing), "first": plan.label(differing[0]) if differing else None}


def _same(truth: Record, stored: Record) -> bool:
    return (truth.outcome, truth.counts, truth.right) == (stored.outcome, stored.counts, stored.right)
