"""What injection into deployed files says of the layers that training ranked: figures, ranks and plots of both."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.errors import RunFolderError
from resq_deploy.faults.statistics import cluster
from resq_deploy.records import read_json
from resq_deploy.report.bit_error_section import MOST_SERIES
from resq_deploy.report.document import Caption, Dots, JsonEstimate, Series
from resq_deploy.report.fault_table import read_faults
from resq_deploy.report.runs import Run, check_schema
from resq_deploy.report.text import NONE

CRITICALITY = "criticality.json"
TOP_LAYERS = 10
FEWEST_LAYERS = 4
"""Layers that ranking and campaign must both know: with fewer no correlation can be told."""

INJECTED = Caption(
    text="The same layers in the same order, by what faults in the deployed file do; open dots at the left edge: no "
    "answer was changed."
)

Ranking = Sequence[Mapping[str, Any]]
"""Entries of `criticality.json`: `layer`, `gradient`, `scaled`, the most critical first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Injection:
    """A campaign of faults one by one, layer by layer.

    Attributes:
        name: of the file or run.
        what: which faults its figures are of: `weights` or `all roles`.
        sdc1: SDC-1 of a fault in each layer; its `n` counts the faults.
        confidence: coverage of the intervals.
    """

    name: str
    what: str
    sdc1: Mapping[str, JsonEstimate]
    confidence: float


def read_rankings(path: pathlib.Path) -> dict[str, Ranking]:
    """Return the rankings that a `criticality.json` holds, by `before` and `after`.

    Raises:
        RunFolderError: if it is broken.
    """
    value = read_json(path)
    check_schema(value, "criticality", path)
    if not any(value.get(when) for when in ("before", "after")):
        raise RunFolderError(f"{path} holds no ranking of layers: remove it, or train again")
    return {when: value[when] for when in ("before", "after") if value.get(when)}


def injection(run: Run, name: str) -> Injection:
    """Return SDC-1 by layer of a campaign: of weights, or of all roles where faults were drawn in strata over them.

    Raises:
        RunFolderError: if its table of faults is broken.
    """
    if run.options.get("roles") == ["weight"] or run.summary["design"] == "stratified":
        measured = {layer: rates["sdc1"] for layer, rates in run.summary["by_layer"].items() if rates["sdc1"]}
        what = "weights" if run.options.get("roles") == ["weight"] else "all roles"
        return Injection(name=name, what=what, sdc1=measured, confidence=run.confidence)
    table = read_faults(run)
    (roles, role), (layers, layer) = table.groups["role"], table.groups["layer"]
    weights = ~np.isnan(table.sdc1) & (role == (roles.index("weight") if "weight" in roles else -1))
    found: dict[str, JsonEstimate] = {
        layer_name: cluster(table.sdc1[weights & (layer == place)], float("inf"), run.confidence).as_dict()
        for place, layer_name in enumerate(layers)
        if (weights & (layer == place)).any()
    }
    return Injection(name=name, what="weights", sdc1=found, confidence=run.confidence)


def norms_plot(rankings: Mapping[str, Ranking]) -> Dots:
    """Return the layers that the first of some rankings has on top, by gradient norm, in per cent of each's largest.

    Args:
        rankings: by name.
    """
    names = [entry["layer"] for entry in next(iter(rankings.values()))[:TOP_LAYERS]]
    series = []
    for name, ranking in rankings.items():
        largest = max((entry["gradient"] for entry in ranking), default=0.0) or 1.0
        known = {entry["layer"]: entry["gradient"] / largest for entry in ranking}
        found = [dict.fromkeys(("value", "low", "high"), known[layer]) if layer in known else None for layer in names]
        series.append(Series(name=name, estimates=found))
    return Dots(
        rows=names,
        series=series,
        x_title="gradient norm (% of the largest)",
        description=f"The {len(names)} layers with the largest gradient norms",
    )


def harm_plot(layers: Sequence[str], injections: Sequence[Injection]) -> Dots:
    """Return what injection found in some layers, in their order."""
    return Dots(
        rows=layers,
        series=[
            Series(name=f"{one.name}, {one.what}", estimates=[one.sdc1.get(layer) for layer in layers])
            for one in injections[:MOST_SERIES]
        ],
        x_title="SDC-1 of a fault in the layer (%)",
        log_x=True,
        description="What injection found in the layers with the largest gradient norms, in their order",
    )


def place(value: float | None, all_of_them: Sequence[float]) -> str:
    """Return the place of a layer by harm; layers that did none have no place, and equal ones share theirs."""
    if not value:
        return NONE
    return str(1 + sum(other > value for other in all_of_them))
