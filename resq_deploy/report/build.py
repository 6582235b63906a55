"""From run folders to a report: reads, compares, and puts the sections in order."""

import dataclasses
import pathlib
from collections.abc import Sequence

from resq_deploy.errors import RunFolderError
from resq_deploy.report import attack_sections, fault_sections, train_sections
from resq_deploy.report.compare import compare, pair_up
from resq_deploy.report.comparison_sections import comparison_sections
from resq_deploy.report.corruption_section import gate_words
from resq_deploy.report.difference import Comparison, Single
from resq_deploy.report.document import Block, Bullets, Document, Notice, Section, Table
from resq_deploy.report.glossary import with_glossary
from resq_deploy.report.runs import Run, arithmetic, audit_failed, load_runs, of_command
from resq_deploy.report.scope import not_tested
from resq_deploy.report.task import clean_told, clean_value, quality, quality_name, task_of
from resq_deploy.report.text import NONE, counted, listed, percent, rate, share
from resq_deploy.report.verdict import verdict_of


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What a report rests on.

    Attributes:
        runs: the runs, in the order given.
        comparisons: of fault campaigns that can be paired.
        singles: fault campaigns that cannot, and why.
    """

    runs: Sequence[Run]
    comparisons: Sequence[Comparison]
    singles: Sequence[Single]


def gather(folders: Sequence[pathlib.Path], *, must_compare: bool = False) -> Evidence:
    """Read run folders and compare what can be compared.

    Args:
        folders: run folders, or folders that hold them.
        must_compare: take it as an error if a fault campaign cannot be compared with another one.

    Raises:
        RunFolderError: if a folder cannot be used, or, where they must be, runs cannot be compared.
    """
    runs = load_runs(folders)
    pairs, singles = pair_up(of_command(runs, "faultcamp"))
    if must_compare and (singles or not pairs):
        raise RunFolderError(f"cannot compare {_why_not(runs, singles)}")
    return Evidence(runs=runs, comparisons=[compare(*pair) for pair in pairs], singles=singles)


def _why_not(runs: Sequence[Run], singles: Sequence[Single]) -> str:
    if singles:
        return f"{singles[0].run.label}: {singles[0].reason}"
    attacks = of_command(runs, "attackcamp")
    if len(attacks) > 1:
        named = listed([run.label for run in attacks])
        return f"{named}: {attack_sections.UNPAIRED}; without --compare they are shown side by side"
    return "runs: give two or more of faultcamp"


def document(evidence: Evidence, first: Sequence[Section] = ()) -> Document:
    """Return the report.

    Args:
        evidence: what it rests on.
        first: sections that come before all others.

    Raises:
        RunFolderError: if a file of a run folder is missing or broken.
    """
    runs = evidence.runs
    sections = [
        *first,
        _headlines(runs),
        *fault_sections.fault_sections(of_command(runs, "faultcamp")),
        *attack_sections.attack_sections(of_command(runs, "attackcamp")),
        *comparison_sections(evidence.comparisons, evidence.singles),
        *train_sections.train_sections(runs),
        Section(
            title="What was not tested",
            topic="Limits",
            blocks=["No figure of this report says anything about:", Bullets(items=not_tested(runs))],
        ),
        _provenance(runs),
    ]
    names: dict[str, str] = {}
    for run in runs:
        if run.model:
            names.setdefault(run.model, run.file)
    files = list(names.values())
    about = f"{len(files)} deployed file{'s' if len(files) > 1 else ''} ({listed(files)})" if files else "training"
    lead = f"{counted(len(runs), 'run')} on {about}. In brackets: {_levels(runs)}."
    verdict = verdict_of(runs, evidence.comparisons)
    return with_glossary(Document(title="resq-deploy report", lead=lead, sections=sections, verdict=verdict))


def _levels(runs: Sequence[Run]) -> str:
    """Name the level of the intervals, run by run where it differs."""
    by_level: dict[str, list[str]] = {}
    for run in runs:
        by_level.setdefault(f"{100 * run.confidence:g} %", []).append(run.label)
    if len(by_level) == 1:
        return f"{next(iter(by_level))} intervals"
    return f"intervals, of {listed([f'{level} in {listed(labels)}' for level, labels in by_level.items()])}"


def _headlines(runs: Sequence[Run]) -> Section:
    tested = {
        "faultcamp": fault_sections.tested_row,
        "attackcamp": attack_sections.tested_row,
        "train": train_sections.tested_row,
    }
    rows = [row for run in runs for row in _headline_rows(run)]
    blocks: list[Block] = [Notice(text=reason) for run in runs if (reason := _distrust(run))]
    blocks += [Notice(text=reason) for run in runs if (reason := _failed_gates(run))]
    blocks += [
        Table(headers=["run", "figure", "value", "units"], rows=rows),
        Table(
            headers=["run", "command", "file (SHA-256)", "data (SHA-256)", "images", "what was done"],
            rows=[tested[run.command](run) for run in runs],
        ),
    ]
    gates = [row for run in runs for row in _gate_rows(run)]
    if gates:
        blocks.append(Table(headers=["run", "gate", "bound", "figure", "result"], rows=gates))
    return Section(title="What was tested, and the main figures", topic="Overview", blocks=blocks)


def _gate_rows(run: Run) -> list[list[str]]:
    """Return the bounds that a campaign was held against: run, gate, bound, figure, result."""
    rows = []
    for gate in run.summary.get("gates", ()):
        at = "" if gate.get("ber") is None else f" at {rate(gate['ber'])}"
        at += f" at {attack_sections.radius(run, gate['epsilon'])}" if gate.get("epsilon") else gate_words(gate)
        side = "at least" if run.command == "attackcamp" else "at most"
        bound = NONE if gate["bound"] is None else f"{side} {share(gate['bound'])}"
        result = "passed" if gate["passed"] else "FAILED"
        rows.append([run.label, f"{gate['metric']}{at}", bound, percent(gate["estimate"]), result])
    return rows


def _failed_gates(run: Run) -> str | None:
    failed = list(dict.fromkeys(row[1] for row in _gate_rows(run) if row[-1] == "FAILED"))
    return f"{run.label}: the figures are not within the bounds asked for {listed(failed)}" if failed else None


def _distrust(run: Run) -> str | None:
    if run.command == "attackcamp":
        return attack_sections.untrusted(run)
    if audit_failed(run):
        return f"{run.label}: the audit found faults that differ from reload-and-run; do not use these figures"
    return None


def _headline_rows(run: Run) -> list[list[str]]:
    """Return the main figures of a run: run, figure, value, what n counts."""
    summary = run.summary
    if run.command == "train":
        return [
            [run.label, f"{name} accuracy after stage {stage}, float", percent(test[key]), f"{test[key]['n']:,} images"]
            for stage, test in ((stage, found["test"]) for stage, found in summary["stages"].items())
            for key, name in (("clean", "clean"), ("robust", "PGD"))
        ]
    if run.command == "attackcamp":
        rows = [[run.label, "clean accuracy", percent(summary["clean"]), f"{summary['clean']['n']:,} images"]]
        for epsilon in sorted(summary["worst_case"], key=float):
            found = summary["worst_case"][epsilon]
            name = f"accuracy under the worst attack, {attack_sections.radius(run, epsilon)}"
            rows.append([run.label, name, percent(found), f"{found['n']:,} images"])
        if (found := summary.get("corruptions")) is not None:
            rows.append(
                [run.label, "mean accuracy under corruptions", percent(found["mean"]), f"{found['images']:,} images"]
            )
        return rows
    return _under_faults(run)


def _under_faults(run: Run) -> list[list[str]]:
    """Return the main figures of a fault campaign; those of quality only where there is one."""
    summary, name = run.summary, quality_name(run)
    units = counted(summary["golden"]["images"], task_of(run).unit)
    rows = [[run.label, f"clean {name}", clean_told(run), units]] if clean_value(run) is not None and name else []
    if "curve" in summary:
        last = summary["curve"][-1]
        chips = f"{last['chips']} chips"
        if name:
            at = f"{name} at a bit error rate of {rate(last['ber'])}"
            rows.append([run.label, at, percent(quality(last)), chips])
        return [*rows, [run.label, f"SDC-1 at {rate(last['ber'])}", percent(last["rates"]["sdc1"]), chips]]
    evaluated = f"{summary['faults']['evaluated']:,} faults"
    rows.append([run.label, "SDC-1 of a fault", percent(summary["rates"]["sdc1"]), evaluated])
    if name:
        rows.append([run.label, f"{name} under a fault", percent(quality(summary)), evaluated])
    return rows


def _provenance(runs: Sequence[Run]) -> Section:
    rows = []
    for run in runs:
        versions = run.manifest["versions"]
        made = f"{_minute(run.manifest['started'])} to {_minute(run.manifest.get('finished', NONE))}"
        seed = run.manifest.get("seed")
        digests = "; ".join(f"{what} {digest}" for what, digest in run.manifest["sha256"].items() if digest)
        machine = f"{run.manifest.get('machine', NONE)} {' '.join(run.manifest.get('cpu_flags', ()))}".strip()
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        sums = arithmetic(run) if run.command != "train" else NONE
        rows.append([run.label, made, NONE if seed is None else str(seed), digests or NONE, told, machine, sums])
    headers = ["run", "when (UTC)", "seed", "SHA-256 of what it read", "versions", "machine", "arithmetic"]
    return Section(title="Where the figures come from", topic="Provenance", blocks=[Table(headers=headers, rows=rows)])


def _minute(moment: str) -> str:
    """Shorten a moment, recorded in UTC, to the minute."""
    return moment[:16].replace("T", " ")
