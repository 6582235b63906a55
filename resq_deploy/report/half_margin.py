"""What hardening gains where it matters: at the radius and the rate that take half of the baseline's margin.

A gain at the radius with the largest gain flatters, and one at a rate that nobody loses anything at says nothing. The
margin of a file is its clean accuracy less chance; levels are told by the plain baseline alone, so that the hardened
file has no say in where it is measured.
"""

import dataclasses
from collections.abc import Sequence

from resq_deploy.report.document import Block, Section, Table
from resq_deploy.report.study_figures import Corner, Kind, Metric, change, metrics_of
from resq_deploy.report.text import NONE, percent, points

PUBLISHED = {"attack": 10.35, "fault": 12.47}
"""Largest gains of RESQ (arXiv 2603.15413), in points: of attack resilience, of fault resilience."""

_AT_STAKE: tuple[Kind, ...] = ("attack", "fault")

_FAR = 0.25
"""A level at which the baseline's share of its margin is farther than this from a half is called coarse."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HalfMargin:
    """Where the plain baseline has lost about half of its margin.

    Attributes:
        metric: the level measured that is nearest to it.
        left: the share of its margin above chance that the baseline has there; 0.5 where the level is met exactly.
    """

    metric: Metric
    left: float

    @property
    def coarse(self) -> bool:
        """Return whether the levels measured are too far apart to speak of half of the margin."""
        return abs(self.left - 0.5) > _FAR


def half_margin(baseline: Corner, kind: Kind) -> HalfMargin | None:
    """Return where the baseline has lost about half of its margin; None where chance or the figures are not known.

    Faults are those of bits drawn evenly: what random flips do.
    """
    clean = baseline.mean(Metric(kind="clean"))
    if clean is None or baseline.chance is None or clean.value <= baseline.chance:
        return None
    found = []
    for metric in metrics_of([baseline]):
        mean = baseline.mean(metric)
        if metric.kind == kind and not metric.draw and mean is not None:
            left = (mean.value - baseline.chance) / (clean.value - baseline.chance)
            found.append(HalfMargin(metric=metric, left=left))
    return min(found, key=lambda one: abs(one.left - 0.5), default=None)


def half_margin_section(corners: Sequence[Corner], pairs: Sequence[tuple[str, str]]) -> Section | None:
    """Return the gains at half of the baseline's margin, network by network; None where nothing was run that has any.

    Args:
        corners: of the study.
        pairs: its networks and data sets.
    """
    rows = []
    for pair in pairs:
        named = {one.variant: one for one in corners if (one.network, one.dataset) == pair and one.seeds}
        halves = [half_margin(named["baseline"], kind) for kind in _AT_STAKE] if "baseline" in named else []
        if any(halves):
            rows.append(_row(", ".join(pair), named, Metric(kind="clean"), "without attack or fault"))
            rows += [_row(", ".join(pair), named, half.metric, _place(half)) for half in halves if half]
    if not rows:
        return None
    headers = [
        "network, data set",
        "accuracy",
        "plain baseline",
        "hardened less plain baseline",
        "hardened less baseline with the same stage 3",
        "protected less plain baseline",
    ]
    text = (
        "Levels are those at which the plain baseline keeps about half of its margin above chance, told in brackets. "
        "Training's own share of a gain is that against the baseline with the same stage 3. Points, with intervals "
        f"where the figures have them. The paper's largest gains are {PUBLISHED['attack']} points under attack and "
        f"{PUBLISHED['fault']} under faults, at levels that it does not say."
    )
    blocks: list[Block] = [text, Table(headers=headers, rows=rows)]
    return Section(title="Where the baseline has lost half of its margin", topic="half of the margin", blocks=blocks)


def _place(half: HalfMargin) -> str:
    nearest = ", the level nearest to half that was run" if half.coarse else ""
    return f"{half.metric.place} [{100 * half.left:.0f} % of the margin left{nearest}]"


def _row(pair: str, named: dict[str, Corner], metric: Metric, place: str) -> list[str]:
    mean = named["baseline"].mean(metric)
    return [
        pair,
        place,
        percent(mean.as_dict() if mean else None),
        _change(named, "baseline", _hardened(named), metric),
        _change(named, "baseline+stage3", _hardened(named), metric),
        _change(named, "baseline", "protected", metric),
    ]


def _hardened(named: dict[str, Corner]) -> str:
    return "resq" if "resq" in named else "attack+fault"


def _change(named: dict[str, Corner], before: str, after: str, metric: Metric) -> str:
    if before not in named or after not in named:
        return NONE
    found = change(named[before], named[after], metric)
    return points(found.as_dict()) if found else NONE
