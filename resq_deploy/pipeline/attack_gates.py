"""Gates of an attack campaign: bounds that accuracy must keep above, by the lower ends of its intervals.

`robust@4=0.4` asks for the worst case over the attacks of the campaign at that radius, or at every radius where none is
named. A figure of attacks that failed a validity check shows nothing, however high it is: such a gate fails. Where no
check failed, but no attack had the gradients of the file, or those that look for masked gradients did not run, the
figure is one of these attacks alone; the gate passes and says so. `trustworthy` asks for more: that no check failed,
and that the ones for masked gradients were run and passed.

`corruptions@3=0.6` asks for the mean accuracy over the corruptions at a severity, `corruptions=0.6` for that over all
severities. No check of an attack says anything of these.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.attacks.checks import CONFIDENCE
from resq_deploy.attacks.corruptions import SEVERITIES
from resq_deploy.errors import OptionError
from resq_deploy.faults.statistics import cluster, share
from resq_deploy.pipeline.attack_options import CORRUPTIONS, ON_IMAGES, SURROGATE, TWIN, AttackOptions

_METRICS = ("robust", "clean", "trustworthy", CORRUPTIONS)
_BLACK_BOX = ("square", "hopskipjump")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackGate:
    """A bound on one figure.

    Attributes:
        metric: `robust`, `clean`, `corruptions`, or `trustworthy`, which has no bound.
        bound: what the lower end of its interval must be at least, in [0, 1].
        epsilon: the radius that is meant, as the campaign names it; None for every one, and for other metrics.
        severity: the severity that is meant, from 1 to 5; None for the mean over all, and for other metrics.
    """

    metric: str
    bound: float | None = None
    epsilon: str | None = None
    severity: int | None = None

    def __str__(self) -> str:
        """Return the gate as it is given on the command line."""
        place = self.severity if self.epsilon is None else self.epsilon
        at = "" if place is None else f"@{place}"
        return f"{self.metric}{at}{'' if self.bound is None else f'={self.bound:g}'}"


def parse_gate(text: str) -> AttackGate:
    """Read a gate such as `robust@4=0.4`, `robust=0.4`, `clean=0.9`, `corruptions@3=0.6` or `trustworthy`.

    Raises:
        OptionError: if it is none, or its bound is no share.
    """
    name, given, bound = text.partition("=")
    metric, at, place = name.partition("@")
    if metric not in _METRICS:
        raise OptionError(f"--fail-below {text!r}: metrics are {', '.join(_METRICS)}")
    if at and metric not in ("robust", CORRUPTIONS):
        raise OptionError(
            f"--fail-below {text!r}: only robust takes a radius, and corruptions a severity; leave out @{place}"
        )
    if metric == CORRUPTIONS and at and place not in map(str, SEVERITIES):
        raise OptionError(f"--fail-below {text!r}: severities are 1 to 5, such as corruptions@3=0.6")
    if metric == "trustworthy":
        if given:
            raise OptionError(f"--fail-below {text!r}: it is or is not; leave out ={bound}")
        return AttackGate(metric=metric)
    try:
        where: dict[str, Any] = {}
        if at:
            where = {"epsilon": f"{float(place):g}"} if metric == "robust" else {"severity": int(place)}
        gate = AttackGate(metric=metric, bound=float(bound), **where)
    except ValueError as error:
        raise OptionError(
            f"--fail-below {text!r}: give METRIC=BOUND or robust@EPSILON=BOUND, such as clean=0.9 or robust@4=0.4"
        ) from error
    if gate.bound is None or not 0.0 <= gate.bound <= 1.0:
        raise OptionError(f"--fail-below {text!r}: give a bound from 0 to 1, such as robust@4=0.4 for 40 per cent")
    return gate


def check_reachable(gates: Sequence[AttackGate], options: AttackOptions, images: int) -> None:
    """Refuse gates that would fail whatever the attacks do.

    Args:
        gates: the gates.
        options: of the campaign.
        images: how many are attacked.

    Raises:
        OptionError: naming what is missing.
    """
    attacks = [name for name in options.chosen if name in ON_IMAGES]
    for gate in gates:
        told = f"--fail-below {gate}"
        if gate.metric == CORRUPTIONS:
            if CORRUPTIONS not in options.chosen:
                raise OptionError(f"{told}: takes corruptions: add them to --attacks")
        elif gate.metric != "clean" and not attacks:
            raise OptionError(f"{told}: takes an attack on images: name one in --attacks")
        if gate.epsilon is not None and gate.epsilon not in options.radii:
            raise OptionError(f"{told}: the radii of this campaign are {', '.join(options.radii)}; add it to --epsilon")
        if gate.metric == "trustworthy" and (mend := _missing(attacks, options)):
            raise OptionError(f"{told}: the checks that look for masked gradients cannot all run: {mend}")
        if gate.bound is not None and _best(gate, images) < gate.bound:
            raise OptionError(
                f"{told}: cannot pass with {images:,} images, of which even all right leave a lower end below it: give "
                "more --images or a lower bound"
            )


def _best(gate: AttackGate, images: int) -> float:
    """Return the highest lower end that a figure on so many images can have."""
    if gate.metric == CORRUPTIONS:
        return cluster(np.ones(images), math.inf, CONFIDENCE).low
    return share(images, images, CONFIDENCE).low


def _missing(attacks: Sequence[str], options: AttackOptions) -> str:
    """Return what the checks that make a campaign trustworthy lack; empty where they lack nothing."""
    if not set(attacks) & set(TWIN):
        return "add twin-pgd or twin-apgd to --attacks"
    if not set(attacks) & {*_BLACK_BOX, *SURROGATE}:
        return "add square to --attacks"
    return "give more than one --epsilon" if len(options.radii) < 2 else ""


def held(gates: Sequence[AttackGate], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the figures of a campaign against gates.

    Args:
        gates: the gates.
        summary: its figures, as in `summary.json`.

    Returns:
        One entry a gate and radius: `metric`, `epsilon` (None but for `robust`), `severity` (None but for one of
        `corruptions`), `bound` and `estimate` (None of `trustworthy`), `passed`, and `reason`: why it failed, or what
        it passed with; empty where there is neither.
    """
    results = []
    for gate in gates:
        if gate.metric == "robust":
            radii = [radius for radius in summary["worst_case"] if gate.epsilon in (None, radius)]
            figures = [(radius, summary["worst_case"][radius]) for radius in radii]
        elif gate.metric == CORRUPTIONS:
            found = summary[CORRUPTIONS]
            figures = [(None, found["mean"] if gate.severity is None else found["by_severity"][str(gate.severity)])]
        else:
            figures = [(None, summary["clean"] if gate.metric == "clean" else None)]
        for radius, estimate in figures:
            passed, reason = _judged(gate, estimate, summary)
            at = {"metric": gate.metric, "epsilon": radius, "severity": gate.severity, "bound": gate.bound}
            results.append({**at, "estimate": estimate, "passed": passed, "reason": reason})
    return results


def _judged(gate: AttackGate, found: Mapping[str, Any] | None, summary: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether a gate passes, and why not or with what reservation."""
    unsound, unseen = _unsound(summary), _unseen(summary)
    if gate.metric == "trustworthy":
        return summary["trustworthy"] is True, unsound or unseen
    if gate.metric == "robust" and unsound:
        return False, f"not trustworthy: {unsound}"
    if found is None or found["low"] < (gate.bound or 0.0):
        return False, "the lower end is below the bound"
    return True, unseen if gate.metric == "robust" else ""


def _unsound(summary: Mapping[str, Any]) -> str:
    """Return which validity checks failed; empty where none did."""
    failed = [name for name, check in summary["checks"].items() if check["passed"] is False]
    return f"{'checks' if failed[1:] else 'check'} {', '.join(failed)} failed" if failed else ""


def _unseen(summary: Mapping[str, Any]) -> str:
    """Return what nobody has looked at; empty where it was looked at."""
    if summary["upper_bound"]:
        return "an upper bound: no attack had the gradients of the file"
    missing = summary["trustworthy_missing"]
    return f"of the checks for masked gradients {', '.join(missing)} did not run" if missing else ""
