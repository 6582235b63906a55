#!/usr/bin/env python3
r"""Turn what bench_faultcamp.py measured, in one run or several, into Markdown tables.

Example:
  python tools/bench_tables.py bench.json large-networks.json --update-readme resq_deploy/guide/exact.md
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench_report import told

from resq_deploy.errors import InputError, ResqError
from resq_deploy.records import write_atomic

SCHEMA = 1  # of the reports
POPULATIONS = {"weight": "Weights", "all": "All roles"}
MARKERS = ("<!-- bench:faultcamp -->", "<!-- /bench:faultcamp -->")
NOT_ASKED = "not asked for"

Result = dict[str, Any]


def tables(report: Result) -> str:
    """Return the report in Markdown: a table for each population, a row a network, and what they mean."""
    options, host, texts = report["options"], report["machine"], []
    for population, title in POPULATIONS.items():
        measured = {name: of for name, of in report["networks"].items() if population in of["populations"]}
        if not measured:
            continue
        rows = [_row(name, network, population, options["workers"]) for name, network in measured.items()]
        header, line = " | ".join(rows[0]), "|".join(["---"] + ["---:"] * (len(rows[0]) - 1))
        body = "\n".join(f"| {' | '.join(row.values())} |" for row in rows)
        texts.append(f"{title}, single flips drawn evenly by bit:\n\n| {header} |\n|{line}|\n{body}")
    texts.append(
        f"{told(host)}. {options['images']} "
        f"images, {options['faults']} faults ({options['reload_faults']} by reload), medians of {options['repeats']} "
        "repeats. Reload, replay, PyTorchFI: seconds a fault, replay with its set-up. `A v B`: how many times faster A "
        "is, with the extremes of the repeats; a number stands for replay with so many workers. Chip: a mask of random "
        "bit errors, in golden runs. PyTorchFI runs the float32 network on all cores. Differing: faults whose records "
        "differ between replay and its audit by reload-and-run, or between variants."
    )
    texts.append("\n".join(f"- {note}" for note in notes(report["networks"])))
    return "\n\n".join(filter(None, texts)) + "\n"


def _row(name: str, network: Result, population: str, workers: int) -> dict[str, str]:
    """Return a row of a table, cell by heading."""
    found = network["populations"][population]
    variants, ratios = found["variants"], found["ratios"]
    row = {
        "network": name,
        "golden run, s": _number(network["golden_s"]["median"]),
        "reload, s": _median(variants["reload_1"]),
        "replay, s": _median(variants["replay_1"]),
        "replay v reload": _times(ratios.get("replay_1_vs_reload_1")),
        f"{workers} v reload": _times(ratios.get("replay_n_vs_reload_1")),
        f"{workers} v {workers} reload": _times(ratios.get("replay_n_vs_reload_n")),
        f"{workers} v 1": _times(ratios.get("replay_n_vs_replay_1")),
        f"Dask {workers} v {workers}": _times(ratios.get("dask_n_vs_replay_n")),
        "chip": _times(found["chips"]["per_golden"]),
    }
    if population == "weight":
        memory = network["memory"]
        row["PyTorchFI, s"] = _median(network["pytorchfi"])
        row[f"{workers} v PyTorchFI"] = _times(ratios.get("replay_n_vs_pytorchfi"))
        row["peak of limit, MB"] = "{peak_mb:.0f} of {limit_mb:.0f}".format(**memory) if "peak_mb" in memory else "-"
    differing = found["audit"]["mismatches"] + found["compared"]["mismatches"]
    row["audited, differing"] = f"{found['audit']['checked']}, {differing}"
    return row


def _number(value: float) -> str:
    """Write three significant digits, never with an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _median(variant: Result) -> str:
    return "-" if "skipped" in variant else _number(variant["s_per_fault"]["median"])


def _times(ratio: Result | None) -> str:
    return f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else "-"


def notes(networks: Mapping[str, Result]) -> list[str]:
    """Return what could not be measured and why, and where replay was not what it is called."""
    found = []
    for name, network in networks.items():
        parts = {"PyTorchFI": network["pytorchfi"], "memory": network["memory"]}
        for population, figures in network["populations"].items():
            parts |= {f"{variant} ({population})": part for variant, part in figures["variants"].items()}
        for what, part in parts.items():
            first = part.get("raw", [{}])[0]
            if part.get("skipped", NOT_ASKED) != NOT_ASKED:
                found.append(f"{name}, {what}: not measured, {part['skipped']}")
            elif first.get("reloaded") and "reload" not in what:
                found.append(f"{name}, {what}: {first['reloaded']} of {first['faults']} faults by reload")
                found[-1] += f", {first['fallback']}" if first["fallback"] else ""
    return found


def read_report(path: pathlib.Path) -> Result:
    """Read what bench_faultcamp.py wrote.

    Raises:
        InputError: if it cannot be read, is of another kind, or its measurements did not come to their end.
    """
    try:
        report: Result = json.loads(path.read_text(encoding="utf-8"))
        complete = report["schema"] == SCHEMA and report["complete"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = getattr(error, "strerror", None) or "not a report of bench_faultcamp.py"
        raise InputError(f"cannot read {path}: {reason}") from error
    if not complete:
        raise InputError(f"{path}: not measured to the end, or by another version of bench_faultcamp.py: run it again")
    return report


def put_between(path: pathlib.Path, text: str) -> None:
    """Replace what a file holds between the markers.

    Raises:
        InputError: if it cannot be read or does not hold each of them once, in order.
    """
    try:
        before, begin, rest = path.read_text(encoding="utf-8").partition(MARKERS[0])
        _, end, after = rest.partition(MARKERS[1])
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not begin or not end:
        raise InputError(f"{path}: lacks the lines {MARKERS[0]} and {MARKERS[1]}, between which the tables go")
    write_atomic(path, f"{before}{begin}\n{text}{end}{after}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of the reports; return 2 if something given cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", metavar="REPORT.json", help="from bench_faultcamp.py", type=pathlib.Path)
    parser.add_argument("--update-readme", help=f"put the tables between {' and '.join(MARKERS)}", type=pathlib.Path)
    given = parser.parse_args(argv)
    try:
        text = "\n".join(tables(read_report(path)) for path in given.reports)
        print(text, end="")
        if given.update_readme:
            put_between(given.update_readme, text)
    except ResqError as error:
        print(f"bench_tables: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
