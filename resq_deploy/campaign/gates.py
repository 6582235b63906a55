"""Gates: bounds that the figures of a campaign must keep below, by the upper ends of their intervals.

A gate is asked of one bit error rate (`sdc1@1e-3=0.01`), or of every rate of the grid where it names none: rates are
never pooled. It passes when the interval ends at or below its bound, so that few faults cannot pass it by showing
nothing: n faults without an event leave an upper end of about 1 - (alpha/2)^(1/n). A gate below that is refused before
anything runs.
"""

import bisect
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.campaign.options import DEFAULT_MARGIN, CampaignOptions, Draw, FaultModel
from resq_deploy.campaign.plan import Plan
from resq_deploy.errors import OptionError
from resq_deploy.faults.judges.registry import RUNGS
from resq_deploy.faults.statistics import cluster

_MANY = 10**6
"""Beyond so many units what a gate needs is told by the binomial bound of an endless population alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """A bound on one figure.

    Attributes:
        metric: a rung of the ladder of the judge, or `due`.
        bound: what the upper end of its interval may be at most, in [0, 1].
        ber: the bit error rate that is meant; None for every one, and for other fault models.
    """

    metric: str
    bound: float
    ber: float | None = None

    def __str__(self) -> str:
        """Return the gate as it is given on the command line."""
        return f"{self.metric}{'' if self.ber is None else f'@{self.ber:g}'}={self.bound:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """What a gate takes to pass.

    Attributes:
        gate: the gate, of one bit error rate where there are several.
        unit: what is drawn: chips or faults.
        fewest: how many of them, without a single event, bring the upper end down to the bound; None if no number does.
        planned: how many are drawn; None where a margin decides.
        margin: the margin that decides; None where the number is given.
        reachable: whether it can pass at the number planned.
    """

    gate: Gate
    unit: str
    fewest: int | None
    planned: int | None
    margin: float | None
    reachable: bool

    def __str__(self) -> str:
        """Return it in words."""
        told = f"--fail-above {self.gate}"
        if self.fewest is None:
            return f"{told}: no number of {self.unit} shows that a rate is that low"
        needs = f"{told}: needs {self.fewest:,} {self.unit} or more, without an event in any"
        if self.planned is not None:
            return f"{needs}; {self.planned:,} {'are' if self.planned != 1 else 'is'} planned"
        return f"{needs}, drawn evenly; they are drawn until a margin of {self.margin:g} is reached"


def parse_gate(text: str) -> Gate:
    """Read a gate such as `sdc1=0.01` or `sdc1@1e-3=0.01`.

    Raises:
        OptionError: if it is none, or its bound is no share.
    """
    name, _, bound = text.partition("=")
    metric, at, rate = name.partition("@")
    if metric not in (*RUNGS, "due"):
        raise OptionError(f"--fail-above {text!r}: metrics are {', '.join(RUNGS)}, due")
    try:
        gate = Gate(metric=metric, bound=float(bound), ber=float(rate) if at else None)
    except ValueError as error:
        raise OptionError(
            f"--fail-above {text!r}: give METRIC=BOUND or METRIC@BER=BOUND, such as sdc1=0.01 or sdc1@1e-3=0.01"
        ) from error
    if not 0.0 <= gate.bound <= 1.0:
        raise OptionError(f"--fail-above {text!r}: give a bound from 0 to 1, such as sdc1=0.01 for one per cent")
    return gate


def check_rungs(gates: Sequence[Gate], ladder: Sequence[str]) -> None:
    """Refuse gates of what the judge of a campaign does not count.

    Raises:
        OptionError: naming the first of them.
    """
    for gate in gates:
        if gate.metric not in (*ladder, "due"):
            raise OptionError(f"--fail-above {gate}: this judge counts {', '.join(ladder)}, and due")


def needs(gates: Sequence[Gate], plan: Plan) -> list[Need]:
    """Return what each gate takes to pass, one entry a bit error rate.

    Raises:
        OptionError: if a gate names a bit error rate that the campaign has not, or layers are drawn.
    """
    if gates and plan.options.draw is Draw.LAYERS:
        raise OptionError(
            f"--fail-above {gates[0]}: holds a bound on what flips of stored bits do, which are all as likely, and "
            "--draw layers makes those of small layers likelier: leave it out, or draw bits"
        )
    return [_need(one, plan) for gate in gates for one in _at_each_rate(gate, plan.options)]


def check_reachable(gates: Sequence[Gate], plan: Plan) -> None:
    """Refuse gates that would fail whatever the faults do.

    Raises:
        OptionError: if a gate names a bit error rate that the campaign has not, cannot pass at the number of chips or
            faults planned, or asks for faults that are due, which takes all images of each.
    """
    if plan.share < 1.0 and (due := next((gate for gate in gates if gate.metric == "due"), None)):
        raise OptionError(
            f"--fail-above {due}: a fault that is due on any image takes all of them to find, and each is judged on "
            f"{plan.images_per_fault} or so: give --images-per-fault all"
        )
    for need in needs(gates, plan):
        if not need.reachable:
            mend = "--chips" if need.unit == "chips" else "--samples"
            given = "" if need.fewest is None else f", so that it cannot pass: give {mend} {need.fewest} or more"
            raise OptionError(f"{need}{given or ': give a bound above 0'}")


def held(gates: Sequence[Gate], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the figures of a campaign against gates.

    Args:
        gates: the gates, of rates that the campaign has.
        summary: its figures, as in `summary.json`.

    Returns:
        One entry a gate and bit error rate: `metric`, `ber` (None for other fault models), `bound`, `estimate` and
        `passed`; a figure without a fault that could be judged fails.
    """
    results = []
    for gate in gates:
        for point in summary.get("curve", [summary]):
            if gate.ber in (None, point.get("ber")):
                found = point["due"] if gate.metric == "due" else point["rates"][gate.metric]
                passed = found is not None and found["high"] <= gate.bound
                at = {"metric": gate.metric, "ber": point.get("ber"), "bound": gate.bound}
                results.append({**at, "estimate": found, "passed": passed})
    return results


def _at_each_rate(gate: Gate, options: CampaignOptions) -> Iterator[Gate]:
    if options.faults is not FaultModel.BER:
        if gate.ber is not None:
            raise OptionError(f"--fail-above {gate}: only --faults ber has bit error rates; leave out @{gate.ber:g}")
        yield gate
    elif gate.ber is None:
        yield from (dataclasses.replace(gate, ber=rate) for rate in options.ber)
    elif gate.ber in options.ber:
        yield gate
    else:
        rates = ", ".join(f"{rate:g}" for rate in options.ber)
        raise OptionError(f"--fail-above {gate}: the bit error rates of this campaign are {rates}; add it to --ber")


def _need(gate: Gate, plan: Plan) -> Need:
    options = plan.options
    chips = options.faults is FaultModel.BER
    grows = plan.sample is not None or (chips and options.margin is not None)
    planned = None if grows else options.chips if chips else len(plan)
    return Need(
        gate=gate,
        unit="chips" if chips else "faults",
        fewest=_fewest(gate.bound, plan.size, options.confidence, plan.share),
        planned=planned,
        margin=(DEFAULT_MARGIN if options.margin is None else options.margin) if planned is None else None,
        reachable=planned is None or _upper_end(planned, plan.size, options.confidence, plan.share) <= gate.bound,
    )


def _upper_end(n: int, population: float, confidence: float, share: float) -> float:
    """Return the upper end that `n` faults or chips without an event leave, judged on a share of the images."""
    return cluster(np.zeros(n), population, confidence, share=share).high


def _fewest(bound: float, population: float, confidence: float, share: float) -> int | None:
    """Return the least number of faults or chips without an event whose upper end is within a bound."""
    if bound in (0.0, 1.0):
        known = share == 1.0 and not math.isinf(population)
        return 1 if bound else int(population) if known else None
    binomial = math.ceil(math.log((1.0 - confidence) / 2) / math.log1p(-bound))
    if share < 1.0 and not math.isinf(population):
        endless = _fewest(bound, math.inf, confidence, share)
        return endless if endless is not None and endless <= population else None
    most = int(min(2 * binomial, population))
    if binomial > _MANY:
        return min(binomial, most)

    def passes(n: int) -> bool:
        return n > 0 and _upper_end(n, population, confidence, share) <= bound

    return bisect.bisect_left(range(most), True, key=passes)
