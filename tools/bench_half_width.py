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
from resq_deploy.records import sha256_file

WAYS = ("two_stage", "replay", "reload")
_CHILD = pathlib.Path(__file__).with_name("measure_half_width.py")

Result = dict[str, Any]
Place = tuple[str, float, int]
"""Network, half-width, workers."""


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
    given: argparse.Namespace,
    networks: Mapping[str, str],
    write: Callable[[dict[str, Result]], None],
    earlier: Mapping[str, Any],
) -> dict[str, Result]:
    """Take all measurements, seeds in turn, and return the figures of each network; `write` gets them as they come.

    Args:
        given: the command line.
        networks: their files.
        write: keeps what was measured so far.
        earlier: what was measured before of any networks, as `write` got it; none of that is measured anew.

    Raises:
        ResqError: if one fails.
    """
    counts = sorted({1, given.workers})
    digests = {network: sha256_file(pathlib.Path(path)) for network, path in networks.items()}
    job = {"dataset": given.dataset, "data_dir": given.data_dir, "images": given.images}
    job |= {"seconds": given.sample_seconds, "run": given.run_two_stage}
    raw = _kept(earlier)
    for (network, *_), found in raw.items():
        if network in networks:
            _check_alike({**job, "model": digests[network]}, [one["of"] for one in found.values()], given.out)
    places = [(network, width, count) for network in networks for width in given.half_widths for count in counts]
    wanted = [(place, seed) for seed in range(given.seed, given.seed + given.repeats) for place in places]
    with progress_bar("measurements") as progress:
        task = progress.add_task("half-widths", total=len(wanted))
        for place, seed in wanted:
            network, width, count = place
            progress.update(task, description=f"{network} {width:g}, {count} workers, seed {seed}")
            if seed not in raw.setdefault(place, {}):
                this = {**job, "half_width": width, "workers": count, "seed": seed}
                measured = _run({**this, "model": networks[network]}, network)
                raw[place][seed] = {**measured, "of": {**this, "model": digests[network]}}
                write(assess(raw))
            progress.advance(task)
    return assess(raw)


def _kept(networks: Mapping[str, Any]) -> dict[Place, dict[int, Result]]:
    """Return what figures of networks were made of, by place and seed."""
    return {
        (network, float(width), int(workers)): {one["of"]["seed"]: one for one in found["raw"]}
        for network, widths in networks.items()
        for width, by_workers in widths.items()
        for workers, found in by_workers.items()
    }


def _check_alike(job: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Check that measurements of one network were taken as others are to be, so that their medians say something.

    Raises:
        InputError: naming the first difference.
    """
    for of in earlier:
        for name, value in job.items():
            if of[name] != value:
                raise InputError(f"{path}: measured with {name} {of[name]}, now {value}: give that, or another --out")


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


def assess(raw: Mapping[Place, Mapping[int, Result]]) -> dict[str, Result]:
    """Return medians over the seeds, and their ratios beside the extremes of single seeds."""
    networks: dict[str, Result] = {}
    for (network, width, workers), by_seed in raw.items():
        found = [by_seed[seed] for seed in sorted(by_seed)]
        if not found:
            continue
        kind = "cpu" if workers == 1 else "wall"
        seconds = {way: [one[way][kind] for one in found] for way in WAYS}
        figures = {
            "seconds": {way: statistics.median(values) for way, values in seconds.items()},
            "faults": {way: statistics.median(one[way]["faults"] for one in found) for way in WAYS},
            "images": statistics.median(one["two_stage"]["images"] for one in found),
            "relative_error": {way: statistics.median(one[way]["relative_error"] for one in found) for way in WAYS},
            "two_stage_vs_replay": _ratio(seconds["replay"], seconds["two_stage"]),
            "two_stage_vs_reload": _ratio(seconds["reload"], seconds["two_stage"]),
            "raw": found,
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
                error = found["relative_error"]
                seconds = " | ".join(
                    f"{found['seconds'][way]:,.0f}" + (f" ±{100 * error[way]:.0f} %" if error[way] else "")
                    for way in WAYS
                )
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
        "for that many images, times seconds a fault of a sample of the same faults, and set-up; ± one standard error "
        "of one seed.\n"
    )
