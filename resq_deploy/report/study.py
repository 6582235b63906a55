"""A study as a document and as rows: the paper's tables, and our figures beside what the paper published."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.report.document import Block, Document, JsonEstimate, Notice, Section, Statement, Table, Tone, Verdict
from resq_deploy.report.glossary import with_glossary
from resq_deploy.report.half_margin import PUBLISHED, half_margin_section
from resq_deploy.report.study_card import choices_section, remade_by
from resq_deploy.report.study_cells import Layered
from resq_deploy.report.study_effect import effect_section
from resq_deploy.report.study_figures import CONTRASTS, Corner, Metric, change, metrics_of
from resq_deploy.report.study_layers import layers_section
from resq_deploy.report.study_scales import scales_section
from resq_deploy.report.text import NONE, count, listed, percent, points
from resq_deploy.report.wide import folded_where_wide

_GAIN_OF = {"attack": "attack resilience", "fault": "fault resilience"}


def study_document(summary: Mapping[str, Any], corners: Sequence[Corner], layered: Sequence[Layered] = ()) -> Document:
    """Return a study's tables and figures.

    Args:
        summary: the study's `summary.json`.
        corners: from `read_study`.
        layered: from `read_layered`.
    """
    profile = f", profile {summary['profile']}" if summary["profile"] else ""
    pairs = list(dict.fromkeys((corner.network, corner.dataset) for corner in corners))
    halves = half_margin_section(corners, pairs)
    sections = [_scope(summary, corners), *([halves] if halves else []), _beside_the_paper(corners, pairs)]
    for pair in pairs:
        own = [corner for corner in corners if (corner.network, corner.dataset) == pair]
        if any(corner.seeds for corner in own):
            about = [_table(pair, own), layers_section(pair, layered), scales_section(pair, layered)]
            sections += [section for section in (effect_section(pair, own), *about) if section]
    sections.append(choices_section())
    return with_glossary(
        Document(
            title=summary["title"],
            lead=f"Networks by data sets by stages by seeds{profile}: every figure is of the deployed int8 file, with "
            f"its interval ({_levels(corners)}); over two or more seeds it is Student's over the seeds, of one seed, "
            "or of seeds that agree to the last digit, it is the seed's own.",
            sections=sections,
            verdict=_verdict(corners, pairs),
        )
    )


def _verdict(corners: Sequence[Corner], pairs: Sequence[tuple[str, str]]) -> Verdict:
    """Say what hardening changed, network by network; before that, which robust accuracies must not be used."""
    statements = [
        Statement(
            about=f"{corner.network} on {corner.dataset}, {corner.variant}",
            tone=Tone.ALARM if corner.untrusted else Tone.OPEN,
            label="Do not use" if corner.untrusted else "Not checked",
            text="The accuracy under attack failed a validity check and may be far too high."
            if corner.untrusted
            else "The accuracy under attack was not shown to be trustworthy: checks for masked gradients did not run.",
        )
        for corner in sorted(corners, key=lambda corner: not corner.untrusted)
        if corner.untrusted or corner.unchecked
    ]
    for pair in pairs:
        named = {corner.variant: corner for corner in corners if (corner.network, corner.dataset) == pair}
        statements += _hardening(pair, named)
    done, asked = sum(len(corner.seeds) for corner in corners), sum(corner.asked for corner in corners)
    grounds = [f"{done} of {asked} cells were run; intervals are {_levels(corners)} ones, in points."]
    return Verdict(statements=statements, grounds=grounds)


def _hardening(pair: tuple[str, str], named: Mapping[str, Corner]) -> list[Statement]:
    """Say what all stages together changed in one network on one data set, where that was run."""
    names = {"clean": "accuracy without attack or fault"} | _GAIN_OF
    found = {kind: _best(named, kind) for kind in names}
    known = {kind: change for kind, change in found.items() if change not in (NONE, "not run")}
    if not known:
        return []
    both = [named["baseline"], named[_hardened(named)]]
    if any(corner.untrusted for corner in both):
        known.pop("attack", None)
    seeds = min(len(corner.seeds) for corner in both)
    told = [f"{names[kind]} by {_in_points(change)}" for kind, change in known.items()]
    few = ["One seed: nothing is known of another training"] if seeds < 2 else []
    picked = "Of attack and fault resilience the radius and the rate with the largest gain, which flatters"
    return [
        Statement(
            about=f"{pair[0]} on {pair[1]}",
            tone=Tone.OPEN if few else Tone.SHOWN,
            label="One seed" if few else f"{count(seeds)} seeds",
            text=f"All stages together changed {listed(told)}.",
            reservations=[picked, *few],
        )
    ]


def _in_points(change: str) -> str:
    """Name the unit of a change as `_best` writes it, in front of where it was found."""
    value, at, place = change.partition(" at ")
    return f"{value} points{at}{place}"


def _hardened(named: Mapping[str, Corner]) -> str:
    return "resq" if "resq" in named else "attack+fault"


def _levels(corners: Sequence[Corner]) -> str:
    """Return the confidence of the intervals; a recipe may ask its campaigns for another."""
    metrics = metrics_of(corners)
    found = [corner.mean(metric) for corner in corners for metric in metrics]
    levels = sorted({estimate.confidence for estimate in found if estimate is not None} or {0.95})
    return " or ".join(f"{100 * level:g} %" for level in levels)


def study_csv(corners: Sequence[Corner]) -> str:
    """Return every figure of every seed as comma-separated values."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "network",
            "dataset",
            "variant",
            "seed",
            "metric",
            "campaign",
            "level",
            "value",
            "low",
            "high",
            "n",
            "confidence",
            "norm",
            "draw",
        ]
    )
    for corner in corners:
        for seed, figures in corner.seeds.items():
            for metric, found in figures.items():
                place = [
                    corner.network,
                    corner.dataset,
                    corner.variant,
                    seed,
                    metric.kind,
                    metric.campaign,
                    metric.level,
                ]
                writer.writerow(
                    [*place, found.value, found.low, found.high, found.n, found.confidence, metric.norm, metric.draw]
                )
    return stream.getvalue()


def _scope(summary: Mapping[str, Any], corners: Sequence[Corner]) -> Section:
    blocks: list[Block] = [
        Table(
            headers=["network, data set, stages", "seeds done", "hours, each step's last session"],
            rows=[
                [f"{corner.network}, {corner.dataset}, {corner.variant}", _done(corner), f"{corner.seconds / 3600:.2f}"]
                for corner in corners
            ],
        )
    ]
    unchecked = [f"{corner.network}, {corner.dataset}, {corner.variant}" for corner in corners if corner.unchecked]
    if unchecked:
        text = f"Robust accuracy was not shown to be trustworthy, since checks did not run, in: {'; '.join(unchecked)}."
        blocks.append(Notice(text=text))
    untrusted = [f"{corner.network}, {corner.dataset}, {corner.variant}" for corner in corners if corner.untrusted]
    if untrusted:
        text = f"Robust accuracy failed a validity check and is not to be trusted in: {'; '.join(untrusted)}."
        blocks.insert(0, Notice(text=text))
    remade = remade_by(summary)
    blocks += [remade] if remade else []
    done, asked = sum(len(corner.seeds) for corner in corners), sum(corner.asked for corner in corners)
    return Section(title=f"{done} of {asked} cells were run", topic="what was run", blocks=blocks)


def _done(corner: Corner) -> str:
    if not corner.seeds:
        return "failed" if corner.failed else "not run"
    return f"{len(corner.seeds)} of {corner.asked}"


def _beside_the_paper(corners: Sequence[Corner], pairs: Sequence[tuple[str, str]]) -> Section:
    rows = []
    for pair in pairs:
        named = {corner.variant: corner for corner in corners if (corner.network, corner.dataset) == pair}
        row = [", ".join(pair)]
        for kind in ("clean", *PUBLISHED):
            row.append(_best(named, kind))
        rows.append(row)
    headers = ["network, data set", "clean accuracy", *(f"{name}, largest gain" for name in _GAIN_OF.values())]
    rows.append(
        ["RESQ, the largest of its twelve cells", "competitive", *(f"+{gain:.2f}" for gain in PUBLISHED.values())]
    )
    text = (
        "Changes from the baseline to all stages, in points. Attack resilience is the worst case over the attacks at "
        "the radius with the largest gain, fault resilience the accuracy at the bit error rate with the largest gain: "
        "picked as the paper's are, so that they flatter. The tables below show every radius and rate. The last row is "
        "what the paper published (arXiv 2603.15413); its attacks and rates are not public, so that the rows do not "
        "measure the same thing."
    )
    return Section(
        title="Beside the paper's published maxima", topic="the paper", blocks=[text, Table(headers=headers, rows=rows)]
    )


def _best(named: Mapping[str, Corner], kind: str) -> str:
    """Return the largest change from the baseline to all stages among the metrics of a kind."""
    hardened = _hardened(named)
    if "baseline" not in named or hardened not in named:
        return NONE
    before, after = named["baseline"], named[hardened]
    found = [
        (shift, metric)
        for metric in metrics_of([before, after])
        if metric.kind == kind and (shift := change(before, after, metric)) is not None
    ]
    if not found:
        return "not run"
    shift, metric = max(found, key=lambda pair: pair[0].value)
    return points(shift.as_dict()) + (f" at {metric.place}" if metric.level else "")


def _table(pair: tuple[str, str], corners: Sequence[Corner]) -> Section:
    """Return the 2x2 table of one network and data set: figures, then what each stage changed."""
    run = [corner for corner in corners if corner.seeds]
    named = {corner.variant: corner for corner in run}
    metrics = metrics_of(run)
    contrasts = [
        (name, named[before], named[after])
        for name, before, after in CONTRASTS
        if before in named and after in named and named[before].seeds.keys() & named[after].seeds.keys()
    ]
    figures = Table(
        headers=["", *(_heading(corner, run) for corner in run)],
        rows=[[str(metric), *(_figure(corner, metric) for corner in run)] for metric in metrics],
    )
    found = [[_mean(corner, metric) for corner in run] for metric in metrics]
    told = folded_where_wide(figures, found, "seeds, faults or images")
    changes = Table(
        headers=["change, in points", *(name for name, _, _ in contrasts)],
        rows=[[str(metric), *(_change(before, after, metric) for _, before, after in contrasts)] for metric in metrics],
    )
    seeds = max(len(corner.seeds) for corner in corners)
    return Section(
        title=f"{pair[0]} on {pair[1]}",
        topic=_seeds(seeds),
        blocks=[*told, changes] if contrasts else told,
    )


def _heading(corner: Corner, run: Sequence[Corner]) -> str:
    """Return a corner's name, with its number of seeds where corners differ in it."""
    alike = len({len(one.seeds) for one in run}) == 1
    return corner.variant if alike else f"{corner.variant}, {_seeds(len(corner.seeds))}"


def _seeds(number: int) -> str:
    return count(number, "seed" if number == 1 else "seeds")


def _figure(corner: Corner, metric: Metric) -> str:
    return percent(_mean(corner, metric))


def _mean(corner: Corner, metric: Metric) -> JsonEstimate | None:
    found = corner.mean(metric)
    return found.as_dict() if found else None


def _change(before: Corner, after: Corner, metric: Metric) -> str:
    found = change(before, after, metric)
    return points(found.as_dict()) if found else NONE
