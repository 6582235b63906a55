#!/usr/bin/env python3
"""Measure replay against reload on a file of any task, side by side in one process, by CPU time on one core.

Without a file it is a detector of the size of YOLOv8n with random weights, 640 x 640, on made-up pictures. Both engines
meet the same faults, drawn over all roles, and take turns, so that a busy machine slows both. Exit status 1 if the
records of a fault differ.

Examples:
  python tools/bench_any.py --images 16 --faults 200 --out yolo.json
  python tools/bench_any.py tasks/tagger.int8.onnx --dataset tasks/tagger.npz --images 200 --out tagger.json
"""

import argparse
import dataclasses
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench_report import begin
from command_line import with_one_line_errors
from tasks.yolo import yolo_int8

from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.options import DEFAULT_MEMORY, CampaignOptions
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.run import Campaign
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import FailedError
from resq_deploy.pipeline.campaign_data import data_for
from resq_deploy.records import write_json

SCHEMA = 1
_MEGABYTE = 1e6


def measure(model: DeployedModel, given: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    """Return what both engines cost on a file, and how many of the faults that both ran have different records.

    Args:
        model: the file.
        given: images, faults, reload_faults, seed, memory, dataset.
        report: told how far it is.
    """
    options = CampaignOptions(
        samples=given.faults, images=given.images, seed=given.seed, workers=1, memory=given.memory
    )
    data = data_for(model, given.dataset, options.deployment, count=given.images)
    begin, before = time.process_time(), _held()
    campaign = Campaign(model, data, options)
    ready = time.process_time() - begin
    plan, replay = campaign.plan, campaign.testbed
    kit = Kit(
        patcher=model.patcher(),
        surfaces={surface.tensor: surface for surface in model.surfaces},
        golden=campaign.golden,
        options=dataclasses.replace(options, engine="reload"),
    )
    reload = Testbed(kit)
    both = range(0, len(plan), max(1, len(plan) // given.reload_faults))
    seconds = {"replay": 0.0, "reload": 0.0}
    records: dict[str, dict[int, Record]] = {"replay": {}, "reload": {}}
    portions = replay.shards(plan, range(len(plan)))
    for number, portion in enumerate(portions):
        report(f"portion {number + 1} of {len(portions)}")
        for name, testbed, faults in (
            ("replay", replay, list(portion)),
            ("reload", reload, [fault for fault in portion if fault in both]),
        ):
            if faults:
                seconds[name] += _timed(testbed, plan, faults, records[name])
    replayed = records["replay"]
    differing = [fault for fault, record in records["reload"].items() if _told(record) != _told(replayed[fault])]
    each = {name: seconds[name] / max(1, len(records[name])) for name in seconds}
    return {
        "model": {"file": model.path.name, "bytes": model.path.stat().st_size, "sha256": model.digest},
        "judge": campaign.golden.judge.name,
        "samples": len(campaign.golden),
        "engine": replay.engine.name,
        "fallback": replay.fallback or None,
        "faults": {name: len(found) for name, found in records.items()},
        "reloaded": sum(record.reloaded for record in records["replay"].values()),
        "differing": len(differing),
        "golden_and_setup_s": ready,
        "cpu_s_per_fault": each,
        "ratio": each["reload"] / each["replay"],
        "peak_mb": _held(),
        "before_mb": before,
        "memory_mb": given.memory / _MEGABYTE,
    }


def _timed(testbed: Testbed, plan: Plan, faults: Sequence[int], into: dict[int, Record]) -> float:
    """Evaluate faults, and return the CPU seconds of that."""
    begin = time.process_time()
    found = testbed.evaluate(plan, faults)
    seconds = time.process_time() - begin
    into.update({record.number: record for record in found})
    return seconds


def _told(record: Record) -> tuple[object, ...]:
    return record.outcome, record.counts, record.amounts, record.logits


def _held() -> float:
    """Return the most memory that this process ever held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / _MEGABYTE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=pathlib.Path, help="file to measure on [default: a YOLOv8n-size one]")
    parser.add_argument("--dataset", default="synthetic", help="as for resq-deploy faultcamp [default: synthetic]")
    parser.add_argument("--images", type=int, default=16, help="samples [default: 16]")
    parser.add_argument("--faults", type=int, default=200, help="faults for replay [default: 200]")
    parser.add_argument("--reload-faults", type=int, default=20, help="of them for reload, too [default: 20]")
    parser.add_argument("--size", type=int, default=640, help="pixels of the pictures of the own file [default: 640]")
    parser.add_argument("--memory", type=int, default=DEFAULT_MEMORY, help="bytes that replay may hold")
    parser.add_argument("--seed", type=int, default=0, help="of the faults [default: 0]")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON file to write")
    return parser


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; return 1 if records differ, 2 if something given cannot be used."""
    given, head = begin("bench_any.py", _parser(), argv, SCHEMA)
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        path = given.model
        if path is None:
            path = pathlib.Path(folder) / "yolo.int8.onnx"
            yolo_int8(path, given.size)
        found = measure(DeployedModel.load(path), given, lambda text: print(text, file=sys.stderr))
    write_json(given.out, {**head, **found, "complete": True})
    each = found["cpu_s_per_fault"]
    print(
        f"{found['model']['file']}, {found['samples']} samples, judged as {found['judge']}: reload "
        f"{each['reload']:.3f} s a fault, replay {each['replay']:.3f} s, {found['ratio']:.1f} times as fast; "
        f"{found['reloaded']} of {found['faults']['replay']} reloaded; at most {found['peak_mb']:,.0f} MB held"
    )
    if found["differing"]:
        raise FailedError(f"the records of {found['differing']} faults differ: see {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
