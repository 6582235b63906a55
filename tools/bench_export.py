#!/usr/bin/env python3
r"""Measure the int8 export side by side: ours, and onnxruntime's plain quantize_static.

Both calibrate and quantize the same float weights on the same images; the plain one as its users type it (QDQ, int8
weights a channel, uint8 activations, MinMax), with a reader of batches and with one of single images. Every
measurement is a process of its own (measure_export.py), and the variants take turns within each repeat. Peak memory
is what the process held at most beyond what it held when model and calibration images were loaded. Figures are
medians over the repeats, beside their extremes. The files of the first repeat are measured on test images.

Example:
  python tools/bench_export.py resnet20=resnet20/baseline.pt other=other.onnx --dataset cifar10 --data-dir data \
      --out export.json
"""

import argparse
import collections
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench_report import begin, told
from command_line import with_one_line_errors

from resq_deploy.errors import FailedError, InputError
from resq_deploy.progress import progress_bar
from resq_deploy.records import write_json

SCHEMA = 1
VARIANTS = {
    "ours": "ours",
    "plain_batches": "quantize_static, batches",
    "plain_single": "quantize_static, single images",
}
FILES = ("float", *VARIANTS)
NUMBERS = (  # option, least value, default, meaning
    ("calibration-images", 1, 5000, "training images for calibration"),
    ("test-images", 1, 10_000, "test images the accuracies are measured on"),
    ("batch", 1, 50, "calibration images at a time, where the model leaves it open"),
    ("repeats", 1, 3, "how often all is measured"),
    ("seed", 0, 0, "seed of the calibration images"),
)
_CHILD = pathlib.Path(__file__).with_name("measure_export.py")
_FIGURES = ("seconds", "cpu_seconds", "above_loaded_mb", "loaded_mb")

Job = dict[str, Any]
Result = dict[str, Any]


def read_network(text: str) -> tuple[str, str]:
    """Read NET=CHECKPOINT.pt or NET=FLOAT.onnx.

    Raises:
        InputError: if it is not of that form, or the file is missing.
    """
    name, _, source = text.partition("=")
    if not re.fullmatch(r"[\w.-]+", name) or not source.endswith((".pt", ".onnx")):
        raise InputError(f"{text!r}: give a network as NET=CHECKPOINT.pt or NET=FLOAT.onnx")
    if not pathlib.Path(source).is_file():
        raise InputError(f"{name}: there is no file {source}")
    return name, source


def read_scheme(words: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE options of our export; values are JSON, or else text.

    Raises:
        InputError: if one is not of that form.
    """
    scheme: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not key or not sign:
            raise InputError(f"--scheme {word!r}: give KEY=VALUE, such as ranges=mse or equalize=true")
        try:
            scheme[key] = json.loads(value)
        except ValueError:
            scheme[key] = value
    return scheme


def plan_jobs(given: argparse.Namespace, source: str, folder: pathlib.Path) -> dict[str, Job]:
    """Return the jobs of a network by name: `prepare`, the variants, and `quality` of all files."""
    shared = {
        name: getattr(given, name) for name in ("dataset", "data_dir", "calibration_images", "test_images", "seed")
    }
    shared |= {"source": source, "scheme": read_scheme(given.scheme)}
    shared |= {"prepared": str(folder / "float.onnx"), "calibration": str(folder / "calibration.npz")}
    jobs: dict[str, Job] = {"prepare": {"measure": "prepare"}}
    for variant in VARIANTS:
        how = {"measure": "plain", "batch": given.batch if variant == "plain_batches" else 1}
        if variant == "ours":
            how = {"measure": "ours"}
        jobs[variant] = {**how, "out": str(folder / f"{variant}.onnx")}
    jobs["quality"] = {"measure": "quality", "files": {name: str(folder / f"{name}.onnx") for name in FILES}}
    return {name: {**shared, **job} for name, job in jobs.items()}


def run_job(job: Job, name: str) -> Result:
    """Measure in a child process.

    Raises:
        ResqError: if it fails.
    """
    child = subprocess.run([sys.executable, _CHILD, json.dumps(job)], capture_output=True, text=True)
    try:
        result: Result = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        result = {"error": f"died with {child.returncode}: {last[0]}"}
    if "error" not in result:
        return result
    kind = InputError if result.get("status") == InputError.exit_status else FailedError
    raise kind(f"{pathlib.Path(job['source']).name}, {name}: {result['error']}")


def measure(given: argparse.Namespace, write: Callable[[dict[str, Result]], None]) -> dict[str, Result]:
    """Take all measurements, and return the figures of each network; `write` gets them after each network."""
    networks = dict(map(read_network, given.networks))
    read_scheme(given.scheme)
    for name, least, *_ in NUMBERS:
        value = getattr(given, name.replace("-", "_"))
        if value < least:
            raise InputError(f"--{name} {value}: give a whole number from {least} up")
    results: dict[str, Result] = {}
    steps = len(networks) * (2 + given.repeats * len(VARIANTS))
    with progress_bar("measurements") as progress, tempfile.TemporaryDirectory(prefix="resq-bench-") as place:
        task = progress.add_task("measuring", total=steps)
        for network, source in networks.items():
            folder = pathlib.Path(place) / network
            folder.mkdir()
            jobs = plan_jobs(given, source, folder)
            order = ["prepare", *VARIANTS, "quality"]
            for repeat in range(1, given.repeats):
                order += list(VARIANTS)[:: -1 if repeat % 2 else 1]  # so that a drift favours none
            series: dict[str, list[Result]] = collections.defaultdict(list)
            for name in order:
                progress.update(task, description=f"{network} {name}")
                series[name].append(run_job(jobs[name], name))
                progress.advance(task)
            results[network] = assess(series)
            write(results)
    return results


def assess(series: Mapping[str, Sequence[Result]]) -> Result:
    """Return the figures of a network from all its measurements."""
    variants = {}
    for variant in VARIANTS:
        runs = series[variant]
        figures = {name: _figure([run[name] for run in runs]) for name in _FIGURES}
        same = len({run["sha256"] for run in runs}) == 1
        variants[variant] = {**figures, "sha256": runs[0]["sha256"], "repeats_identical": same}
    ours = variants["ours"]
    return {
        "model": series["prepare"][0],
        "variants": variants,
        "quality": series["quality"][0],
        "ours_to_plain": {
            variant: {
                name: _ratio(ours[name], variants[variant][name])
                for name in ("seconds", "cpu_seconds", "above_loaded_mb")
            }
            for variant in VARIANTS
            if variant != "ours"
        },
    }


def _figure(values: Sequence[float]) -> Result:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "raw": list(values)}


def _ratio(over: Result, under: Result) -> float | None:
    """Return the ratio of two medians, None where the second is zero."""
    return over["median"] / under["median"] if under["median"] else None


def table(report: Result) -> str:
    """Return the report as a Markdown table, a row a variant, and what it means."""
    options, host = report["options"], report["machine"]
    header = [
        "network",
        "export",
        "seconds",
        "CPU seconds",
        "peak above the loaded model, MB",
        "accuracy, %",
        "int8 MACs, %",
    ]
    rows = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for network, figures in report["networks"].items():
        rows.append([network, "none (float)", "-", "-", "-", *_quality(figures["quality"]["float"])])
        for variant, title in VARIANTS.items():
            found = figures["variants"][variant]
            costs = [
                _spread(found["seconds"], 2),
                _spread(found["cpu_seconds"], 2),
                _spread(found["above_loaded_mb"], 0),
            ]
            rows.append([network, title, *costs, *_quality(figures["quality"][variant])])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{lines}\n\n{told(host)}. "
        f"{options['calibration_images']} calibration images, accuracy on up to {options['test_images']} test images "
        f"with its 95 % interval, medians of {options['repeats']} repeats with their extremes; batches are of "
        f"{options['batch']}. Seconds: calibration and quantization; CPU seconds depend less on what else the machine "
        "does.\n"
    )


def _spread(figure: Result, digits: int) -> str:
    return f"{figure['median']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _quality(found: Result) -> list[str]:
    value, low, high = (100 * found["accuracy"][key] for key in ("value", "low", "high"))
    return [f"{value:.2f} [{low:.2f}, {high:.2f}]", f"{100 * found['macs']['share']:.1f}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NET=CHECKPOINT.pt|FLOAT.onnx", help="what to export")
    parser.add_argument("--dataset", required=True, help="as for resq-deploy export-int8")
    parser.add_argument("--data-dir", help="where named data sets lie")
    for name, _, default, meaning in NUMBERS:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default: {default})")
    parser.add_argument(
        "--scheme",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of our export, such as ranges=fault-aware or equalize=true (default: those of export-int8)",
    )
    parser.add_argument("--out", required=True, help="JSON file to write, anew after each network", type=pathlib.Path)
    return parser


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; return 2 if something given cannot be used."""
    given, head = begin("bench_export.py", _parser(), argv, SCHEMA)
    options = {name.replace("-", "_"): getattr(given, name.replace("-", "_")) for name, *_ in NUMBERS}
    report: Result = {**head, "options": options, "complete": False}
    report["networks"] = measure(given, lambda results: write_json(given.out, {**report, "networks": results}))
    report["options"]["scheme"] = read_scheme(given.scheme)
    report["complete"] = True
    write_json(given.out, report)
    print(table(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
