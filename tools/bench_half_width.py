"""Seconds to a bound of a given half-width: what bench_faultcamp.py measures with --half-widths."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resq_deploy.errors import FailedError, InputError
from resq_deploy.progress import progress_bar

WAYS = ("two_stage", "replay", "reload")
_CHILD = pathlib.Path(__file__).with_name("measure_half_width.py")

Result = dict[str, Any]


def read_widths(text: str) -> list[float]:
    """Read half-widths such as 0.005,0.002, for argparse."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give fractions such as 0.005,0.002") from error
    if not all(0.0 < width < 0.5 for width in found):
        raise argparse.ArgumentTypeError(f"{text!r}: give fractions between 0 and 0.5")
    return found


def measure(
    given: argparse.Namespace, networks: Mapping[str, str], write: Callable[[dict[str, Result]], None]
) -> dict[str, Result]:
    """Take all measurements, seeds in turn, and return the figures of each network; `write` gets them as they come.

    Raises:
        ResqError: if one fails.
    """
    places = [(network, width, workers) for network in networks for width in given.half_widths for workers in (1, 2)]
    raw: dict[tuple[str, float, int], list[Result]] = {place: [] for place in places}
    results: dict[str, Result] = {}
    with progress_bar("measurements") as progress:
        task = progress.add_task("half-widths", total=len(places) * given.repeats)
        for seed in range(given.seed, given.seed + given.repeats):
            for network, width, workers in places:
                progress.update(task, description=f"{network} {width:g}, {workers} workers, seed {seed}")
                job = {"model": networks[network], "dataset": given.dataset, "data_dir": given.data_dir, "seed": seed}
                job |= {"images": given.images, "half_width": width, "workers": workers}
                job |= {"seconds": given.sample_seconds, "run": given.run_two_stage}
                raw[network, width, workers].append(_run(job, network))
                progress.advance(task)
                results = assess(raw)
                write(results)
    return results


def _run(job: Mapping[str, Any], network: str) -> Result:
    child = subprocess.run([sys.executable, _CHILD, json.dumps(job)], capture_output=True, text=True)
    try:
        result: Result = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        result = {"error": f"died with {child.returncode}: {last[0]}"}
    if "error" in result:
        kind = InputError if result.get("status") == InputError.exit_status else FailedError
        raise kind(f"{network}, half-width {job['half_width']:g}: {result['error']}")
    return result


def assess(raw: Mapping[tuple[str, float, int], Sequence[Result]]) -> dict[str, Result]:
    """Return medians over the seeds, and their ratios beside the extremes of single seeds."""
    networks: dict[str, Result] = {}
    for (network, width, workers), found in raw.items():
        if not found:
            continue
        kind = "cpu" if workers == 1 else "wall"
        seconds = {way: [one[way][kind] for one in found] for way in WAYS}
        figures = {
            "seconds": {way: statistics.median(values) for way, values in seconds.items()},
            "faults": {way: statistics.median(one[way]["faults"] for one in found) for way in WAYS},
            "images": statistics.median(one["two_stage"]["images"] for one in found),
            "two_stage_vs_replay": _ratio(seconds["replay"], seconds["two_stage"]),
            "two_stage_vs_reload": _ratio(seconds["reload"], seconds["two_stage"]),
            "raw": list(found),
        }
        networks.setdefault(network, {}).setdefault(f"{width:g}", {})[str(workers)] = figures
    return networks


def _ratio(over: Sequence[float], under: Sequence[float]) -> Result:
    each = [above / below for above, below in zip(over, under, strict=True)]
    return {"value": statistics.median(over) / statistics.median(under), "low": min(each), "high": max(each)}


def table(networks: Mapping[str, Result], images: int, repeats: int) -> str:
    """Return the figures in Markdown, and what they rest on."""
    lines = [
        "| network | half-width | workers | faults | images a fault | two stages, s | replay, s | reload, s "
        "| v replay | v reload |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for network, widths in networks.items():
        for width, by_workers in widths.items():
            for workers, found in by_workers.items():
                seconds = " | ".join(f"{found['seconds'][way]:,.0f}" for way in WAYS)
                ratios = " | ".join(
                    "{value:.1f} [{low:.1f}, {high:.1f}]".format(**found[f"two_stage_vs_{way}"]) for way in WAYS[1:]
                )
                lines.append(
                    f"| {network} | {100 * float(width):g} points | {workers} | {found['faults']['two_stage']:,.0f} | "
                    f"{found['images']:,.0f} | {seconds} | {ratios} |"
                )
    return "\n".join(lines) + (
        f"\n\nSeconds to a half-width of SDC-1, all roles, {images} images; medians of {repeats} seeds, processor time "
        "with one worker and elapsed time with two. Replay and reload run all images of each fault. Their seconds are "
        "extrapolated, and so are those of two stages unless --run-two-stage was given: faults that the pilot plans "
        "for that many images, times seconds a fault of a sample of the same faults, and set-up.\n"
    )
