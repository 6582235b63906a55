"""What a file that reports its own health says of the faults in it: which of those that do harm are detected."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.deployed.coded import HEALTH
from resq_deploy.faults import stratified
from resq_deploy.faults.coverage import coverage

if TYPE_CHECKING:
    from resq_deploy.campaign.summary import Figures

Flags = NDArray[np.bool_]
Group = tuple[str, str]


def detection(figures: "Figures", domain: Flags, group: Group | None = None) -> dict[str, Any] | None:
    """Return what is detected of the faults in a domain; None where the file reports nothing.

    `detected` is the share of faults under which the report is another than the fault-free file's, `uncorrectable` of
    those under which it counts more uncorrectable words. Diagnostic coverage (ISO 26262-5, annex D) is the share of
    failing faults - those that change any answer, not `due` - that are; None where no fault failed. A fault that the
    code takes for a smaller one is reported as corrected: the second coverage leaves it out.

    What the file reports takes no image to know, whether a fault fails takes all. Where each was judged on some of
    them, `failing` counts those that were seen to fail, at least, and `at_least` names it. They are rather the ones
    that fail on many images, so that both coverages are None; the rates tell which wrong answers are detected.

    Args:
        figures: of the campaign.
        domain: which faults count, shape [n].
        group: the role that the domain is; None for all faults, or all chips at one rate.
    """
    if not figures.reports:
        return None
    failing = (figures.at_least("sdc1") > 0) & figures.judged
    kinds = {"detected": figures.detected, "uncorrectable": figures.uncorrectable}
    found: dict[str, Any] = {
        name: figures.estimate(flags, domain, group, figures.judged).as_dict()
        if (domain & figures.judged).any()
        else None
        for name, flags in kinds.items()
    }
    covered = {
        name: _coverage(figures, flags, failing, domain, group) if figures.all_images else None
        for name, flags in kinds.items()
    }
    return {
        "output": HEALTH,
        **found,
        "failing": int((failing & domain).sum()),
        "at_least": [] if figures.all_images else ["failing"],
        "diagnostic_coverage": covered["detected"],
        "diagnostic_coverage_uncorrectable": covered["uncorrectable"],
    }


def _coverage(
    figures: "Figures", flags: Flags, failing: Flags, domain: Flags, group: Group | None
) -> dict[str, float | int] | None:
    if not (failing & domain).any():
        return None
    sample = figures.plan.sample
    if sample is None:  # given how many fail, those that do are a simple sample of the failing faults there are
        return figures.estimate(flags, domain, group, failing).as_dict()
    part = None if group is None else figures.plan.part(*group)
    within = sample if part is None else sample.inside(domain, part)
    values = ((flags & failing)[domain].astype(np.float64), failing[domain].astype(np.float64))
    return coverage(*values, lambda each: stratified.estimate(each, within, figures.confidence)).as_dict()


def detections(figures: "Figures") -> dict[str, Any] | None:
    """Return what is detected of all faults, and by role, as in `summary.json`."""
    found = detection(figures, np.ones(len(figures.records), dtype=bool))
    if found is None:
        return None
    plan = figures.plan
    roles = np.array([plan.group(number, "role") for number in range(len(figures.records))])
    by_role = {role: detection(figures, roles == role, ("role", role)) for role in dict.fromkeys(roles.tolist())}
    return {**found, "by_role": by_role}
