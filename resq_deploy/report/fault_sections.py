"""What faults do to deployed files: accuracy over bit errors, the ladder of outcomes, exposure, the worst faults."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.faults.outcomes import COUNTS
from resq_deploy.faults.statistics import as_estimate
from resq_deploy.report.detection_section import detection_section
from resq_deploy.report.document import Block, Caption, Dots, HeatMap, Lines, Section, Series, Table
from resq_deploy.report.exposure_section import exposed
from resq_deploy.report.fault_table import MIXED, FaultTable, read_faults
from resq_deploy.report.runs import LAYERS_DRAWN, Run, draws_layers, judged_on, subsampled
from resq_deploy.report.text import NONE, count, percent, rate, share, short, side_by_side
from resq_deploy.report.wide import folded_where_wide, too_wide

MOST_SERIES = 6
"""More series than this cannot be told apart in one plot."""

_WORST_SHOWN = 20
_LAYERS_SHOWN = 10
_LADDER = ("sdc1", "sdc5", "sdc10", "sdc20", "sdc10_abs", "sdc20_abs", "nonfinite", "corrupted", "corrected")
_MEANING = {
    "masked": "outputs bit-equal to the fault-free ones",
    "benign": "same top-1, outputs not bit-equal",
    "sdc1": "another top-1",
    "sdc5": "new top-1 outside the golden top 5",
    "sdc10": "top confidence moved by over 10 %",
    "sdc20": "top confidence moved by over 20 %",
    "sdc10_abs": "top confidence moved by over 0.1",
    "sdc20_abs": "top confidence moved by over 0.2",
    "nonfinite": "outputs hold NaN or infinity",
    "corrected": "wrong answer became right",
    "corrupted": "right answer became wrong",
    "sdc1_detected": "another top-1, and the file's health output says that something is wrong",
    "sdc1_silent": "another top-1, and the file's health output is the fault-free one",
    "due": "file no longer loads or runs (share of faults)",
}
_SPLIT = ("sdc1_detected", "sdc1_silent")  # of files that report their own health
_CHIPS_DUE = "file no longer loads or runs (share of chips)"


def with_curve(campaigns: Sequence[Run]) -> list[Run]:
    """Return the campaigns of random bit errors."""
    return [run for run in campaigns if "curve" in run.summary]


def without_curve(campaigns: Sequence[Run]) -> list[Run]:
    """Return the campaigns of faults one by one."""
    return [run for run in campaigns if "curve" not in run.summary]


def fault_sections(campaigns: Sequence[Run]) -> list[Section]:
    """Return the sections about fault campaigns.

    Raises:
        RunFolderError: if a table of faults is missing or broken.
    """
    curves, others = with_curve(campaigns), without_curve(campaigns)
    sections = [_bit_errors(curves)] if curves else []
    sections += [detection_section(run) for run in curves if run.summary["curve"][0].get("detection")]
    if others:
        tables = [read_faults(run, worst=_WORST_SHOWN) for run in others]
        sections += [_outcomes(others)]
        sections += [detection_section(run) for run in others if run.summary.get("detection")]
        sections += [exposed(*one) for one in zip(others, tables, strict=True) if one[0].summary["exposure"]]
        sections += [_places(*one) for one in zip(others, tables, strict=True)]
    return sections


def _bit_errors(runs: Sequence[Run]) -> Section:
    highest = [(run.label, run.summary["curve"][-1]) for run in runs]
    rates = {point["ber"] for _, point in highest}
    at = f"At a bit error rate of {rate(max(rates))}" if len(rates) == 1 else "At its highest bit error rate"
    means = [(label, point["accuracy"]["value"], percent(point["accuracy"])) for label, point in highest]
    title = f"{at}, accuracy is {side_by_side(means)}"
    blocks: list[Block] = [
        "Every stored bit that was chosen flips with the given probability. Figures are means over simulated chips, "
        "each rate by itself; the interval bounds the mean of further chips whatever their distribution, and is wide "
        "where chips are few. Worst chip and quartiles describe the chips that were drawn, and bound nothing. Images "
        "and their number stay the same; the fault-free accuracy stands in the first row.",
        *([LAYERS_DRAWN] if any(map(draws_layers, runs)) else []),
        Caption(text="A line is the mean over chips, its band the interval, a pale dot one chip."),
    ]
    for start in range(0, len(runs), MOST_SERIES):
        series = [_curve(run) for run in runs[start : start + MOST_SERIES]]
        blocks.append(
            Lines(
                series=series,
                x_title="bit error rate",
                y_title="accuracy (%)",
                log_x=True,
                description=f"Accuracy over bit error rate. {title}.",
            )
        )
    blocks += [*_curve_table(runs), *(_rates_table(run) for run in runs)]
    return Section(title=title, topic="Bit errors", blocks=blocks)


def _curve(run: Run) -> Series:
    table = read_faults(run)
    points = run.summary["curve"]
    return Series(
        name=run.label,
        x=[point["ber"] for point in points],
        estimates=[point["accuracy"] for point in points],
        dots=list(zip(table.ber.tolist(), table.accuracy.tolist(), strict=True)),
    )


def _curve_table(runs: Sequence[Run]) -> list[Table]:
    rates = sorted({point["ber"] for run in runs for point in run.summary["curve"]})
    headers = ["bit error rate"]
    for run in runs:
        headers += [run.label, f"{run.label}, worst chip", f"{run.label}, quartiles of the chips"]
    first = ["fault-free"]
    for run in runs:
        first += [percent(run.summary["golden"]["accuracy"]), NONE, NONE]
    rows, figures = [first], [[run.summary["golden"]["accuracy"] for run in runs]]
    for ber in rates:
        points = [next((p for p in run.summary["curve"] if p["ber"] == ber), None) for run in runs]
        row = [rate(ber)]
        for point in points:
            row += [percent(point["accuracy"]), share(point["worst"]), _quartiles(point)] if point else [NONE] * 3
        rows.append(row)
        figures.append([point and point["accuracy"] for point in points])
    return folded_where_wide(Table(headers=headers, rows=rows), figures, "chips")


def _quartiles(point: Mapping[str, Any]) -> str:
    spread = point["spread"]["accuracy"]
    return ", ".join(share(spread[name]) for name in ("quarter", "median", "three_quarters"))


def _rates_table(run: Run) -> Table:
    """Return every outcome at every bit error rate of one run."""
    curve = run.summary["curve"]
    names = [*COUNTS, *(_SPLIT if any(point.get("detection") for point in curve) else ())]
    rows = [[name, _MEANING[name], *(_rate(point, name) for point in curve)] for name in names]
    rows.append(["due", _CHIPS_DUE, *(percent(point["due"]) for point in curve)])
    headers = ["outcome", "meaning", *(f"at {rate(point['ber'])}" for point in curve)]
    return Table(headers=headers, rows=rows, folded=f"{run.label}: image runs by outcome, at each bit error rate")


def _rate(figures: Mapping[str, Any], name: str) -> str:
    """Return a rate in words; none where a file does not report what it takes to know."""
    return percent(figures["rates"].get(name))


def _outcomes(runs: Sequence[Run]) -> Section:
    known = [(run.label, run.summary["rates"]["sdc1"]) for run in runs if run.summary["rates"]["sdc1"]]
    figures = [(label, sdc1["value"], percent(sdc1)) for label, sdc1 in known]
    title = f"SDC-1 of a fault is {side_by_side(figures)}" if figures else "No fault could be judged"
    blocks: list[Block] = [
        "Share of image runs by what a fault does to them, averaged over faults; the interval is about the other "
        "faults of the same file, on the same images.",
        *([LAYERS_DRAWN] if any(map(draws_layers, runs)) else []),
        *(f"{run.label}: {judged_on(run)} The interval is about all of them." for run in runs if subsampled(run)),
        Caption(text="Open dots at the left edge: none seen."),
    ]
    for start in range(0, len(runs), MOST_SERIES):
        some = runs[start : start + MOST_SERIES]
        blocks.append(
            Dots(
                rows=_LADDER,
                series=[
                    Series(name=run.label, estimates=[run.summary["rates"][name] for name in _LADDER]) for run in some
                ],
                x_title="share of image runs (%)",
                log_x=True,
                description=f"Share of image runs by kind of silent data corruption. {title}.",
            )
        )
    names = [*COUNTS, *(_SPLIT if any(run.summary.get("detection") for run in runs) else ())]
    found = [(name, _MEANING[name], [run.summary["rates"].get(name) for run in runs]) for name in names]
    found.append(("due", _MEANING["due"], [run.summary["due"] for run in runs]))
    found.append(("accuracy", "under a fault", [run.summary["accuracy"] for run in runs]))
    rows = [[name, meaning, *map(percent, figures)] for name, meaning, figures in found]
    table = Table(headers=["outcome", "meaning", *(run.label for run in runs)], rows=rows)
    blocks += folded_where_wide(table, [figures for *_, figures in found], "faults")
    return Section(title=title, topic="Outcomes", blocks=blocks)


def _places(run: Run, table: FaultTable) -> Section:
    """Return where in the file the harm is: layers, bits, and the worst faults."""
    layers = _ranked(run.summary["by_layer"])
    blocks: list[Block] = []
    if run.summary["fault_model"] != "word":  # which has no bits
        maps = [_heat(table, "layer", _largest_role(table), list(run.summary["by_layer"])), _heat(table, "role")]
        drawn = [found for found in maps if found is not None]
        told = Caption(text=f"Mean SDC-1 of the faults drawn, by colour.{_design_note(run)}")
        blocks += [told, *drawn] if drawn else []
    telling = [layer for layer in layers if layer[1]["sdc1"] and not too_wide(layer[1]["sdc1"])]
    if telling:
        blocks.append(_group_table("layer", telling[:_LAYERS_SHOWN]))
    if len(telling) < len(layers) or len(telling) > _LAYERS_SHOWN:
        blocks += _told_apart("layer", layers, folded=f"All {len(layers)} layers")
    blocks += _told_apart("bit", list(run.summary["by_bit"].items()), folded="By bit position, over all roles")
    blocks += _worst(table, " on the images it was judged on" if subsampled(run) else "")
    return Section(title=f"{run.label}: {_hardest(layers)}", topic="Layers and bits", blocks=blocks)


def _hardest(layers: Sequence[tuple[str, Any]]) -> str:
    """Name the layer on top of the table as the one hit hardest if it is apart from each other layer.

    Args:
        layers: name and rates, the largest SDC-1 first.
    """
    known = [(name, as_estimate(rates["sdc1"])) for name, rates in layers if rates["sdc1"]]
    if not known:
        return "no fault could be judged"
    if not any(one.value for _, one in known):
        return "no answer was changed"
    telling = [layer for layer in known if not too_wide(layer[1].as_dict())]
    if not telling or not telling[0][1].value:
        return "too few faults to tell the layers apart"
    name, top = telling[0]
    others, told = [layer for layer in known if layer[0] != name], percent(top.as_dict())
    if not others:
        return f"SDC-1 of {name}, the only layer hit, is {told}"
    if all(other.high < top.low for _, other in others):
        return f"layer {name} is hit hardest, SDC-1 {told}"
    few = "" if len(telling) == len(known) else " of those with enough faults to tell"
    return f"the largest SDC-1{few} is {told}, of layer {name}, but the figures do not tell it apart from all others"


def _design_note(run: Run) -> str:
    if run.summary["design"] == "simple":
        return ""
    if draws_layers(run) and run.options.get("margin") is None:
        return " Layers have as many faults each, so that a cell that joins layers leans to the small ones."
    return " Faults were drawn in strata, more where harm was found: a cell that joins strata leans that way."


def _largest_role(table: FaultTable) -> str | None:
    names, codes = table.groups["role"]
    return names[int(np.bincount(codes).argmax())] if len(codes) else None


def _heat(table: FaultTable, rows: str, role: str | None = None, order: Sequence[str] = ()) -> HeatMap | None:
    """Return SDC-1 by bit and layer of one role, or by bit and role; None where no fault hit a single bit."""
    names, codes = table.groups[rows]
    bits, bit_codes = table.groups["bit"]
    roles, role_codes = table.groups["role"]
    chosen = ~np.isnan(table.sdc1) & np.array([bit != MIXED for bit in bits], dtype=bool)[bit_codes]
    if role is not None:
        chosen &= role_codes == roles.index(role)
    if not chosen.any():
        return None
    shape = (len(names), len(bits))
    cell = np.ravel_multi_index((codes[chosen], bit_codes[chosen]), shape)
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    sums = np.bincount(cell, weights=table.sdc1[chosen], minlength=shape[0] * shape[1]).reshape(shape)
    down = sorted(np.flatnonzero(counts.any(axis=1)), key=lambda place: _place(names[place], order))
    across = sorted(np.flatnonzero(counts.any(axis=0)), key=lambda place: int(bits[place]))
    what = f"{role} bits, by layer" if role is not None else "all roles"
    return HeatMap(
        rows=[names[i] for i in down],
        columns=[bits[j] for j in across],
        shares=[[float(sums[i, j] / counts[i, j]) if counts[i, j] else None for j in across] for i in down],
        counts=[[int(counts[i, j]) for j in across] for i in down],
        x_title="bit (0: least significant)",
        scale_title=f"SDC-1, {what}",
        description=f"SDC-1 by {rows} and bit position, {what}; the figures by {rows} and by bit stand in tables",
    )


def _place(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _ranked(groups: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(groups.items(), key=lambda item: -(item[1]["sdc1"] or {"value": -1.0})["value"])


def _group_table(what: str, groups: Sequence[tuple[str, Any]], folded: str = "") -> Table:
    rows = [
        [
            name,
            percent(rates["sdc1"]),
            percent(rates["corrupted"]),
            percent(rates["sdc10"]),
            count(rates["sdc1"]["n"]) if rates["sdc1"] else "0",
        ]
        for name, rates in groups
    ]
    return Table(headers=[what, "SDC-1", "right became wrong", "SDC-10", "faults"], rows=rows, folded=folded)


def _told_apart(what: str, groups: Sequence[tuple[str, Any]], folded: str) -> list[Table]:
    return folded_where_wide(_group_table(what, groups, folded), [[rates["sdc1"]] for _, rates in groups], "faults")


def _worst(table: FaultTable, where: str) -> list[Block]:
    harmful = [fault for fault in table.worst if fault.sdc1 > 0.0]  # 1 for a fault that is due
    if not harmful:
        told = f"No fault changed an answer{where} or kept the file from running"
        return [f"{told}; faults.csv of the run holds them all."]
    rows = [
        [
            fault.label,
            fault.where["tensor"],
            fault.where["role"],
            fault.where["index"],
            fault.where["bit"],
            fault.outcome,
            share(fault.sdc1) if fault.outcome != "due" else NONE,
            share(fault.accuracy),
        ]
        for fault in harmful
    ]
    headers = ["fault", "tensor", "role", "index", "bit", "outcome", "SDC-1", "accuracy"]
    return [
        f"{_most_critical(len(rows))}{where and ', by what each did' + where}; faults.csv of the run holds all, and is "
        "a fault list to run again.",
        Table(headers=headers, rows=rows),
    ]


def _most_critical(shown: int) -> str:
    if shown == _WORST_SHOWN:
        return f"The {shown} most critical faults"
    return f"All {shown} harmful faults" if shown > 1 else "The only harmful fault"


def tested_row(run: Run) -> list[str]:
    """Return what a fault campaign tested, for the table of runs."""
    options, summary = run.options, run.summary
    roles = ", ".join(options.get("roles") or ["all roles"])
    narrowed = [
        f"{name} {value}"
        for name, value, usual in (
            ("layers", options.get("layers", "*"), "*"),
            ("bits", ",".join(map(str, options.get("bits") or ())), ""),
            ("ECC", options.get("ecc", "none"), "none"),
        )
        if value != usual
    ]
    drawn = f"{count(summary['faults']['evaluated'])} of {count(summary['population']['faults'])} faults"
    if "curve" in summary:
        drawn = f"{len(summary['curve'])} bit error rates on {summary['curve'][0]['chips']} chips"
    threat = f"stored bits, {summary['fault_model']}; {'; '.join([roles, *narrowed, drawn])}"
    return [
        run.label,
        "faultcamp",
        f"{run.file} ({short(run.model)})",
        f"{options.get('dataset', NONE)} ({short(run.digest('data'))})",
        count(summary["golden"]["images"]),
        threat,
    ]
