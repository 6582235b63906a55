"""What a report comes to, in plain words made from the figures: it stands first, and leads with what must not be used.

A bound is said as a bound: the end of an interval, rounded outwards. What a few attacks could not do is said of these
attacks. Where an interval is so wide that it says nothing, that is what is said.
"""

from collections.abc import Iterator, Sequence

from resq_deploy.report.attack_verdict import attack_statements
from resq_deploy.report.difference import Comparison, Difference
from resq_deploy.report.document import Statement, Tone, Verdict
from resq_deploy.report.fault_verdict import fault_statements
from resq_deploy.report.lineage import Step, lines
from resq_deploy.report.runs import Run, arithmetic, audit_failed, of_command
from resq_deploy.report.text import counted, listed, percent, points

_FIRST = (Tone.ALARM, Tone.FAILED)


def verdict_of(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> Verdict:
    """Return what runs and their comparisons come to."""
    found = [statement for run in runs for statement in _of_run(run)]
    found += [_hardening(line) for line in lines(runs)]
    found += [_compared(one) for one in comparisons if not any(map(audit_failed, (one.first, one.second)))]
    by_file: dict[str, list[Statement]] = {}
    for statement in found:
        by_file.setdefault(statement.about, []).append(statement)
    together = [statement for group in by_file.values() for statement in group]
    first = [statement for tone in _FIRST for statement in together if statement.tone is tone]
    return Verdict(
        statements=[*first, *(statement for statement in together if statement.tone not in _FIRST)],
        grounds=[*_levels(runs), *_machines(runs)],
    )


def _of_run(run: Run) -> Iterator[Statement]:
    if run.command == "faultcamp":
        yield from fault_statements(run)
    elif run.command == "attackcamp":
        yield from attack_statements(run)


def _hardening(line: Sequence[Step]) -> Statement:
    """Say what training did to the float network, from its first to its last stage."""
    first, last = (step.train.summary["stages"][step.stage]["test"] for step in (line[0], line[-1]))
    summary = line[-1].train.summary
    attack = f"PGD within {255 * summary['attack']['epsilon']:g}/255"
    if len(line) == 1:
        text = f"Trained: {percent(last['clean'])} accuracy, {percent(last['robust'])} under {attack}."
    else:
        text = (
            f"Hardening took accuracy under {attack} from {percent(first['robust'])} to {percent(last['robust'])}, and "
            f"accuracy without attack from {percent(first['clean'])} to {percent(last['clean'])}."
        )
    return Statement(
        about=f"{summary['network']}, float network",
        tone=Tone.OPEN,
        label="Float network only",
        text=text,
        reservations=["Says nothing of an int8 file made from it: run faultcamp and attackcamp on that"],
    )


def _compared(comparison: Comparison) -> Statement:
    """Say which of two files is better, where a difference is beyond chance."""
    first, second = comparison.first, comparison.second
    about = f"{second.label} against {first.label}"
    real = [one for one in comparison.differences if one.real]
    if not real:
        figures = counted(len(comparison.differences), "figure")
        text = f"No difference is beyond chance in any of {figures}: these runs do not tell the two apart."
        return Statement(about=about, tone=Tone.OPEN, label="No difference shown", text=text)
    told = [f"{one.figure} is {_way(one)} ({points(one.estimate.as_dict())} points)" for one in real]
    few = [one.figure for one in real if not one.over_images]
    touching = [one.figure for one in real if one.estimate.low <= 0.0 <= one.estimate.high]
    reservations = [f"Of {listed(few)}: for further faults on these images, not for further images"] if few else []
    if touching:
        reservations.append(
            f"The interval of {listed(touching)}, which holds however harm is spread, still includes 0: the tests of "
            "the table below decide"
        )
    text = f"Beyond chance, {listed(told)}."
    return Statement(about=about, tone=Tone.SHOWN, label="Difference shown", text=text, reservations=reservations)


def _way(one: Difference) -> str:
    return "higher" if one.estimate.value > 0 else "lower"


def _levels(runs: Sequence[Run]) -> Iterator[str]:
    levels = listed(sorted({f"{100 * run.confidence:g} %" for run in runs}), "or")
    yield (
        f"Bounds are ends of {levels} intervals: over faults or chips like those drawn, or over images like those "
        "attacked; figures under faults are about the images given."
    )
    if of_command(runs, "faultcamp"):
        yield (
            "Faults are in the stored file. Transient ones in activations, in the arithmetic, and in memory after the "
            "file was loaded were not tested."
        )


def _machines(runs: Sequence[Run]) -> Iterator[str]:
    """Yield on which machines, and in which arithmetic, files were run."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(_machine(run), []).append(run.label)
    for machine, labels in found.items():
        whose = f" ({listed(labels)})" if len(found) > 1 else ""
        yield f"Run{whose} {machine}."


def _machine(run: Run) -> str:
    manifest, versions = run.manifest, run.manifest["versions"]
    flags = ", ".join(manifest.get("cpu_flags", ()))
    kind = manifest.get("machine", "an unknown CPU")
    cpu = f"{manifest['cpu']}, {kind}" if manifest.get("cpu") else kind
    where = f"on {cpu}{f' ({flags})' if flags else ''}"
    if run.command == "train":
        return f"{where} with torch {versions.get('torch', 'of an unknown version')}"
    used = arithmetic(run)
    told = {
        "exact": "in exact arithmetic: the same on every CPU",
        "not recorded": "in an arithmetic that was not recorded",
    }.get(used, f"in {used}: for such CPUs alone")
    return f"{where} with onnxruntime {versions.get('onnxruntime', 'of an unknown version')}, {told}"
