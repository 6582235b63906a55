"""Exposure: what each role of stored bits adds to the risk of a wrong answer, while faults are rare."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from resq_deploy.report.document import Block, Dots, JsonEstimate, Section, Series, Table
from resq_deploy.report.fault_table import FaultTable
from resq_deploy.report.runs import Run
from resq_deploy.report.text import NONE, count, counted, listed, percent, quantity, rate, share

_FIRST_ORDER = 0.5
_BEYOND = "faults are no longer rare: run --faults ber"
_UNBOUNDED = "not known, faults may be no longer rare: draw more faults, or run --faults ber"
_FEWEST_HARMFUL = 10
"""A count of k faults has a relative standard error of 1 / sqrt(k): below ten it is over 30 %, before it is shared."""

Roles = dict[str, Any]


def exposed(run: Run, table: FaultTable) -> Section:
    """Return what each role adds to the risk, and what that makes at a bit error rate."""
    exposure = run.summary["exposure"]
    roles = exposure["roles"]
    harmful = int(np.count_nonzero(table.sdc1 > 0.0))
    enough = harmful >= _FEWEST_HARMFUL
    by_risk = sorted(roles, key=lambda role: -(roles[role]["share_of_risk"] or 0.0))
    title = _finding(roles, harmful, len(table))
    seen = [role for role in by_risk if roles[role]["sdc1"] is not None]
    blocks: list[Block] = [
        "Risk is SDC-1 of one fault times the stored bits of a role: what each role adds to the wrong answers while "
        "faults are rare (first order). Its interval follows from those of SDC-1.",
        Dots(
            rows=seen,
            series=[Series(name=run.label, estimates=[roles[role]["sdc1"] for role in seen])],
            x_title="SDC-1 of one fault (%)",
            log_x=True,
            description=f"SDC-1 by role, the role with most risk on top. {title}.",
        ),
        Table(
            headers=["role", "bits", "of the bits", "SDC-1 of one fault", "faults", "of the risk"],
            rows=[_role_row(role, roles, shared=enough) for role in by_risk],
        ),
        *_whose(run, roles, seen),
        _expected(exposure),
    ]
    if harmful and not enough:
        blocks.append(f"Fewer than {_FEWEST_HARMFUL} faults did harm: one more or less would move the shares of risk.")
    if exposure["fit"]:
        blocks.append(
            f"With {exposure['fit']['fit_per_mbit']:g} raw failures in 10^9 hours and 10^6 bits of memory: "
            f"{quantity(exposure['fit']['expected_sdc1'])} wrong-answer faults in 10^9 hours (FIT)."
        )
    return Section(title=f"{run.label}: {title}", topic="Exposure", blocks=blocks)


def _whose(run: Run, roles: Roles, seen: Sequence[str]) -> list[Block]:
    """Say of which roles the shares are, where these are not all."""
    told: list[Block] = []
    if run.options.get("roles"):
        told.append(f"Only bits of {listed(run.options['roles'])} were chosen: all shares are among these.")
    unseen = [role for role in roles if role not in seen]
    if unseen:
        told.append(
            f"No fault fell on {listed(unseen)}: what they add to the risk is not known, and shares of the risk are "
            "among the other roles."
        )
    return told


def _finding(roles: Roles, harmful: int, faults: int) -> str:
    """Say which roles carry more of the risk than of the bits, as far as the faults can tell."""
    known = [role for role in roles if roles[role]["share_of_risk"] is not None]
    if not harmful or not known:
        return "No fault of this campaign changed an answer"
    changed = f"{harmful:,} of {counted(faults, 'fault')} changed an answer"
    if len(roles) == 1:
        return f"{changed}, all of them bits of {known[0]}"
    if harmful < _FEWEST_HARMFUL:
        return f"{changed}, too few to share out the risk"
    heavy = [role for role in known if roles[role]["share_of_risk"] > roles[role]["share_of_bits"]]
    if len(known) < 2 or not heavy:
        return f"{changed}; no other role was hit to compare {known[0]} with"
    light = [role for role in known if role not in heavy]
    bits = sum(roles[role]["share_of_bits"] for role in heavy)
    risk = _share_of_risk(roles, heavy)
    if 0 < len(light) < len(heavy):
        named = f"roles other than {listed(light)} hold"
    else:
        named = f"{listed(heavy)} {'holds' if len(heavy) == 1 else 'hold'}"
    among = "" if len(known) == len(roles) else f", among the {len(known)} roles hit"
    doubt = "" if risk["low"] > bits else ", which may be no more than their share of the bits"
    return f"{named} {share(bits)} of the bits and {percent(risk)} of the risk{among}{doubt}"


def _share_of_risk(roles: Roles, chosen: Collection[str]) -> JsonEstimate:
    """Return the share of some roles in the risk of all roles hit.

    Its interval is put together from those of SDC-1: the parts of a sum as in MOVER, and the two sums, of these roles
    and of the others, off to opposite sides.
    """
    parts: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for role, entry in roles.items():
        if entry["sdc1"] is not None:
            value, low, high = (entry["bits"] * entry["sdc1"][key] for key in ("value", "low", "high"))
            parts[role in chosen].append((value, low, high))
    (value, low, high), (rest, rest_low, rest_high) = _sum(parts[True]), _sum(parts[False])
    return {
        "value": value / (value + rest) if value else 0.0,
        "low": low / (low + rest_high) if low else 0.0,
        "high": high / (high + rest_low) if high else 0.0,
    }


def _sum(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    value = sum(one[0] for one in parts)
    low = value - math.hypot(*(value - low for value, low, _ in parts))
    high = value + math.hypot(*(high - value for value, _, high in parts))
    return value, max(0.0, low), high


def _role_row(role: str, roles: Roles, *, shared: bool) -> list[str]:
    entry = roles[role]
    sdc1 = entry["sdc1"]
    known = shared and entry["share_of_risk"] is not None
    return [
        role,
        count(entry["bits"]),
        share(entry["share_of_bits"]),
        percent(sdc1),
        count(sdc1["n"]) if sdc1 else "0",
        percent(_share_of_risk(roles, [role])) if known else NONE,
    ]


def _expected(exposure: dict[str, Any]) -> Table:
    rows = [[rate(at["ber"]), _first_order(at["expected_sdc1"])] for at in exposure["at"]]
    return Table(headers=["bit error rate", "expected SDC-1 of an image run, first order"], rows=rows)


def _first_order(expected: JsonEstimate) -> str:
    """Write a first-order probability while all of its interval is small enough for one."""
    if expected["high"] < _FIRST_ORDER:
        return percent(expected)
    return _BEYOND if expected["value"] >= _FIRST_ORDER else _UNBOUNDED
