"""Exposure: what each role of stored bits adds to wrong answers, failing faults and files that no longer run."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.report.document import Block, Dots, JsonEstimate, Section, Series, Table
from resq_deploy.report.fault_table import FaultTable
from resq_deploy.report.runs import Run
from resq_deploy.report.task import Task, judged_on, task_of
from resq_deploy.report.text import NONE, count, counted, listed, percent, quantity, rate, share
from resq_deploy.report.wide import folded_where_wide

_FIRST_ORDER = 0.5
_BEYOND = "no longer rare"
_UNBOUNDED = "not known to be rare"
_FEWEST_HARMFUL = 10
"""A count of k faults has a relative standard error of 1 / sqrt(k): below ten it is over 30 %, before it is shared."""

Exposure = Mapping[str, Any]


def exposed(run: Run, table: FaultTable) -> Section:
    """Return what each role adds to each kind of failure, and what that makes at a bit error rate and in time."""
    exposure, task = run.summary["exposure"], task_of(run)
    roles = exposure["roles"]
    harmful = int(np.count_nonzero(table.sdc1 > 0.0))
    enough = harmful >= _FEWEST_HARMFUL
    by_risk = sorted(roles, key=lambda role: -(roles[role]["share_of_risk"] or 0.0))
    title = _finding(exposure, harmful, len(table))
    seen = [role for role in by_risk if roles[role]["wrong_answers"] is not None]
    drawn = {"wrong answers": "wrong_answers", "failing faults": "failing_faults"}
    if "failing_faults" in exposure.get("at_least", ()):
        del drawn["failing faults"]  # a lower end alone is no dot
    blocks: list[Block] = [
        f"What faults of one bit each do while they are rare (first order), over the {exposure['bits']:,} stored bits "
        f"that this campaign could hit. Wrong answers are the mean share of {task.unit} runs that a fault gives "
        f"another answer ({task.answer}). Failing faults are those that change any answer: a stored fault persists "
        "until the file is loaded again, so that they count devices that became faulty. A fault that is due, after "
        "which the file no longer loads or runs, counts as that alone.",
        *_at_least(run),
        _kinds(exposure, task),
        *_scrubbed(exposure),
        "Risk is what a role adds to the wrong answers: its share of the bits times the wrong answers of one fault.",
        Dots(
            rows=seen,
            series=[Series(name=name, estimates=[roles[role][kind] for role in seen]) for name, kind in drawn.items()],
            x_title=f"{', and '.join(drawn)}, of one fault (%)",
            log_x=True,
            description=f"{' and '.join(drawn).capitalize()} by role, the role with most risk on top. {title}.",
        ),
        *folded_where_wide(
            Table(
                headers=[
                    *("role", "bits", "of the bits", "wrong answers of one fault", "failing faults", "due", "faults"),
                    "of the risk",
                ],
                rows=[_role_row(role, exposure, shared=enough) for role in by_risk],
            ),
            [[roles[role]["wrong_answers"]] for role in by_risk],
            "faults",
        ),
        *_whose(run, roles, seen),
        *_expected(exposure, task),
    ]
    if harmful and not enough:
        blocks.append(f"Fewer than {_FEWEST_HARMFUL} faults did harm: one more or less would move the shares of risk.")
    return Section(title=f"{run.label}: {title}", topic="Exposure", blocks=blocks)


def _at_least(run: Run) -> list[Block]:
    """Say why failing faults have ends alone, or a lower one, where that is so."""
    exposure = run.summary["exposure"]
    if not exposure.get("at_least"):
        return []
    inert = run.summary["faults"].get("inert", 0)  # which earlier versions did not count
    if inert and exposure["failing_faults"]["total"]["high"] is not None:
        return [
            f"{judged_on(run)} A fault that fails on none of these may fail on others, but for the {count(inert)} that "
            "are proven to leave every image as it is: outvoted, corrected by a code, or without effect on what is "
            "run. Failing faults therefore have two ends, those surely seen to fail and all that may, and no value in "
            "between; --images-per-fault all brings the ends together. Faults that are due are those that are on their "
            "own images."
        ]
    return [
        f"{judged_on(run)} A fault that fails on none of these may fail on others: failing faults are given as those "
        "surely seen to fail, and bounded from below alone; --images-per-fault all bounds them from above. Faults "
        "that are due are those that are on their own images."
    ]


def _meanings(exposure: Exposure, task: Task) -> dict[str, tuple[str, str]]:
    """Return name and meaning of each kind of failure."""
    over = share(exposure["failing_share"])
    return {
        "wrong_answers": ("wrong answers", f"mean share of {task.unit} runs with another answer: {task.answer}"),
        "failing_faults": ("failing faults", "faults that change any answer"),
        "failing_faults_over_share": (f"failing faults, over {over}", f"faults that change more than {over} of them"),
        "due": ("due", "faults after which the file no longer loads or runs"),
    }


def _kinds(exposure: Exposure, task: Task) -> Table:
    """Return the kinds of failure over all roles: of one fault, and in time where the memory's rate is known."""
    fit = exposure["fit"]
    headers = ["failure", "meaning", "of one fault"]
    rows = [[name, what, percent(exposure[kind]["total"])] for kind, (name, what) in _meanings(exposure, task).items()]
    if fit:
        headers.append(f"in 10^9 hours (FIT), of a memory with {fit['fit_per_mbit']:g} FIT in 10^6 bits")
        rows = [[*row, quantity(fit[kind]["total"])] for row, kind in zip(rows, _meanings(exposure, task), strict=True)]
    return Table(headers=headers, rows=rows)


def _scrubbed(exposure: Exposure) -> list[Block]:
    """Say what comes on top where flips gather in words that single ones do not harm."""
    scrubbing = (exposure["fit"] or {}).get("scrubbing")
    if not scrubbing:
        return []
    if not scrubbing["parts"]:
        return ["Neither codes nor votes protect what could be hit: scrubbing the stored file changes none of this."]
    hours, lifetime = (f"{scrubbing[key]:g} hours" for key in ("hours", "lifetime_hours"))
    rows = [
        [part["protection"], count(part["count"]), str(part["bits"]), f"{part['fit']:.3g}", f"{part['fit_never']:.3g}"]
        for part in scrubbing["parts"]
    ]
    return [
        "Codes and votes correct single flips; those that gather come on top of the failing faults. Every word with "
        "more flips than its code corrects, and every value of which two copies were hit, counts as a failure, an "
        f"upper bound. Scrubbing is healing the stored file, or writing it anew, every {hours}; flips in memory, after "
        "the file was loaded, last until the session is created again.",
        Table(
            headers=[
                *("protected by", "words or values", "bits of one"),
                *(f"FIT, scrubbed every {hours}", f"FIT, never scrubbed in {lifetime}"),
            ],
            rows=rows,
        ),
    ]


def _whose(run: Run, roles: Exposure, seen: Sequence[str]) -> list[Block]:
    """Say of which roles the shares are, where these are not all."""
    told: list[Block] = []
    if run.options.get("roles"):
        told.append(f"Only bits of {listed(run.options['roles'])} were chosen: all shares are among these.")
    unseen = [role for role in roles if role not in seen]
    if unseen:
        told.append(
            f"No fault fell on {listed(unseen)}: what they add is not known. In totals they count as the mean of all "
            "faults, and intervals of totals and of shares of the risk leave it open."
        )
    return told


def _finding(exposure: Exposure, harmful: int, faults: int) -> str:
    """Say which roles carry more of the risk than of the bits, as far as the faults can tell."""
    roles = exposure["roles"]
    known = [role for role in roles if roles[role]["share_of_risk"] is not None]
    if not harmful or not known:
        return "No fault of this campaign changed an answer" + (" on its images" if exposure.get("at_least") else "")
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
    risk = _share_of_risk(exposure, heavy)
    if 0 < len(light) < len(heavy) and len(known) == len(roles):
        named = f"roles other than {listed(light)} hold"
    else:
        named = f"{listed(heavy)} {'holds' if len(heavy) == 1 else 'hold'}"
    doubt = "" if risk["low"] > bits else ", which may be no more than their share of the bits"
    return f"{named} {share(bits)} of the bits and {percent(risk)} of the risk{doubt}"


def _share_of_risk(exposure: Exposure, chosen: Collection[str]) -> JsonEstimate:
    """Return the share of some roles in the risk of all roles hit.

    Its ends are those of the roles' parts, of these roles off to one side and of the others to the other: it holds
    wherever the intervals of all roles do.
    """
    ends: dict[bool, list[float]] = {True: [0.0, 0.0, 0.0], False: [0.0, 0.0, 0.0]}
    for role, part in exposure["wrong_answers"]["by_role"].items():
        for place, key in enumerate(("value", "low", "high")):
            ends[role in chosen][place] += part[key]
    (value, low, high), (rest, rest_low, rest_high) = ends[True], ends[False]
    return {
        "value": value / (value + rest) if value else 0.0,
        "low": low / (low + rest_high) if low else 0.0,
        "high": high / (high + rest_low) if high else 0.0,
    }


def _role_row(role: str, exposure: Exposure, *, shared: bool) -> list[str]:
    entry = exposure["roles"][role]
    wrong = entry["wrong_answers"]
    known = shared and entry["share_of_risk"] is not None
    return [
        role,
        count(entry["bits"]),
        share(entry["share_of_bits"]),
        *(percent(entry[kind]) for kind in ("wrong_answers", "failing_faults", "due")),
        count(wrong["n"]) if wrong else "0",
        percent(_share_of_risk(exposure, [role])) if known else NONE,
    ]


def _expected(exposure: Exposure, task: Task) -> list[Block]:
    """Return what is expected at each bit error rate, and what to do where that is no longer first order."""
    kinds = _meanings(exposure, task)
    rows = [[rate(at["ber"]), *(_first_order(at[kind]["total"]) for kind in kinds)] for at in exposure["at"]]
    headers = ["expected, at a bit error rate of", *(name for name, _ in kinds.values())]
    blocks: list[Block] = [Table(headers=headers, rows=rows)]
    if any(cell in (_BEYOND, _UNBOUNDED) for row in rows for cell in row):
        blocks.append(
            f"Where failures are {_BEYOND}, first order tells nothing: run --faults ber. Where they are {_UNBOUNDED}, "
            "more faults may show that they are."
        )
    return blocks


def _first_order(expected: JsonEstimate) -> str:
    """Write a first-order probability while all of its interval is small enough for one."""
    if expected["value"] is None:
        if expected["low"] >= _FIRST_ORDER:
            return _BEYOND
        return percent(expected) if (expected["high"] or 0.0) < _FIRST_ORDER else _UNBOUNDED
    if expected["high"] < _FIRST_ORDER:
        return percent(expected)
    return _BEYOND if expected["value"] >= _FIRST_ORDER else _UNBOUNDED
