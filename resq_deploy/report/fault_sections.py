"""What faults do to deployed files: accuracy over bit errors, the ladder of outcomes, exposure, the worst faults."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from resq_deploy.faults.cell_words import way_told
from resq_deploy.faults.statistics import as_estimate
from resq_deploy.report.bit_error_section import bit_error_section
from resq_deploy.report.detection_section import detection_section
from resq_deploy.report.document import Block, Caption, HeatMap, Section, Table
from resq_deploy.report.exposure_section import exposed
from resq_deploy.report.fault_table import MIXED, FaultTable, read_faults
from resq_deploy.report.outcome_section import outcome_section
from resq_deploy.report.runs import Run, draws_layers, subsampled
from resq_deploy.report.task import Task, by_task, quality_name, task_of
from resq_deploy.report.text import NONE, count, percent, share, short
from resq_deploy.report.wide import folded_where_wide, too_wide

_WORST_SHOWN = 20
_LAYERS_SHOWN = 10
_BESIDE = {
    "corrupted": "right became wrong",
    "sdc10": "SDC-10",
    "lost": "lost detections",
    "ghost": "ghosts",
}
"""Outcomes that stand beside SDC-1 by layer and bit, where a task has them."""


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
    sections = [bit_error_section(group) for group in by_task(curves)]
    sections += [detection_section(run) for run in curves if run.summary["curve"][0].get("detection")]
    if others:
        tables = [read_faults(run, worst=_WORST_SHOWN) for run in others]
        sections += [outcome_section(group) for group in by_task(others)]
        sections += [detection_section(run) for run in others if run.summary.get("detection")]
        sections += [exposed(*one) for one in zip(others, tables, strict=True) if one[0].summary["exposure"]]
        sections += [_places(*one) for one in zip(others, tables, strict=True)]
    return sections


def _places(run: Run, table: FaultTable) -> Section:
    """Return where in the file the harm is: layers, bits, and the worst faults."""
    layers, task = _ranked(run.summary["by_layer"]), task_of(run)
    blocks: list[Block] = []
    if run.summary["fault_model"] != "word":  # which has no bits
        maps = [_heat(table, "layer", _largest_role(table), list(run.summary["by_layer"])), _heat(table, "role")]
        drawn = [found for found in maps if found is not None]
        told = Caption(text=f"Mean SDC-1 of the faults drawn, by colour.{_design_note(run)}")
        blocks += [told, *drawn] if drawn else []
    telling = [layer for layer in layers if layer[1]["sdc1"] and not too_wide(layer[1]["sdc1"])]
    if telling:
        blocks.append(_group_table("layer", telling[:_LAYERS_SHOWN], task))
    if len(telling) < len(layers) or len(telling) > _LAYERS_SHOWN:
        blocks += _told_apart("layer", layers, task, folded=f"All {len(layers)} layers")
    blocks += _told_apart("bit", list(run.summary["by_bit"].items()), task, folded="By bit position, over all roles")
    blocks += _worst(table, f" on the {task.units} it was judged on" if subsampled(run) else "", quality_name(run))
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


def _group_table(what: str, groups: Sequence[tuple[str, Any]], task: Task, folded: str = "") -> Table:
    """Return SDC-1 by group, and with it the outcomes that tell most of the task."""
    shown = [rung for rung in _BESIDE if rung in task.ladder]
    rows = [
        [
            name,
            percent(rates["sdc1"]),
            *(percent(rates[rung]) for rung in shown),
            count(rates["sdc1"]["n"]) if rates["sdc1"] else "0",
        ]
        for name, rates in groups
    ]
    return Table(headers=[what, "SDC-1", *(_BESIDE[rung] for rung in shown), "faults"], rows=rows, folded=folded)


def _told_apart(what: str, groups: Sequence[tuple[str, Any]], task: Task, folded: str) -> list[Table]:
    return folded_where_wide(
        _group_table(what, groups, task, folded), [[rates["sdc1"]] for _, rates in groups], "faults"
    )


def _worst(table: FaultTable, where: str, rated: str | None) -> list[Block]:
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
            *([share(fault.quality)] if rated else []),
        ]
        for fault in harmful
    ]
    headers = ["fault", "tensor", "role", "index", "bit", "outcome", "SDC-1", *([rated] if rated else [])]
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
            ("flips", way_told(summary), ""),
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
