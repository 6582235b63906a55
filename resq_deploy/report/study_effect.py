"""Figure 3 of RESQ (arXiv 2603.15413), of a study: what each stage does to accuracy, clean, attacked and faulty."""

from collections.abc import Sequence

from resq_deploy.report.document import Block, Dots, JsonEstimate, Section, Series
from resq_deploy.report.half_margin import half_margin
from resq_deploy.report.study_figures import Corner, Kind, Metric, change, metrics_of
from resq_deploy.report.text import listed, points

TOPIC = "Stage by stage"

_NAMES: dict[Kind, str] = {"clean": "clean", "attack": "under attack", "fault": "under faults"}
_LAST = ("protected", "resq", "attack+fault", "fault", "attack")
"""The variant that the heading speaks of: the first of these that was run."""


def effect_section(pair: tuple[str, str], corners: Sequence[Corner]) -> Section | None:
    """Return the accuracies of each variant of one network and data set, at one radius and one bit error rate.

    These are where the plain baseline has lost about half of its margin, where that is known, else the highest that
    were run.

    Args:
        pair: network and data set.
        corners: of these; variants without a seed that is done are left out.

    Returns:
        None where fewer than two variants were run.
    """
    run = [corner for corner in corners if corner.seeds]
    if len(run) < 2:
        return None
    levels = {kind: found for kind in _NAMES if (found := _level(run, kind)) is not None}
    series = [
        Series(name=_series_name(kind, metric), estimates=[_figure(corner, metric) for corner in run])
        for kind, (metric, _) in levels.items()
    ]
    rows = [corner.variant for corner in run]
    plot = Dots(
        rows=rows,
        series=series,
        x_title="accuracy of the deployed int8 file (%)",
        description="Clean accuracy, accuracy under attack and accuracy under faults, stage by stage",
    )
    told = [f"{_NAMES[kind]} at {metric.place} ({why})" for kind, (metric, why) in levels.items() if metric.level]
    seeds = "" if max(len(corner.seeds) for corner in run) < 2 else " Means over the seeds, with Student's intervals."
    text = f"Test accuracy of every variant, from the baseline on: clean, {listed(told)}.{seeds}" if told else ""
    blocks: list[Block] = [text, plot] if text else [plot]
    return Section(title=_finding(pair, run, levels), topic=TOPIC, blocks=blocks)


def _level(run: Sequence[Corner], kind: Kind) -> tuple[Metric, str] | None:
    """Return the metric of a kind that is drawn, and why this one; None where nothing of the kind was run."""
    found = [metric for metric in metrics_of(run) if metric.kind == kind and not metric.draw]
    if not found:
        return None
    baseline = next((corner for corner in run if corner.variant == "baseline"), None)
    half = half_margin(baseline, kind) if baseline and kind != "clean" else None
    if half is not None:
        nearest = "the level nearest to half of the baseline's margin that was run: " if half.coarse else ""
        return half.metric, f"{nearest}{100 * half.left:.0f} % of the baseline's margin is left"
    return max(found, key=lambda metric: float(metric.level or 0)), "the highest that was run"


def _series_name(kind: Kind, metric: Metric) -> str:
    return f"{_NAMES[kind]}, {metric.place}" if metric.level else _NAMES[kind]


def _figure(corner: Corner, metric: Metric) -> JsonEstimate | None:
    found = corner.mean(metric)
    return found.as_dict() if found else None


def _finding(pair: tuple[str, str], run: Sequence[Corner], levels: dict[Kind, tuple[Metric, str]]) -> str:
    """Say what the most hardened variant changed."""
    named = {corner.variant: corner for corner in run}
    last = next((named[name] for name in _LAST if name in named), None)
    where = f"{pair[0]} on {pair[1]}"
    if last is None or "baseline" not in named:
        return f"{where}: accuracy, stage by stage"
    shifts = [
        f"{_NAMES[kind]} by {points(shift.as_dict())}"
        for kind, (metric, _) in levels.items()
        if (shift := change(named["baseline"], last, metric)) is not None
    ]
    if not shifts:
        return f"{where}: accuracy, stage by stage"
    return f"{where}: from baseline to {last.variant}, accuracy changes {listed(shifts)} points"
