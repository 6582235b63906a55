#!/usr/bin/env python3
"""Remake the protected reference files in models/: protect the plain ones, measure what that gives, write the cards.

Nothing is trained. Two campaigns are run on each file, resumably: random bit errors in the weights, code bits included,
and single flips in all that is stored. On two cores the digits take minutes and the ResNet-20 half an hour each.

Examples:
  python tools/make_protected_models.py resnet8-digits-baseline --work runs/protected
  python tools/make_protected_models.py resnet20-cifar10-resq --data-dir data --work runs/protected
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from command_line import with_one_line_errors
from make_reference_models import MODELS, SUBJECTS

from resq_deploy.cli import faultcamp, protect
from resq_deploy.records import read_json, sha256_file
from resq_deploy.report.text import percent

RATES = "1e-3,3e-3,1e-2,1.5e-2,1.75e-2,2e-2"
FLIPS = 10_000

CARD = """# {name}

{source} made to heal itself: {what}.
Inputs and outputs are those of [{source}]({source}.md).

- **Remade by** `{command}`, with {versions}.
- **Needs** onnxruntime {least} or later; `resq-deploy scrub --bake` gives the plain file for runtimes that do not fold.
- **Licence** of the file: that of the project (MIT).
- **SHA-256** `{sha256}`

{bytes:,} bytes; the plain file has {plain:,}. Figures on the test images, with 95 % intervals, in exact arithmetic:

| figure | plain | protected |
|---|---|---|
{rows}

Bit errors: every stored bit of a weight, those of the code included, flips with the given probability, {chips} chips,
{images} images{plain_chips}. SDC-1: one flip anywhere in the file, {flips} flips, {flip_images} images each.
Intervals are about further chips, for which these say little, and about further flips, on these images. Codes and votes
mend faults in storage, when the file is loaded; attributes of nodes and the file's framing are not covered. {read}
"""


def _run(command: Any, arguments: Sequence[str]) -> None:
    print("resq-deploy", command.name, *arguments, flush=True)
    command.main(list(arguments), standalone_mode=False)


def _campaigns(
    file: pathlib.Path, work: pathlib.Path, data: Sequence[str], images: int
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the summaries of both campaigns on a file, run or gone on with in `work`."""
    plans = {
        "ber": ["--faults", "ber", "--roles", "weight", "--ber", RATES, "--images", str(images)],
        "single": ["--samples", str(FLIPS), "--images", str(min(images, 500))],
    }
    for name, plan in plans.items():
        out = work / f"{file.name.split('.')[0]}-{name}"
        if not (out / "summary.json").is_file():
            resume = ["--resume"] if (out / "manifest.json").is_file() else []
            _run(faultcamp.command, [str(file), *data, *plan, "--out", str(out), *resume])
    ber, single = (read_json(work / f"{file.name.split('.')[0]}-{name}" / "summary.json") for name in plans)
    return ber, single


def _chips_of(plain: Mapping[str, Any], protected: Mapping[str, Any]) -> str:
    """Say on how many chips the plain file was measured, where these are others."""
    chips = plain["curve"][0]["chips"]
    return "" if chips == protected["curve"][0]["chips"] else f" (the plain file: {chips} chips)"


def _rows(plain: Sequence[Mapping[str, Any]], protected: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the card's rows, of the two campaigns on each file."""
    (plain_ber, plain_single), (ber, single) = plain, protected
    rows = [("clean accuracy", plain_ber["golden"]["accuracy"], ber["golden"]["accuracy"])]
    known = {point["ber"]: point["accuracy"] for point in plain_ber["curve"]}
    for point in ber["curve"]:
        rows.append((f"bit error rate {point['ber']:g}, weights", known.get(point["ber"]), point["accuracy"]))
    rows.append(("SDC-1 of single flips, all roles", plain_single["rates"]["sdc1"], single["rates"]["sdc1"]))
    return [f"| {heading} | {percent(before)} | {percent(after)} |" for heading, before, after in rows]


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a plain reference file, such as resnet20-cifar10-baseline")
    parser.add_argument("--data-dir", type=pathlib.Path, help="where named data sets are looked for")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder of the campaigns")
    parser.add_argument("--images", type=int, default=10_000, help="test images at most [default: 10000]")
    given = parser.parse_args(argv)
    dataset = next((name for name in ("digits", *SUBJECTS) if f"-{name}-" in given.name), None)
    source = MODELS / f"{given.name}.int8.onnx"
    if dataset is None or not source.is_file():
        parser.error(f"no plain reference file {source}: give the name of one")
    given.work.mkdir(parents=True, exist_ok=True)
    data = ["--dataset", dataset, *(["--data-dir", str(given.data_dir)] if given.data_dir else [])]
    name = f"{given.name}-protected.int8"
    path = MODELS / f"{name}.onnx"
    _run(protect.command, [str(source), "--out", str(path), "--guard", "all", *data])
    sidecar = read_json(path.with_suffix(".json"))
    plain = _campaigns(source, given.work, data, given.images)
    protected = _campaigns(path, given.work, data, given.images)
    shown = " --data-dir data" if given.data_dir else ""
    versions = sidecar["provenance"]["versions"]
    card = CARD.format(
        name=name,
        source=f"{given.name}.int8",
        what="7-bit weights under `secded`, all else that is stored three times and voted",
        command=f"python tools/make_protected_models.py {given.name}{shown} --work runs/protected",
        versions=", ".join(f"{package} {versions[package]}" for package in ("onnx", "onnxruntime")),
        least={entry.key: entry.value for entry in onnx.load(path).metadata_props}["resq.least_onnxruntime"],
        sha256=sha256_file(path),
        bytes=path.stat().st_size,
        plain=source.stat().st_size,
        rows="\n".join(_rows(plain, protected)),
        chips=protected[0]["curve"][0]["chips"],
        plain_chips=_chips_of(plain[0], protected[0]),
        images=f"{protected[0]['golden']['images']:,}",
        flips=f"{protected[1]['faults']['evaluated']:,}",
        flip_images=f"{protected[1]['golden']['images']:,}",
        read="Campaigns as on any file: `faultcamp`, `attackcamp`.",
    )
    (MODELS / f"{name}.md").write_text(card, encoding="utf-8")
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
