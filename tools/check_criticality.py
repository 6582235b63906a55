#!/usr/bin/env python3
"""Correlate the ranking of layers by gradient norms (equation 4) with what flips in the deployed file did.

Takes criticality.json of a train run, the run folder of a faultcamp of single faults on the exported file, and that
file. Prints Spearman's rank correlation, with its interval over layers, between each figure of the ranking (before or
after stage 1; gradient and scaled) and two figures of a layer's weights: the SDC-1 of a flip among them, and their
risk, which is SDC-1 times their bits: what the layer adds where every bit is as likely to flip. Faults that spread
thinly over layers pull any correlation towards 0: how many the layers have is printed beside it.

Example:
  python tools/check_criticality.py run faults net.int8.onnx --out criticality-check.json
"""

import argparse
import collections
import csv
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from command_line import with_one_line_errors

from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import InputError
from resq_deploy.faults.statistics import Estimate, rank_correlation
from resq_deploy.records import read_json, read_manifest, write_json

MODES = ("gradient", "scaled")
FIGURES = {"sdc1": "SDC-1 of a weight flip", "risk": "risk of a layer's weights"}
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerFaults:
    """What faults in a layer's weights do.

    Attributes:
        sdc1: share of image runs that a flip among them changes.
        faults: how many flips that rests on.
        bits: how many bits they have.
    """

    sdc1: float
    faults: int
    bits: int

    @property
    def risk(self) -> float:
        """Sum over the bits of the share of image runs that the flip of each changes."""
        return self.sdc1 * self.bits


def layer_faults(folder: pathlib.Path, file: pathlib.Path) -> dict[str, LayerFaults]:
    """Read SDC-1 by layer of the weight faults of a campaign.

    Faults drawn evenly (`--samples`, `--exhaustive`) are averaged from faults.csv. Strata are drawn unevenly within a
    layer; their estimates are those of summary.json, which are of weights alone if the campaign was (`--roles weight`).

    Raises:
        InputError: if the folder is no finished campaign of single faults of the file, or mixes roles in strata.
    """
    manifest, model = read_manifest(folder), DeployedModel.load(file)
    options = manifest.get("options", {})
    if manifest.get("sha256", {}).get("model") != model.digest:
        raise InputError(f"{folder} is no campaign on {file}: give the file that it ran on")
    bits: collections.Counter[str] = collections.Counter()
    for surface in model.surfaces:
        if surface.role is Role.WEIGHT:
            bits[surface.layer] += surface.bits
    if options.get("faults") != "single":
        raise InputError(f"{folder} is no campaign of single faults: give one of 'faultcamp --faults single'")
    if options.get("margin") is None:
        return _from_table(folder / "faults.csv", bits)
    if options.get("roles") != ["weight"]:
        raise InputError(f"{folder} mixes roles in its strata: give a campaign with --roles weight, or with --samples")
    layers = read_json(folder / "summary.json")["by_layer"]
    return {
        name: LayerFaults(sdc1=of["sdc1"]["value"], faults=of["sdc1"]["n"], bits=bits[name])
        for name, of in layers.items()
    }


def _from_table(path: pathlib.Path, bits: Mapping[str, int]) -> dict[str, LayerFaults]:
    shares: dict[str, list[float]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["role"] == "weight" and int(row["images"]):
                    shares.setdefault(row["layer"], []).append(int(row["sdc1"]) / int(row["images"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): give the run folder of a finished faultcamp") from error
    return {
        name: LayerFaults(sdc1=statistics.fmean(values), faults=len(values), bits=bits[name])
        for name, values in shares.items()
    }


def rankings(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Read the rankings of a train run by when they were measured.

    Raises:
        InputError: if there is none.
    """
    path = folder / "criticality.json"
    found = read_json(path)
    try:
        return {when: [{key: entry[key] for key in ("layer", *MODES)} for entry in of] for when, of in found.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no ranking of layers ({error}): give a folder of resq-deploy train") from error


def correlate(
    ranking: Sequence[Mapping[str, Any]], layers: Mapping[str, LayerFaults], mode: str, figure: str
) -> Estimate:
    """Return Spearman's correlation over the layers that both know; the export names layers after their modules.

    Raises:
        InputError: if they share too few layers, or all have the same figure.
    """
    shared = [entry for entry in ranking if entry["layer"] in layers]
    found = rank_correlation(
        [entry[mode] for entry in shared], [getattr(layers[entry["layer"]], figure) for entry in shared], _CONFIDENCE
    )
    if found is None:
        raise InputError(
            f"{len(shared)} layers occur both in the ranking and in the campaign, too few or all alike: give a larger "
            "campaign of the file that was exported from this run"
        )
    return found


def check(train: pathlib.Path, campaign: pathlib.Path, file: pathlib.Path) -> dict[str, Any]:
    """Return all correlations, and the layers behind them."""
    layers = layer_faults(campaign, file)
    ranked = rankings(train)
    known = {entry["layer"] for ranking in ranked.values() for entry in ranking}
    shared = [of.faults for name, of in layers.items() if name in known]
    correlations = {
        when: {
            mode: {figure: correlate(ranking, layers, mode, figure).as_dict() for figure in FIGURES} for mode in MODES
        }
        for when, ranking in ranked.items()
    }
    return {
        "schema": 2,
        "spearman": correlations,
        "faults": {"total": sum(shared), "fewest": min(shared), "median": statistics.median(shared)},
        "unmatched": sorted(layers.keys() ^ known),
        "layers": {name: dataclasses.asdict(of) for name, of in layers.items()},
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the correlations in Markdown."""
    lines = [f"| Spearman correlation of | {' | '.join(FIGURES.values())} | layers |", "|---|---|---|---|"]
    for when, modes in result["spearman"].items():
        for mode, found in modes.items():
            cells = [f"{of['value']:.2f} [{of['low']:.2f}, {of['high']:.2f}]" for of in found.values()]
            lines.append(f"| {mode}, {when} stage 1 | {' | '.join(cells)} | {found['sdc1']['n']} |")
    faults = result["faults"]
    lines += [
        "",
        f"{faults['total']} faults; {faults['fewest']} to a layer at least, {faults['median']:g} in the median.",
    ]
    if result["unmatched"]:
        lines.append(f"Only in one of the two: {', '.join(result['unmatched'])}.")
    return "\n".join(lines) + "\n"


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Correlate and print; return 2 if something given cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=pathlib.Path, help="run folder of resq-deploy train")
    parser.add_argument("campaign", type=pathlib.Path, help="run folder of resq-deploy faultcamp on the exported file")
    parser.add_argument("model", type=pathlib.Path, help="the file that the campaign ran on")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    given = parser.parse_args(argv)
    result = check(given.train, given.campaign, given.model)
    if given.out:
        write_json(given.out, result)
    print(table(result), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
