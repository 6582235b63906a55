"""The layers that training found critical, and what injection on deployed files says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.errors import RunFolderError
from resq_deploy.faults.statistics import cluster, rank_correlation
from resq_deploy.records import read_json
from resq_deploy.report.bit_error_section import MOST_SERIES
from resq_deploy.report.document import Block, Caption, Dots, JsonEstimate, Section, Series, Table
from resq_deploy.report.fault_sections import without_curve
from resq_deploy.report.fault_table import read_faults
from resq_deploy.report.lineage import lines
from resq_deploy.report.runs import Run, check_schema, of_command
from resq_deploy.report.text import NONE, percent, quantity, short

TOP_LAYERS = 10
_CRITICALITY = "criticality.json"
_FEWEST_LAYERS = 4
_INJECTED = Caption(
    text="The same layers in the same order, by what faults in the deployed file do; open dots at the left edge: no "
    "answer was changed."
)


def has_ranking(train: Run) -> bool:
    """Return whether a training run ranked its layers."""
    return (train.path / _CRITICALITY).is_file()


def critical_section(train: Run, runs: Sequence[Run]) -> Section:
    """Return the layers that training found critical, beside what injection found on deployed files.

    Raises:
        RunFolderError: if the ranking or a table of faults is broken.
    """
    ranking, when = _ranking(train)
    proven = _proven(train, runs)
    injections = [(run, *_injection(run)) for run in _beside(train, runs, proven)]
    known = {entry["layer"] for entry in ranking}
    injections = [found for found in injections if len(known & found[1].keys()) >= _FEWEST_LAYERS]
    headers = ["rank", "layer", "gradient norm", "times quantization step"]
    for run, _, what in injections:
        headers += [f"rank by injection, {run.label}", f"SDC-1, {what}"]
    rows = []
    for place, entry in enumerate(ranking[:TOP_LAYERS], start=1):
        row = [str(place), entry["layer"], f"{entry['gradient']:.3g}", f"{entry['scaled']:.3g}"]
        for _, measured, _ in injections:
            sdc1 = measured.get(entry["layer"])
            row += [_rank(sdc1, [measured[layer] for layer in known & measured.keys()]), percent(sdc1)]
        rows.append(row)
    beside: list[Block] = [_INJECTED, _harm(ranking, injections)] if injections else []
    blocks: list[Block] = [
        f"Moving averages of gradient norms over training batches, measured {when}; the highest "
        f"{min(TOP_LAYERS, len(ranking))} of {len(ranking)} layers.",
        _norms(ranking),
        *beside,
        Table(headers=headers, rows=rows),
        *(_agreement(run, ranking, measured, proven=run in proven) for run, measured, _ in injections),
    ]
    if not injections:
        blocks.append("No fault campaign given names these layers on these data: nothing stands beside the ranking.")
    title = f"{train.label}: {ranking[0]['layer']} is the layer with the largest gradients" if ranking else train.label
    return Section(title=title, topic="Critical layers", blocks=blocks)


def _norms(ranking: Sequence[Mapping[str, Any]]) -> Dots:
    """Return the top layers by gradient norm, in per cent of the largest."""
    top = ranking[:TOP_LAYERS]
    largest = max((entry["gradient"] for entry in ranking), default=0.0) or 1.0
    found = [dict.fromkeys(("value", "low", "high"), entry["gradient"] / largest) for entry in top]
    return Dots(
        rows=[entry["layer"] for entry in top],
        series=[Series(name="gradient norm", estimates=found)],
        x_title="gradient norm (% of the largest)",
        description=f"The {len(top)} layers with the largest gradient norms",
    )


def _harm(
    ranking: Sequence[Mapping[str, Any]], injections: Sequence[tuple[Run, Mapping[str, JsonEstimate], str]]
) -> Dots:
    """Return what injection found in the same layers, in the same order."""
    layers = [entry["layer"] for entry in ranking[:TOP_LAYERS]]
    return Dots(
        rows=layers,
        series=[
            Series(name=f"{run.label}, {what}", estimates=[measured.get(layer) for layer in layers])
            for run, measured, what in injections[:MOST_SERIES]
        ],
        x_title="SDC-1 of a fault in the layer (%)",
        log_x=True,
        description="What injection found in the layers with the largest gradient norms, in their order",
    )


def _rank(sdc1: JsonEstimate | None, all_of_them: Sequence[JsonEstimate]) -> str:
    """Return the place of a layer by harm; layers that did none have no place, and equal ones share theirs."""
    if sdc1 is None or not sdc1["value"]:
        return NONE
    return str(1 + sum(other["value"] > sdc1["value"] for other in all_of_them))


def _ranking(train: Run) -> tuple[list[dict[str, Any]], str]:
    """Return the latest ranking of a training run, and when it was measured."""
    path = train.path / _CRITICALITY
    value = read_json(path)
    check_schema(value, "criticality", path)
    when = "after" if value.get("after") else "before"
    if not value.get(when):
        raise RunFolderError(f"{path} holds no ranking of layers: remove it, or train again")
    return value[when], f"{when} stage 1"


def _beside(train: Run, runs: Sequence[Run], proven: Sequence[Run]) -> list[Run]:
    """Return the campaigns of faults one by one that can tell of this network: proven to, else on the same data."""
    campaigns = [run for run in without_curve(of_command(runs, "faultcamp")) if run.summary["fault_model"] != "list"]
    chosen = [run for run in campaigns if run in proven]
    return chosen or [run for run in campaigns if run.digest("data") == train.digest("test")]


def _proven(train: Run, runs: Sequence[Run]) -> list[Run]:
    return [run for line in lines(runs) for step in line if step.train is train for run in step.campaigns]


def _injection(run: Run) -> tuple[dict[str, JsonEstimate], str]:
    """Return SDC-1 by layer: of weights, or of all roles where faults were drawn in strata over them."""
    if run.options.get("roles") == ["weight"] or run.summary["design"] == "stratified":
        measured = {layer: rates["sdc1"] for layer, rates in run.summary["by_layer"].items() if rates["sdc1"]}
        return measured, "weights" if run.options.get("roles") == ["weight"] else "all roles"
    table = read_faults(run)
    (roles, role), (layers, layer) = table.groups["role"], table.groups["layer"]
    weights = ~np.isnan(table.sdc1) & (role == (roles.index("weight") if "weight" in roles else -1))
    confidence = run.confidence
    found: dict[str, JsonEstimate] = {
        name: cluster(table.sdc1[weights & (layer == place)], float("inf"), confidence).as_dict()
        for place, name in enumerate(layers)
        if (weights & (layer == place)).any()
    }
    return found, "weights"


def _agreement(
    run: Run, ranking: Sequence[Mapping[str, Any]], measured: Mapping[str, JsonEstimate], *, proven: bool
) -> str:
    both = [entry for entry in ranking if entry["layer"] in measured]
    harm = [measured[entry["layer"]]["value"] for entry in both]
    told = []
    for key, name in (("gradient", "gradient norm"), ("scaled", "gradient norm times quantization step")):
        found = rank_correlation([entry[key] for entry in both], harm, run.confidence)
        told.append(f"{name} {quantity(found.as_dict()) if found else 'cannot be told'}")
    matched = (
        "a run names the SHA-256 of the checkpoint that the file was made from"
        if proven
        else f"the layers have the same names, but no run proves that {short(run.model)} was made from this training"
    )
    return (
        f"Rank correlation (Spearman) with {run.label} over {len(both)} layers: {'; '.join(told)}. Matched: {matched}."
    )
