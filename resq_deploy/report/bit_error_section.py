"""What random bit errors do: quality over the bit error rate, chip by chip, and every outcome at every rate."""

from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.report.document import Block, Caption, JsonEstimate, Lines, Section, Series, Table
from resq_deploy.report.fault_table import read_faults
from resq_deploy.report.runs import LAYERS_DRAWN, Run, draws_layers
from resq_deploy.report.task import clean, clean_told, meanings, quality, quality_name, spread_of, task_of
from resq_deploy.report.text import NONE, percent, rate, share, side_by_side
from resq_deploy.report.wide import folded_where_wide

MOST_SERIES = 6
"""More series than this cannot be told apart in one plot."""
SPLIT = ("sdc1_detected", "sdc1_silent")
"""Outcomes of files that report their own health."""

_CHIPS_DUE = "file no longer loads or runs (share of chips)"
_SDC = "SDC-1"


def bit_error_section(runs: Sequence[Run]) -> Section:
    """Return the section on campaigns of random bit errors that are judged alike."""
    name = quality_name(runs[0]) or _SDC
    highest = [(run.label, run.summary["curve"][-1]) for run in runs]
    rates = {point["ber"] for _, point in highest}
    at = f"At a bit error rate of {rate(max(rates))}" if len(rates) == 1 else "At its highest bit error rate"
    known = [(label, found) for label, point in highest if (found := _figure(point))]
    means = [(label, found["value"], percent(found)) for label, found in known]
    title = f"{at}, {name} is {side_by_side(means)}" if means else f"{at}, no chip could be judged"
    blocks: list[Block] = [
        "Every stored bit that was chosen flips with the given probability. Figures are means over simulated chips, "
        "each rate by itself; the interval bounds the mean of further chips whatever their distribution, and is wide "
        "where chips are few. Worst chip and quartiles describe the chips that were drawn, and bound nothing. "
        f"{task_of(runs[0]).units.capitalize()} and their number stay the same"
        + ("." if name == _SDC else f"; the fault-free {name} stands in the first row."),
        *([LAYERS_DRAWN] if any(map(draws_layers, runs)) else []),
        Caption(text="A line is the mean over chips, its band the interval, a pale dot one chip."),
    ]
    for start in range(0, len(runs), MOST_SERIES):
        series = [_curve(run) for run in runs[start : start + MOST_SERIES]]
        blocks.append(
            Lines(
                series=series,
                x_title="bit error rate",
                y_title=f"{name} (%)",
                log_x=True,
                description=f"{name[:1].upper()}{name[1:]} over bit error rate. {title}.",
            )
        )
    blocks += [*_curve_table(runs), *(_rates_table(run) for run in runs)]
    return Section(title=title, topic="Bit errors", blocks=blocks)


def _figure(point: Mapping[str, Any]) -> JsonEstimate | None:
    """Return the quality at a rate, or SDC-1 where nothing is labelled."""
    found: JsonEstimate | None = quality(point) or point["rates"]["sdc1"]
    return found


def _curve(run: Run) -> Series:
    table = read_faults(run)
    points = run.summary["curve"]
    drawn = table.sdc1 if quality_name(run) is None else table.quality
    dots = [(x, y) for x, y in zip(table.ber.tolist(), drawn.tolist(), strict=True) if y == y]
    return Series(
        name=run.label, x=[point["ber"] for point in points], estimates=[_figure(point) for point in points], dots=dots
    )


def _curve_table(runs: Sequence[Run]) -> list[Table]:
    rates = sorted({point["ber"] for run in runs for point in run.summary["curve"]})
    headers = ["bit error rate"]
    for run in runs:
        headers += [run.label, f"{run.label}, worst chip", f"{run.label}, quartiles of the chips"]
    rows, figures = [], []
    if quality_name(runs[0]):
        rows.append(["fault-free", *(cell for run in runs for cell in (clean_told(run), NONE, NONE))])
        figures.append([clean(run) for run in runs])
    for ber in rates:
        points = [next((p for p in run.summary["curve"] if p["ber"] == ber), None) for run in runs]
        row = [rate(ber)]
        for point in points:
            row += [percent(_figure(point)), _worst(point), _quartiles(point)] if point else [NONE] * 3
        rows.append(row)
        figures.append([_figure(point) if point else None for point in points])
    return folded_where_wide(Table(headers=headers, rows=rows), figures, "chips")


def _worst(point: Mapping[str, Any]) -> str:
    """Write the worst chip's figure: the lowest quality, or the largest SDC-1."""
    return share(point["worst"] if "worst" in point else spread_of(point).get("largest"))


def _quartiles(point: Mapping[str, Any]) -> str:
    spread = spread_of(point)
    return ", ".join(share(spread[name]) for name in ("quarter", "median", "three_quarters")) if spread else NONE


def _rates_table(run: Run) -> Table:
    """Return every outcome at every bit error rate of one run."""
    curve, task = run.summary["curve"], task_of(run)
    names = [*task.ladder, *(SPLIT if any(point.get("detection") for point in curve) else ())]
    meaning = meanings(task)
    rows = [[name, meaning.get(name, NONE), *(percent(point["rates"].get(name)) for point in curve)] for name in names]
    rows.append(["due", _CHIPS_DUE, *(percent(point["due"]) for point in curve)])
    headers = ["outcome", "meaning", *(f"at {rate(point['ber'])}" for point in curve)]
    told = f"{run.label}: {task.unit} runs by outcome, at each bit error rate"
    return Table(headers=headers, rows=rows, folded=told)
