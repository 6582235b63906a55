"""Proofs that a campaign measures what it says: the canary, and the audit against reload-and-run."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from resq_deploy.campaign.engines.testbed import Testbed
from resq_deploy.campaign.executors import Executor
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.deployed.votes import Vote
from resq_deploy.errors import FailedError
from resq_deploy.faults import draws
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.faults.outcomes import Outcome

_CANDIDATES = 5


def canary(surfaces: Sequence[Surface], testbed: Testbed, votes: Sequence[Vote] = ()) -> dict[str, Any]:
    """Check that a fault nobody could miss is seen: the top bit of every element of a large tensor flipped.

    The campaign's engine and reload-and-run must both see it, and alike. Of a tensor that is voted from stored copies
    all are hit, since damage to one is outvoted.

    Raises:
        FailedError: if that is masked for each of the largest tensors, or the engines differ; the figures could then
            not be trusted.
    """
    copies = {vote.copies[0]: vote.copies for vote in votes}
    others = {copy for vote in votes for copy in vote.copies[1:]}
    alone = [surface for surface in surfaces if surface.tensor not in others]
    largest = sorted(alone, key=lambda surface: -surface.bits)[:_CANDIDATES]
    for surface in largest:
        index = list(range(surface.elements))
        bits = [surface.width - 1] * len(index)
        hit = copies.get(surface.tensor, (surface.tensor,))
        fault = Fault(0, tuple(Edit.of(tensor, index, bits) for tensor in hit))
        (record,) = testbed.engine.evaluate([fault])
        if testbed.engine is not testbed.truth and not same(testbed.truth.evaluate([fault])[0], record):
            raise FailedError(f"canary: {testbed.engine.name} differs from reload-and-run on {surface.tensor!r}")
        if record.outcome is not Outcome.MASKED:
            return {"tensor": surface.tensor, "flips": record.changed, "outcome": str(record.outcome)}
    names = ", ".join(repr(surface.tensor) for surface in largest)
    raise FailedError(
        f"canary: flipping the top bit of every element of {names} changed no output: faults do not arrive"
    )


def audit(plan: Plan, records: Sequence[Record], executor: Executor) -> dict[str, Any]:
    """Evaluate a random share of the faults once more by reload-and-run; count those whose record differs.

    With the engine `replay`, faults that were evaluated by reload-and-run in the first place are left out.
    """
    options = plan.options
    candidates = [record.number for record in records if options.engine == "reload" or not record.reloaded]
    count = min(len(candidates), math.ceil(options.audit_share * len(candidates)))
    drawn = draws.sample(draws.stream("audit", options.seed), len(candidates), count) if count else np.empty(0, int)
    chosen = [[candidates[place]] for place in np.sort(drawn).tolist()]
    differing = sorted(
        again.number
        for portion in executor.run(plan, chosen, truth=True)
        for again in portion
        if not same(again, records[again.number])
    )
    return {"checked": count, "mismatches": len(differing), "first": plan.label(differing[0]) if differing else None}


def same(truth: Record, other: Record) -> bool:
    """Return whether two records say the same: outcome, counts, right answers, and every bit of the outputs."""
    return (truth.outcome, truth.counts, truth.right, truth.logits) == (
        other.outcome,
        other.counts,
        other.right,
        other.logits,
    )
