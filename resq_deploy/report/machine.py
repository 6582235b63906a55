"""A report for machines: everything as JSON, or every estimate as a row of CSV."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from resq_deploy.report.build import Evidence
from resq_deploy.report.scope import not_tested
from resq_deploy.report.verdict import verdict_of

SCHEMA = 1
_COLUMNS = ("run", "command", "file", "figure", "value", "low", "high", "n", "confidence")
_ESTIMATE = frozenset(("value", "low", "high", "n", "confidence"))


def as_json(evidence: Evidence) -> str:
    """Return runs, comparisons and what was not tested as JSON."""
    report = {
        "schema": SCHEMA,
        "runs": [
            {"run": run.label, "command": run.command, "manifest": run.manifest, "summary": run.summary}
            for run in evidence.runs
        ],
        "comparisons": [
            {
                "first": comparison.first.label,
                "second": comparison.second.label,
                "differences": [one.as_dict() for one in comparison.differences],
                "notes": list(comparison.notes),
            }
            for comparison in evidence.comparisons
        ],
        "not_compared": [{"run": single.run.label, "reason": single.reason} for single in evidence.singles],
        "not_tested": not_tested(evidence.runs),
        "verdict": dataclasses.asdict(verdict_of(evidence.runs, evidence.comparisons)),
    }
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def as_csv(evidence: Evidence) -> str:
    """Return every estimate of the summaries and comparisons as a row; `figure` is its place, joined by slashes."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in evidence.runs:
        named = {"run": run.label, "command": run.command, "file": run.file if run.model else ""}
        writer.writerows({**named, **row} for row in _estimates(run.summary, ""))
    for comparison in evidence.comparisons:
        named = {"run": f"{comparison.second.label} - {comparison.first.label}", "command": "report", "file": ""}
        for one in comparison.differences:
            writer.writerow({**named, "figure": one.figure, **one.estimate.as_dict()})
    return stream.getvalue()


def _estimates(value: Any, place: str) -> Iterator[dict[str, Any]]:
    if isinstance(value, Mapping):
        if value.keys() >= _ESTIMATE:
            yield {"figure": place, **{key: value[key] for key in sorted(_ESTIMATE)}}
            return
        for key, inner in value.items():
            yield from _estimates(inner, f"{place}/{key}".lstrip("/"))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            name = inner.get("ber", number) if isinstance(inner, Mapping) else number
            yield from _estimates(inner, f"{place}/{name}")
