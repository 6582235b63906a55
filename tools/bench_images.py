#!/usr/bin/env python3
"""Measure what more images at hand cost a campaign of two-stage sampling, by CPU time on one core.

The same margin is asked for on few and on many images, by each seed, and every campaign is run to its end in a process
of its own; so is a golden run that keeps nothing. The campaign's own golden run keeps values for the faults, and is
told apart. What is left of the difference, `beyond`, is given for as many faults as the campaign on few images has
judged: how many a margin takes is drawn.

Example:
  python tools/bench_images.py net.int8.onnx --dataset cifar10 --data-dir data --out images.json
"""

import argparse
import concurrent.futures
import multiprocessing
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from bench_report import begin
from command_line import with_one_line_errors
from measure_half_width import Job, begun, evaluated

from resq_deploy.campaign.plan import Plan
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import OptionError
from resq_deploy.progress import progress_bar
from resq_deploy.records import write_json

SCHEMA = 1
_COLUMNS = ("golden", "golden, kept", "campaign", "faults")

Result = dict[str, Any]


def measured(job: Job) -> Result:
    """Return CPU seconds of a campaign that is run to its end, and of its golden run; run in a process of its own.

    Args:
        job: what `measure_half_width.begun` takes, `touch`: GB, and `keeps`: False for a golden run alone.
    """
    # Where a virtual machine has not used memory before, its host's time counts, which is no property of the campaign.
    np.empty(int(job["touch"] * 10**9), np.uint8).fill(1)
    if not job["keeps"]:
        return {"golden": begun(job, "all", "reload")[1].cpu}
    campaign, clock = begun(job, "auto", "replay")
    seconds, rates, plan = clock.cpu, np.empty(0), campaign.plan
    further: Plan | None = plan
    while further is not None:
        plan = further
        records, clock_of_phase = evaluated(campaign, plan, range(len(rates), len(plan)))
        rates = np.concatenate([rates, [record.sdc1 for record in records]])
        seconds += clock_of_phase.cpu
        further = plan.continued(rates)
    return {"golden, kept": clock.cpu, "campaign": seconds, "faults": len(plan), "a fault": plan.images_per_fault}


def alone(job: Job) -> Result:
    """Return what `measured` does, in a new process: what an earlier campaign held is no help, and no burden."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measured, job).result()


def assess(few: Result, many: Result) -> Result:
    """Return what many images cost beyond few and the golden run of the others, in seconds and as a share.

    Args:
        few: seconds, and how many faults they were for.
        many: the same, on many images.
    """
    faults = few["faults"]
    of_faults = (many["campaign"] - many["golden, kept"]) / many["faults"] * faults
    found: Result = {}
    for name in ("golden, kept", "golden"):
        due = few["campaign"] + many[name] - few[name]
        found[name] = {"seconds": many["golden, kept"] + of_faults - due, "of": due}
        found[name]["share"] = found[name]["seconds"] / due
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="file to measure on")
    parser.add_argument("--dataset", required=True, help="as for resq-deploy faultcamp")
    parser.add_argument("--data-dir", help="where named data sets lie")
    parser.add_argument("--images", type=int, nargs=2, default=(1000, 10000), help="few and many [default: 1000 10000]")
    parser.add_argument("--margin", type=float, default=0.003, help="of SDC-1 [default: 0.003]")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="of the faults [default: 0 1 2]")
    parser.add_argument("--touch", type=float, default=3.0, help="GB that are used before each run [default: 3]")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON file to write")
    return parser


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print."""
    given, head = begin("bench_images.py", _parser(), argv, SCHEMA)
    few, many = given.images
    if few >= many:
        raise OptionError(f"--images {few} {many}: give few images first, then more")
    model = DeployedModel.load(given.model)
    job = {"model": str(given.model), "dataset": given.dataset, "data_dir": given.data_dir, "workers": 1}
    job |= {"half_width": given.margin, "touch": given.touch}
    seeds: list[Result] = []
    with progress_bar("measurements") as progress:
        task = progress.add_task("images", total=4 * len(given.seeds))
        for seed in given.seeds:
            found: dict[int, Result] = {few: {}, many: {}}
            for images in (few, many):
                for keeps in (False, True):
                    progress.update(task, description=f"{images} images, seed {seed}")
                    found[images].update(alone({**job, "images": images, "seed": seed, "keeps": keeps}))
                    progress.advance(task)
            seeds.append({"seed": seed, "few": found[few], "many": found[many], **assess(found[few], found[many])})
            write_json(given.out, {**head, "seeds": seeds, "complete": False})
    write_json(given.out, {**head, "model": model.digest, "seeds": seeds, "complete": True})
    print(_table(seeds, few, many), end="")
    return 0


def _table(seeds: Sequence[Result], few: int, many: int) -> str:
    """Return the figures in Markdown, and what they are."""
    lines = ["| seed | images | " + " | ".join(_COLUMNS) + " |", "|---:" * (len(_COLUMNS) + 2) + "|"]
    for one in seeds:
        for images, found in ((few, one["few"]), (many, one["many"])):
            seconds = " | ".join(f"{found[name]:.2f}" for name in _COLUMNS[:-1])
            lines.append(f"| {one['seed']} | {images:,} | {seconds} | {found['faults']:,} |")
    beyond = {name: [one[name]["share"] for one in seeds] for name in ("golden, kept", "golden")}
    said = " and ".join(
        f"{100 * statistics.median(shares):.1f} % [{100 * min(shares):.1f}, {100 * max(shares):.1f}]"
        for shares in beyond.values()
    )
    return "\n".join(lines) + (
        f"\n\nCPU seconds on one core. For as many faults, {many:,} images cost beyond {few:,} and the golden run of "
        f"the others: {said} of that, by the campaign's own golden run and by one that keeps nothing; medians and "
        "extremes of the seeds.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
