"""The figures of an FMEDA: as CSV, a row an element and a metric, and by their names in the file formats."""

import csv
import dataclasses
import io

from resq_deploy.faults.fmeda import CLASSES, Row
from resq_deploy.faults.hardware_metrics import with_self_test
from resq_deploy.faults.statistics import Estimate
from resq_deploy.report.fmeda import Analysis

_HEAD = ("run", "by", "element", "mechanism", "bits", "fit_per_mbit", "raw_fit")
_ENDS = ("value", "low", "high")
_METRICS = ("metric", "metric_value", "metric_low", "metric_high", "confidence", "dangerous")


def as_csv(analysis: Analysis) -> str:
    """Return a row an element, one of the total, and one a metric.

    Columns of rates are in FIT; `safe_share` is the safe fraction. The rates of the five classes add up to `raw_fit`,
    and those of the elements to the total's.
    """
    stream = io.StringIO()
    of_classes = [f"{name}_fit{end}" for name in CLASSES for end in ("", "_low", "_high")]
    safe = ["safe_share", "safe_share_low", "safe_share_high"]
    writer = csv.DictWriter(stream, [*_HEAD, *safe, *of_classes, *_METRICS], lineterminator="\n")
    writer.writeheader()
    named = {"run": analysis.run.label, "by": analysis.asked.by, "dangerous": analysis.asked.dangerous}
    found = analysis.found
    for element, row in zip(analysis.elements, found.rows, strict=True):
        writer.writerow(
            {
                **named,
                "element": element.name,
                "mechanism": element.mechanism,
                "bits": row.bits,
                "fit_per_mbit": element.rate,
                "raw_fit": row.raw,
                **_classes(row),
                "confidence": analysis.run.confidence,
            }
        )
    totals = {f"{name}_fit": sum(getattr(row, name).value for row in found.rows) for name in CLASSES}
    ends = {"undetected": found.undetected, "latent": found.latent}
    intervals = {
        f"{name}_fit_{end}": getattr(estimate, end) for name, estimate in ends.items() if estimate for end in _ENDS[1:]
    }
    bits = sum(row.bits for row in found.rows)
    writer.writerow({**named, "element": "total", "bits": bits, "raw_fit": found.raw, **totals, **intervals})
    for name, estimate in metrics(analysis).items():
        if estimate is not None:
            values = {f"metric_{end}": getattr(estimate, end) for end in _ENDS}
            writer.writerow({**named, "metric": name, **values, "confidence": estimate.confidence})
    return stream.getvalue()


def metrics(analysis: Analysis) -> dict[str, Estimate | None]:
    """Return both metrics and every diagnostic coverage, by their names in the file formats."""
    found = analysis.found
    return {
        "spfm": found.spfm,
        "lfm": found.lfm,
        **{f"coverage/{name}": estimate for name, estimate in found.coverage.items()},
        "coverage/health": found.health,
        **_self_tested(analysis),
    }


def _self_tested(analysis: Analysis) -> dict[str, Estimate]:
    """Return what a self-test covers, and the single-point fault metric that it makes."""
    test, found = analysis.asked.selftest, analysis.found
    if test is None:
        return {}
    return {
        "coverage/selftest": test.coverage,
        "spfm_with_selftest": with_self_test(found.undetected, test.coverage, found.raw),
    }


def _classes(row: Row) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in CLASSES:
        estimate = getattr(row, name)
        values |= {f"{name}_fit": estimate.value, f"{name}_fit_low": estimate.low, f"{name}_fit_high": estimate.high}
    safe = safe_share(row)
    return values | {"safe_share": safe.value, "safe_share_low": safe.low, "safe_share_high": safe.high}


def safe_share(row: Row) -> Estimate:
    """Return the share of a row's rate that is safe; 1 where its memory does not fail."""
    raw = row.raw
    value, low, high = ((end / raw if raw else 1.0) for end in (row.safe.value, row.safe.low, row.safe.high))
    return dataclasses.replace(row.safe, value=value, low=low, high=high)
