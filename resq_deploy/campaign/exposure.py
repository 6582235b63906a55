"""Which few per cent of the bits carry the risk: first-order exposure by role, and failures in time."""

import math
from collections.abc import Mapping
from typing import Any

from resq_deploy.campaign.plan import Plan

_MBIT = 1e6


def exposure(plan: Plan, by_role: Mapping[str, Any], overall: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the expected SDC-1 at each bit error rate asked for, split by role.

    To first order, expected SDC = sum over roles of bits * rate * SDC-1 of a single flip in that role; it holds while
    two faults at once are unlikely (bits * rate well below 1), and bounds the probability from above beyond that: it is
    cut at 1. With a raw rate in FIT/Mbit (Mbit: 10^6 bits) it gives
    failures per 10^9 hours, too.

    Args:
        plan: the campaign's plan; only fault models that hit one place at a time have an exposure.
        by_role: rates by role, as in the summary.
        overall: SDC-1 over all roles, an estimate as in the summary; None where no fault was judged.

    Returns:
        `roles` (bits, share of bits, SDC-1, share of the risk), `at` (one entry a bit error rate) and `fit`; None
        for a fault list.
    """
    if plan.population is None or overall is None:
        return None
    bits: dict[str, int] = {}
    for surface in plan.surfaces:
        bits[str(surface.role)] = bits.get(str(surface.role), 0) + surface.bits
    total = sum(bits.values())
    known = {role: by_role[role]["sdc1"] for role in bits if role in by_role and by_role[role]["sdc1"] is not None}
    risk = sum(bits[role] * known[role]["value"] for role in known)
    roles = {
        role: {
            "bits": count,
            "share_of_bits": count / total,
            "sdc1": known.get(role),
            "share_of_risk": bits[role] * known[role]["value"] / risk if role in known and risk else None,
        }
        for role, count in bits.items()
    }
    rate = plan.options.fit_per_mbit
    return {
        "roles": roles,
        "complete": len(known) == len(bits),
        "at": [{"ber": ber, **_scaled(bits, known, overall, ber, most=1.0)} for ber in plan.options.ber],
        "fit": None if rate is None else {"fit_per_mbit": rate, **_scaled(bits, known, overall, rate / _MBIT)},
    }


def _scaled(
    bits: Mapping[str, int],
    known: Mapping[str, Mapping[str, float]],
    overall: Mapping[str, float],
    factor: float,
    most: float = math.inf,
) -> dict[str, Any]:
    """Return bits * factor * SDC-1, over all roles and for each, with the intervals scaled alike and cut."""

    def times(count: int, estimate: Mapping[str, float]) -> dict[str, float]:
        scaled = {key: min(most, count * factor * estimate[key]) for key in ("value", "low", "high")}
        return {**scaled, "n": estimate["n"], "confidence": estimate["confidence"]}

    return {
        "expected_sdc1": times(sum(bits.values()), overall),
        "by_role": {role: times(bits[role], known[role]) for role in known},
    }
