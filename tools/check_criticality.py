#!/usr/bin/env python3
"""Correlate the ranking of layers by gradient norms (equation 4) with what flips in the deployed file did.

Takes criticality.json of a train run and the run folder of a faultcamp of single faults on the exported file, and
prints Spearman's rank correlation between each figure of the ranking (before or after stage 1; gradient and scaled)
and the SDC-1 of a weight flip, layer by layer, with its interval over layers. Faults that spread thinly over layers
pull any correlation towards 0: how many the layers have is printed beside it.

Example:
  python tools/check_criticality.py run faults --out criticality-check.json
"""

import argparse
import csv
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from command_line import with_one_line_errors

from resq_deploy.errors import InputError
from resq_deploy.faults.statistics import Estimate, rank_correlation
from resq_deploy.records import read_json, read_manifest, write_json

MODES = ("gradient", "scaled")
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerFaults:
    """SDC-1 of a flip in a layer's weights, and how many flips it rests on."""

    sdc1: float
    faults: int


def layer_faults(folder: pathlib.Path) -> dict[str, LayerFaults]:
    """Read SDC-1 by layer of the weight faults of a campaign.

    Faults drawn evenly (`--samples`, `--exhaustive`) are averaged from faults.csv. Strata are drawn unevenly within a
    layer; their estimates are those of summary.json, which are of weights alone if the campaign was (`--roles weight`).

    Raises:
        InputError: if the folder is no finished campaign of single faults, or mixes roles in strata.
    """
    options = read_manifest(folder).get("options", {})
    if options.get("faults") != "single":
        raise InputError(f"{folder} is no campaign of single faults: give one of 'faultcamp --faults single'")
    if options.get("margin") is None:
        return _from_table(folder / "faults.csv")
    if options.get("roles") != ["weight"]:
        raise InputError(f"{folder} mixes roles in its strata: give a campaign with --roles weight, or with --samples")
    layers = read_json(folder / "summary.json")["by_layer"]
    return {name: LayerFaults(sdc1=of["sdc1"]["value"], faults=of["sdc1"]["n"]) for name, of in layers.items()}


def _from_table(path: pathlib.Path) -> dict[str, LayerFaults]:
    shares: dict[str, list[float]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["role"] == "weight" and int(row["images"]):
                    shares.setdefault(row["layer"], []).append(int(row["sdc1"]) / int(row["images"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): give the run folder of a finished faultcamp") from error
    return {name: LayerFaults(sdc1=statistics.fmean(values), faults=len(values)) for name, values in shares.items()}


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


def correlate(ranking: Sequence[Mapping[str, Any]], layers: Mapping[str, LayerFaults], mode: str) -> Estimate:
    """Return Spearman's correlation over the layers that both know; the export names layers after their modules.

    Raises:
        InputError: if they share too few layers, or all have the same SDC-1.
    """
    shared = [entry for entry in ranking if entry["layer"] in layers]
    found = rank_correlation(
        [entry[mode] for entry in shared], [layers[entry["layer"]].sdc1 for entry in shared], _CONFIDENCE
    )
    if found is None:
        raise InputError(
            f"{len(shared)} layers occur both in the ranking and in the campaign, too few or all alike: give a larger "
            "campaign of the file that was exported from this run"
        )
    return found


def check(train: pathlib.Path, campaign: pathlib.Path) -> dict[str, Any]:
    """Return all correlations, and the layers behind them."""
    layers = layer_faults(campaign)
    ranked = rankings(train)
    known = {entry["layer"] for ranking in ranked.values() for entry in ranking}
    shared = [of.faults for name, of in layers.items() if name in known]
    correlations = {
        when: {mode: correlate(ranking, layers, mode).as_dict() for mode in MODES} for when, ranking in ranked.items()
    }
    return {
        "schema": 1,
        "spearman": correlations,
        "faults": {"total": sum(shared), "fewest": min(shared), "median": statistics.median(shared)},
        "unmatched": sorted(layers.keys() ^ known),
        "layers": {name: dataclasses.asdict(of) for name, of in layers.items()},
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the correlations in Markdown."""
    lines = ["| ranking | Spearman correlation with SDC-1 of a weight flip | layers |", "|---|---|---|"]
    for when, modes in result["spearman"].items():
        for mode, found in modes.items():
            figure = f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
            lines.append(f"| {when} stage 1, {mode} | {figure} | {found['n']} |")
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
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    given = parser.parse_args(argv)
    result = check(given.train, given.campaign)
    if given.out:
        write_json(given.out, result)
    print(table(result), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
