"""What fault campaigns show, in plain words: at which bound, and with which reservation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resq_deploy.faults.cell_words import strikes_told, way_told
from resq_deploy.report.document import JsonEstimate, Statement, Tone
from resq_deploy.report.runs import Run, draws_layers, subsampled
from resq_deploy.report.task import amounts_told, clean_value, judged_on, quality, quality_name, synthetic, task_of
from resq_deploy.report.text import at_least, at_most, count, counted, listed, percent, rate, share
from resq_deploy.report.wide import too_wide

_MANY = 0.25  # of all answers, surely changed: nobody would call that withstanding
_FAULTS = {
    "single": ("one stored bit{} is flipped", "flipped bits"),
    "burst": ("{burst} adjacent stored bits{} are flipped", "bursts"),
    "stuck-at-0": ("one stored bit{} is stuck at 0", "stuck bits"),
    "stuck-at-1": ("one stored bit{} is stuck at 1", "stuck bits"),
    "cluster": ("one particle upsets {cells} neighbouring memory cells{}", "upsets"),
    "stuck-row-0": ("one row of the memory is stuck at 0", "rows"),
    "stuck-row-1": ("one row of the memory is stuck at 1", "rows"),
    "stuck-column-0": ("one column of the memory is stuck at 0", "columns"),
    "stuck-column-1": ("one column of the memory is stuck at 1", "columns"),
    "word": ("one stored value{} is replaced", "replaced values"),
    "list": ("a fault of the list is applied", "faults of the list"),
}
"""What a fault of a model is, with where it may be, and how several are called."""


def fault_statements(run: Run) -> Iterator[Statement]:
    """Yield what a fault campaign shows of its file; that its figures must not be used, if that is so."""
    audit = run.summary["audit"]
    if audit["mismatches"]:
        yield Statement(
            about=run.file,
            tone=Tone.ALARM,
            label="Do not use",
            text=f"The figures of {run.label} are wrong: {audit['mismatches']} of {audit['checked']} faults that were "
            "run again by reloading the flipped file gave something else. Run it again in another folder.",
        )
        return
    yield from _gates(run)
    if "curve" in run.summary:
        yield _under_bit_errors(run)
        return
    yield _under_a_fault(run)
    yield from _in_time(run)
    yield from _noticed(run)


def _gates(run: Run) -> Iterator[Statement]:
    """Yield the bounds that were asked for, and whether they hold."""
    for gate in run.summary["gates"]:
        at = "" if gate["ber"] is None else f" at a bit error rate of {rate(gate['ber'])}"
        metric = gate["metric"].replace("sdc", "SDC-")
        found = gate["estimate"]
        told = f"its interval ends at {at_most(found['high'])}" if found else "no fault could be judged"
        yield Statement(
            about=run.file,
            tone=Tone.SHOWN if gate["passed"] else Tone.FAILED,
            label="Asked for, and met" if gate["passed"] else "Asked for, and not met",
            text=f"{metric}{at} of at most {share(gate['bound'])}: {told}.",
        )


def _under_a_fault(run: Run) -> Statement:
    """Say how many answers a fault changes."""
    summary, task = run.summary, task_of(run)
    sdc1, due = summary["rates"]["sdc1"], summary["due"]
    when, several = _faults(run)
    evaluated, judged = summary["faults"]["evaluated"], counted(summary["golden"]["images"], task.unit)
    population = summary["population"]["faults"]
    of = f" of {count(population)}" if population and population > evaluated else ""
    reservations = _reservations(run)
    if due["value"]:
        reservations.insert(0, f"{percent(due)} of the faults keep the file from loading or running")
    if sdc1 is None:
        text = f"None of {counted(evaluated, 'fault')} could be judged: each kept the file from loading or running."
        return _statement(run, Tone.OPEN, "Nothing to tell", text, reservations[1:])
    over = "such faults, drawn in every layer alike" if draws_layers(run) else "all such faults"
    average = f"on average over {over} (measured: {percent(sdc1)}, from {evaluated:,}{of} such faults, on {judged})"
    if summary["fault_model"] == "list":
        average = f"on average over the {evaluated:,} faults of it (measured: {percent(sdc1)}, on {judged})"
    if too_wide(sdc1):
        text = f"{counted(evaluated, 'fault').capitalize()} are too few to tell how many {task.units} {task.wrong} "
        text += f"when {when}: between {at_least(sdc1['low'])} and {at_most(sdc1['high'])} of them, {average}."
        return _statement(run, Tone.OPEN, "Too few faults to tell", text, reservations)
    text = f"At most {at_most(sdc1['high'])} of the {task.units} {task.wrong} when {when}, {average}."
    if not sdc1["value"]:
        text = f"None of {evaluated:,} {several} changed an answer. {text}"
    if amounts := amounts_told(summary, task):
        text += f" Measured: {amounts}."
    if sdc1["low"] > _MANY:
        return _statement(run, Tone.HARM, "Does not withstand", text, reservations)
    return _statement(run, Tone.SHOWN, "Shown", text, reservations)


def _under_bit_errors(run: Run) -> Statement:
    """Say what quality is left at the highest bit error rate, shortly at the others; else how many answers change."""
    point = run.summary["curve"][-1]
    where, way = _where(run), _one_way(run)
    what = f"{'is struck' if way else 'flips'} with a probability of {rate(point['ber'])}"
    when = f"When every stored bit{where} {what}{_one_in(point['ber'])}{way}"
    if draws_layers(run):
        flips = f"flips{where} as a bit error rate of {rate(point['ber'])} makes"
        when = f"When so many {flips} are drawn in every layer alike{way}"
    reservations = [*_reservations(run), *_chips_due(point)]
    name, found, before = quality_name(run), quality(point), clean_value(run)
    if name is None or found is None or before is None:
        return _changed_by_bit_errors(run, when, reservations)
    chips = point["chips"]
    measured = f"(measured: {percent(found)} over {chips} simulated chips; {share(before)} without faults)"
    if too_wide(found):
        text = f"{chips} chips are too few to tell. {when}, {name} is between {at_least(found['low'])} and "
        text += f"{at_most(found['high'])} on average over devices {measured}."
        return _statement(run, Tone.OPEN, "Too few chips to tell", text, reservations)
    lower = _at_lower_rates(run)
    if found["high"] < before / 2:
        text = f"{when}, {name} falls to at most {at_most(found['high'])} on average over devices {measured}."
        return _statement(run, Tone.HARM, "Does not withstand", text + lower, reservations)
    text = f"{when}, {name} is at least {at_least(found['low'])} on average over devices {measured}. "
    text += f"The worst chip drawn had {share(point['worst'])}."
    return _statement(run, Tone.SHOWN, "Shown", text + lower, reservations)


def _at_lower_rates(run: Run) -> str:
    known = [(point["ber"], found) for point in run.summary["curve"][:-1] if (found := quality(point))][-3:]
    others = [f"{at_least(found['low'])} at {rate(ber)}" for ber, found in known]
    return f" At lower rates it is at least {listed(others)}." if others else ""


def _changed_by_bit_errors(run: Run, when: str, reservations: Sequence[str]) -> Statement:
    """Say how many answers change at the highest bit error rate, where nothing was labelled."""
    task, point = task_of(run), run.summary["curve"][-1]
    sdc1, chips = point["rates"]["sdc1"], counted(point["chips"], "simulated chip")
    if sdc1 is None:
        text = f"{when}, none of {chips} loads the file any more."
        return _statement(run, Tone.HARM, "Does not withstand", text, reservations)
    measured = f"(measured: {percent(sdc1)} over {chips})"
    if too_wide(sdc1):
        text = f"{point['chips']} chips are too few to tell. {when}, between {at_least(sdc1['low'])} and "
        text += f"{at_most(sdc1['high'])} of the {task.units} {task.wrong}, on average over devices {measured}."
        return _statement(run, Tone.OPEN, "Too few chips to tell", text, reservations)
    text = f"{when}, at most {at_most(sdc1['high'])} of the {task.units} {task.wrong}, on average over devices "
    text += f"{measured}."
    if sdc1["low"] > _MANY:
        return _statement(run, Tone.HARM, "Does not withstand", text, reservations)
    return _statement(run, Tone.SHOWN, "Shown", text, reservations)


def _chips_due(point: Mapping[str, Any]) -> list[str]:
    due = point["due"]
    return [f"{percent(due)} of the chips no longer load the file, and count as 0 %"] if due["value"] else []


def _in_time(run: Run) -> Iterator[Statement]:
    """Yield how often a device fails, where the memory's rate of errors was given."""
    exposure = run.summary["exposure"]
    fit = exposure["fit"] if exposure else None
    total: JsonEstimate | None = fit["failing_faults"]["total"] if fit else None
    if fit is None or total is None or total["high"] is None:
        return
    if total["value"] is None and too_wide(exposure["failing_faults"]["total"]):
        return
    seen = f"at least {total['low']:.3g}" if total["value"] is None else f"measured: {total['value']:.3g}"
    text = (
        f"In a memory with {fit['fit_per_mbit']:g} errors in 10^9 hours and 10^6 bits, the file becomes faulty at most "
        f"{total['high']:.3g} times in 10^9 hours ({seen}); faulty is one that answers any of the {task_of(run).units} "
        "otherwise."
    )
    roles = run.options.get("roles")
    alone = [f"Counts flips of {listed(roles)} alone"] if roles else []
    yield _statement(run, Tone.SHOWN, "Shown", text, ["Counts single flips while they are rare", *alone])


def _noticed(run: Run) -> Iterator[Statement]:
    """Yield how many of the failing faults the file itself reports."""
    found = run.summary.get("detection")
    covered = found["diagnostic_coverage"] if found else None
    if not covered:
        return
    text = (
        f"Of the faults that change an answer, the file's own health output reports at least "
        f"{at_least(covered['low'])} (measured: {percent(covered)})."
    )
    wide = too_wide(covered)
    yield _statement(run, Tone.OPEN if wide else Tone.SHOWN, "Too few faults to tell" if wide else "Shown", text, ())


def _statement(run: Run, tone: Tone, label: str, text: str, reservations: Sequence[str]) -> Statement:
    return Statement(about=run.file, tone=tone, label=label, text=text, reservations=reservations)


def _faults(run: Run) -> tuple[str, str]:
    when, several = _FAULTS[run.summary["fault_model"]]
    burst, cells = run.options.get("burst", "several"), _cells(run.summary.get("upsets"))
    return when.format(_where(run), burst=burst, cells=cells) + _one_way(run), several


def _cells(upsets: Mapping[str, Any] | None) -> str:
    """Say how many cells an upset strikes, at least and at most."""
    sizes = sorted(pattern["rows"] * pattern["columns"] for pattern in (upsets or {"patterns": []})["patterns"])
    return "several" if not sizes else str(sizes[0]) if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"


def _one_way(run: Run) -> str:
    """Say which way flips go; a strike on a cell that holds the value already is counted, and changes nothing."""
    told = way_told(run.summary)
    return f" ({told}: {strikes_told(run.summary)})" if told else ""


def _where(run: Run) -> str:
    """Say where faults may be."""
    roles = run.options.get("roles")
    return f" of {listed([role.replace('-', ' ') for role in roles])}" if roles else ""


def _one_in(ber: float) -> str:
    return f" (one in {1 / ber:,.0f})" if ber <= 0.1 else ""


def _reservations(run: Run) -> list[str]:
    """Return what the figures of a campaign do not say, beyond what no campaign says."""
    options, told = run.options, []
    if synthetic(run):
        told.append("Synthetic inputs: says nothing of accuracy, and real inputs may fare otherwise")
    if task_of(run).unit == "sequence":
        told.append("Figures are per sequence: its steps are judged together")
    if aside := run.summary["golden"].get("set_aside"):
        told.append(f"Set aside, as fault-free outputs are not finite: {counted(aside, task_of(run).unit)}")
    if options.get("layers", "*") != "*":
        told.append(f"Only layers that match {options['layers']!r} were hit")
    if draws_layers(run):
        told.append("Of bits drawn alike it says nothing: small layers weigh as much as large ones")
    if options.get("bits"):
        told.append(f"Only bits {listed(options['bits'])} of each value were hit")
    if options.get("ecc", "none") != "none":
        told.append("The memory is taken to correct one and detect two flips in 64 bits")
    if subsampled(run):
        told.append(judged_on(run).rstrip("."))
    if not run.summary["audit"]["checked"] and run.summary.get("engine", {}).get("name") == "replay":
        told.append("No fault was run again by reloading the file (--audit 0)")
    return told
