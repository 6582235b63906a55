#!/usr/bin/env python3
r"""Measure the campaign engines side by side: reload, replay, several workers, Dask, and PyTorchFI.

Every measurement is a process of its own (measure_faultcamp.py), and the variants take turns within each repeat, on
the same faults and images. Figures are medians over the repeats, ratios are those of the medians, beside the extremes
of the repeats. Setting an engine up counts, except for the chips of `ber` and for PyTorchFI; starting a cluster does
not. Exit status 1 if any two records of a fault differ. The tables of several reports: bench_tables.py.

With --half-widths it measures instead what a bound costs: two-stage sampling, replay and reload on all images, with one
worker and with --workers. Each measurement is kept in --out as it ends; --resume goes on with those that it lacks.

Example:
  python tools/bench_faultcamp.py resnet20=resnet20.int8.onnx,resnet20/baseline.pt --dataset cifar10 --data-dir data \
      --out bench.json
  python tools/bench_faultcamp.py resnet20=resnet20.int8.onnx --dataset cifar10 --half-widths 0.005,0.002 \
      --workers 1 --run-two-stage --out width.json --resume
"""

import argparse
import collections
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bench_half_width
from bench_report import begin
from bench_tables import NOT_ASKED, POPULATIONS, SCHEMA, tables
from command_line import with_one_line_errors

from resq_deploy.errors import FailedError, InputError, OptionError
from resq_deploy.progress import progress_bar
from resq_deploy.records import write_json

VARIANTS = ("reload_1", "replay_1", "reload_n", "replay_n", "dask_n")
RATIOS = {  # how many times faster the first of the two is
    "replay_1_vs_reload_1": ("replay_1", "reload_1"),
    "replay_n_vs_reload_1": ("replay_n", "reload_1"),
    "replay_n_vs_reload_n": ("replay_n", "reload_n"),
    "replay_n_vs_replay_1": ("replay_n", "replay_1"),
    "dask_n_vs_replay_n": ("dask_n", "replay_n"),
    "replay_n_vs_pytorchfi": ("replay_n", "pytorchfi"),
}
NUMBERS = (  # option, least value, default, meaning
    ("images", 1, 1000, "test images"),
    ("faults", 1, 200, "faults for replay"),
    ("reload-faults", 1, 10, "of them for reload"),
    ("chips", 1, 2, "chips a bit error rate"),
    ("workers", 1, 2, "workers, where there are several"),
    ("repeats", 1, 3, "how often all is measured"),
    ("seed", 0, 0, "seed of the faults"),
    ("pytorchfi-faults", 0, 5, "faults for PyTorchFI; 0 leaves it out"),
    ("memory-images", 0, 10_000, "images of the campaign whose memory is measured; 0 leaves it out"),
    ("memory-faults", 1, 40, "faults of that campaign"),
)
_OPTIONAL = ("dask_n", "pytorchfi", "memory")  # without these, the rest is still a result
_CHILD = pathlib.Path(__file__).with_name("measure_faultcamp.py")

Job = dict[str, Any]
Result = dict[str, Any]
Series = Mapping[str, Sequence[Result]]


def read_network(text: str) -> tuple[str, dict[str, str | None]]:
    """Read NET=MODEL.onnx[,CHECKPOINT.pt].

    Raises:
        InputError: if it is not of that form, or a file is missing.
    """
    name, _, files = text.partition("=")
    model, _, checkpoint = files.partition(",")
    if not name or not model:
        raise InputError(f"{text!r}: give a network as NET=MODEL.onnx or NET=MODEL.onnx,CHECKPOINT.pt")
    for path in filter(None, (model, checkpoint)):
        if not pathlib.Path(path).is_file():
            raise InputError(f"{name}: there is no file {path}")
    return name, {"model": model, "checkpoint": checkpoint or None}


def plan_jobs(given: argparse.Namespace, files: Mapping[str, str | None]) -> dict[str, Job]:
    """Return the measurements of a network by the name of their figures; `check` and `memory` are done once."""
    shared = {**files, "dataset": given.dataset, "data_dir": given.data_dir, "images": given.images, "seed": given.seed}
    shared |= {"faults": given.faults, "first": given.faults, "workers": 1, "dask": False, "audit": False}
    variants: dict[str, Job] = {
        variant: {"engine": engine, "workers": workers, "first": first}
        for engine, first in (("reload", given.reload_faults), ("replay", given.faults))
        for variant, workers in ((f"{engine}_1", 1), (f"{engine}_n", given.workers))
    }
    variants["replay_1"]["audit"] = True
    if given.dask:
        variants["dask_n"] = {"engine": "replay", "workers": given.workers, "dask": True}
    jobs: dict[str, Job] = {"check": {"measure": "check"}}
    for population in ["weight"] if given.weights_only else POPULATIONS:
        jobs[f"{population}.chips"] = {
            "measure": "chips",
            "population": population,
            "chips": given.chips,
            "audit": True,
        }
        for variant, how in variants.items():
            jobs[f"{population}.{variant}"] = {"measure": "engine", "population": population, **how}
    if given.pytorchfi_faults:
        jobs["pytorchfi"] = {"measure": "pytorchfi", "first": given.pytorchfi_faults}
    if given.memory_images:
        size = {"images": given.memory_images, "faults": given.memory_faults, "workers": given.workers}
        jobs["memory"] = {"measure": "memory", **size}
    return {name: {**shared, **job} for name, job in jobs.items()}


def run_job(job: Job, name: str) -> Result:
    """Measure in a child process.

    Raises:
        ResqError: if it fails, unless the figure is one that may be missing.
    """
    child = subprocess.run([sys.executable, _CHILD, json.dumps(job)], capture_output=True, text=True)
    try:
        result: Result = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        result = {"error": f"died with {child.returncode}: {last[0]}"}
    if "error" not in result:
        return result
    if name.endswith(_OPTIONAL):
        return {"skipped": f"failed: {result['error']}"}
    kind = InputError if result.get("status") == InputError.exit_status else FailedError
    raise kind(f"{pathlib.Path(job['model']).name}, {name}: {result['error']}")


def measure(given: argparse.Namespace, write: Callable[[dict[str, Result]], None]) -> dict[str, Result]:
    """Take all measurements, and return the figures of each network; `write` gets them after each repeat."""
    jobs = {name: plan_jobs(given, files) for name, files in map(read_network, given.networks)}
    rounds = [(network, 0, ["check"]) for network in jobs]
    for network in jobs:
        names = [name for name in jobs[network] if name not in ("check", "memory")]
        for repeat in range(given.repeats):
            rounds.append((network, repeat, names[:: 1 if repeat % 2 == 0 else -1]))  # so that a drift favours none
        rounds.append((network, given.repeats, [name for name in jobs[network] if name == "memory"]))
    series: dict[str, dict[str, list[Result]]] = {name: collections.defaultdict(list) for name in jobs}
    results: dict[str, Result] = {}
    with progress_bar("measurements") as progress:
        task = progress.add_task("checking", total=sum(len(names) for *_, names in rounds))
        for network, repeat, names in rounds:
            for name in names:
                progress.update(task, description=f"{network} {name}")
                job = jobs[network][name]
                series[network][name].append(run_job({**job, "audit": job["audit"] and repeat == 0}, name))
                progress.advance(task)
            if names != ["check"]:
                results[network] = assess(series[network])
                write(results)
    return results


def assess(series: Series) -> Result:
    """Return the figures of a network from what was measured so far."""
    measured = [population for population in POPULATIONS if f"{population}.chips" in series]
    return {
        "model": series["check"][0],
        "golden_s": _figure([result["golden_s"] for result in series["weight.chips"]]),
        "populations": {
            population: {**_population(series, population), "chips": _chips(series[f"{population}.chips"])}
            for population in measured
        },
        "pytorchfi": _variant(series.get("pytorchfi", ())),
        "memory": series["memory"][0] if "memory" in series else {"skipped": NOT_ASKED},
    }


def _chips(chips: Sequence[Result]) -> Result:
    """Return the figures of masks of random bit errors."""
    golden, mask = [result["golden_s"] for result in chips], [result["s_per_mask"] for result in chips]
    by_rate = [result["s_per_mask_by_rate"] for result in chips]
    return {
        "masks": chips[0]["masks"],
        "s_per_mask": _figure(mask),
        "s_per_mask_by_rate": {rate: _figure([seconds[rate] for seconds in by_rate]) for rate in by_rate[0]},
        "per_golden": _ratio(mask, golden),
        "audit": chips[0]["audit"],
    }


def _population(series: Series, population: str) -> Result:
    runs = {variant: series.get(f"{population}.{variant}", ()) for variant in VARIANTS}
    seconds = {variant: _seconds(results) for variant, results in runs.items()}
    if population == "weight":  # PyTorchFI is given weight faults
        seconds["pytorchfi"] = _seconds(series.get("pytorchfi", ()))
    outputs: dict[str, list[str]] = collections.defaultdict(list)
    for result in itertools.chain.from_iterable(runs.values()):
        for fault, output in result.get("outputs", {}).items():
            outputs[fault].append(output)
    repeated = [found for found in outputs.values() if len(found) > 1]
    return {
        "variants": {variant: _variant(results) for variant, results in runs.items()},
        "ratios": {
            name: _ratio(seconds[slow], seconds[fast])
            for name, (fast, slow) in RATIOS.items()
            if seconds.get(fast) and seconds.get(slow)
        },
        "audit": runs["replay_1"][0]["audit"] if runs["replay_1"] else None,
        "compared": {"faults": len(repeated), "mismatches": sum(len(set(found)) > 1 for found in repeated)},
    }


def _variant(results: Sequence[Result]) -> Result:
    for result in results or [{"skipped": NOT_ASKED}]:
        if "skipped" in result:
            return result
    raw = [{key: value for key, value in result.items() if key not in ("outputs", "audit")} for result in results]
    return {"s_per_fault": _figure(_seconds(results)), "raw": raw}


def _seconds(results: Sequence[Result]) -> list[float]:
    """Return the seconds a fault of each repeat; none where any repeat lacks them."""
    found = [result["s_per_fault"] for result in results if "s_per_fault" in result]
    return found if len(found) == len(results) else []


def _figure(values: Sequence[float]) -> Result:
    return {"median": statistics.median(values), "raw": list(values)}


def _ratio(over: Sequence[float], under: Sequence[float]) -> Result:
    """Return the ratio of the medians, and the extremes of the ratios of single repeats."""
    each = [above / below for above, below in zip(over, under, strict=True)]
    return {"value": statistics.median(over) / statistics.median(under), "low": min(each), "high": max(each)}


def mismatches(results: Mapping[str, Result]) -> int:
    """Return how many faults had two different records, be it in an audit or between variants."""
    found = [population for network in results.values() for population in network["populations"].values()]
    parts = [*found, *(population["chips"] for population in found)]
    return sum(part[kind]["mismatches"] for part in parts for kind in ("audit", "compared") if part.get(kind))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NET=MODEL.onnx[,CHECKPOINT.pt]", help="what to measure on")
    parser.add_argument("--dataset", required=True, help="as for resq-deploy faultcamp")
    parser.add_argument("--data-dir", help="where named data sets lie")
    for name, least, default, meaning in NUMBERS:
        parser.add_argument(f"--{name}", type=_whole(least), default=default, help=f"{meaning} (default: {default})")
    parser.add_argument("--weights-only", action="store_true", help="leave out the faults drawn over all roles")
    parser.add_argument("--no-dask", dest="dask", action="store_false", help="leave Dask out")
    parser.add_argument(
        "--half-widths", type=bench_half_width.read_widths, metavar="E,E,...", help="measure seconds to these bounds"
    )
    parser.add_argument("--sample-seconds", type=float, default=60.0, help="of faults timed for each (default: 60)")
    parser.add_argument("--run-two-stage", action="store_true", help="run two-stage campaigns to their end")
    parser.add_argument(
        "--resume", action="store_true", help="of --half-widths: keep what --out holds, measure the rest"
    )
    parser.add_argument("--out", required=True, help="JSON file to write, anew after each repeat", type=pathlib.Path)
    return parser


def _whole(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers for argparse."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} up")
        return int(text)

    return read


def _half_widths(given: argparse.Namespace, report: Result) -> int:
    """Measure seconds to half-widths, and write and print them."""
    networks = {name: str(files["model"]) for name, files in map(read_network, given.networks)}
    head = {**report, "half_widths": given.half_widths}
    found = bench_half_width.measure(
        given, networks, lambda some: write_json(given.out, {**head, "networks": some}), report.get("networks", {})
    )
    write_json(given.out, {**head, "networks": found, "complete": True})
    print(bench_half_width.table(found, given.images, given.repeats), end="")
    return 0


def _resumes(given: argparse.Namespace) -> bool:
    """Return whether what was asked for can be resumed.

    Raises:
        OptionError: if it cannot, and is to be.
    """
    if given.resume and not given.half_widths:
        raise OptionError("--resume goes with --half-widths alone: give another --out")
    return bool(given.half_widths)


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; return 1 if records differ, 2 if something given cannot be used."""
    given, head = begin("bench_faultcamp.py", _parser(), argv, SCHEMA, _resumes)
    options = {key: value for key, value in vars(given).items() if isinstance(value, int)}
    report: Result = {**head, "options": options, "complete": False}
    if given.half_widths:
        return _half_widths(given, report)
    report["networks"] = measure(given, lambda results: write_json(given.out, {**report, "networks": results}))
    write_json(given.out, {**report, "complete": True})
    print(tables(report), end="")
    differing = mismatches(report["networks"])
    if differing:
        raise FailedError(f"the records of {differing} faults differ: see {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
