"""What hardening did: stage by stage from the float network to the deployed file, and the layers it found critical."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.errors import RunFolderError
from resq_deploy.faults.statistics import as_estimate, cluster, difference, rank_correlation
from resq_deploy.records import read_json
from resq_deploy.report.attack_sections import radius
from resq_deploy.report.document import Block, Dots, JsonEstimate, Section, Series, Table
from resq_deploy.report.fault_sections import with_curve, without_curve
from resq_deploy.report.fault_table import read_faults
from resq_deploy.report.lineage import STAGES, Step, lines
from resq_deploy.report.price_section import price_section
from resq_deploy.report.runs import Run, check_schema, draws_layers, of_command
from resq_deploy.report.task import clean, quality
from resq_deploy.report.text import NONE, percent, points, quantity, rate, share, short

TOP_LAYERS = 10
_CRITICALITY = "criticality.json"
_FEWEST_LAYERS = 4
_TITLES = {"baseline": "0 baseline", "attack": "1 attack", "fault": "2 fault", "budget": "within the budget"}


def train_sections(runs: Sequence[Run]) -> list[Section]:
    """Return the sections about training runs, and about what became of their checkpoints.

    Raises:
        RunFolderError: if a ranking of layers or a table of faults is broken.
    """
    sections = [_stages(line) for line in lines(runs)]
    trainings = of_command(runs, "train")
    sections += [section for train in trainings if (section := price_section(train))]
    return sections + [_critical(train, runs) for train in trainings if _has_ranking(train)]


def _stages(line: Sequence[Step]) -> Section:
    first, last = line[0], line[-1]
    attack = last.train.summary["attack"]
    radius = f"{255 * attack['epsilon']:g}/255"
    rows = [row for step in line for row in _rows(step, line)]
    blocks: list[Block] = [
        f"{last.train.summary['network']} on {last.train.summary['dataset']}. Float networks are attacked by PGD with "
        f"{attack['steps']} steps at {radius} and full knowledge; stage 3 is the deployed int8 file, under the attacks "
        "and faults of its own runs. A file belongs to a stage where a run names the SHA-256 of its checkpoint.",
        _effect(rows),
        Table(
            headers=["stage", "file", "clean", "under faults", "faults", "under attack", "attack"],
            rows=[_told(row) for row in rows],
        ),
    ]
    if not any(step.campaigns for step in line):
        blocks.append("No run given is known to be on a file of these checkpoints, so that stage 3 is not shown.")
    return Section(title=_finding(first, last), topic="Stage by stage", blocks=blocks)


def _finding(first: Step, last: Step) -> str:
    """Say what the stages gained and cost on the float network."""
    a, b = (step.train.summary["stages"][step.stage]["test"] for step in (first, last))
    if first is last:
        return f"{last.train.label}: {share(b['clean']['value'])} clean, {share(b['robust']['value'])} under attack"
    clean, robust = (_change(a[key], b[key]) for key in ("clean", "robust"))
    return (
        f"{last.train.label}: from {first.stage} to {last.stage}, accuracy under attack changes by {robust} points and "
        f"clean accuracy by {clean}"
    )


def _change(first: JsonEstimate, second: JsonEstimate) -> str:
    """Write a difference of two accuracies, in points; its interval takes their images for independent."""
    if first["confidence"] != second["confidence"]:
        return f"{100 * (second['value'] - first['value']):+.1f}"
    return points(difference(as_estimate(first), as_estimate(second)).as_dict())


def _rows(step: Step, line: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the figures of a stage's float network, and of each deployed file made from it."""
    test = step.train.summary["stages"][step.stage]["test"]
    title = _TITLES[step.stage]
    found: list[dict[str, Any]] = [
        {
            "name": f"{title}, float",
            "clean": test["clean"],
            "attack": test["robust"],
            "attack_what": "PGD, float network",
        }
    ]
    for number, file in enumerate(step.files, start=1):
        campaigns = [run for run in step.campaigns if run.model == file]
        name = f"{title}, int8" if len(step.files) == 1 else f"{title}, int8 ({number})"
        row: dict[str, Any] = {"name": name, "file": campaigns[0].file, "clean": _clean(campaigns)}
        row |= _under_faults(campaigns, line) | _under_attack(campaigns, line)
        found.append(row)
    return found


def _clean(campaigns: Sequence[Run]) -> JsonEstimate | None:
    """Return the clean accuracy on most images; None where no campaign had labels."""
    known = [clean(run) if run.command == "faultcamp" else run.summary["clean"] for run in campaigns]
    best: JsonEstimate | None = max(filter(None, known), key=lambda estimate: estimate["n"], default=None)
    return best


def _under_faults(campaigns: Sequence[Run], line: Sequence[Step]) -> dict[str, Any]:
    """Return accuracy at the highest bit error rate that all curves of the line have; else under single faults."""
    everywhere = [run for step in line for run in with_curve(of_command(step.campaigns, "faultcamp"))]
    everywhere = [run for run in everywhere if not draws_layers(run)] or everywhere  # rates of the two are unlike
    curves = [run for run in with_curve(of_command(campaigns, "faultcamp")) if run in everywhere]
    if curves:
        common = set.intersection(*({point["ber"] for point in run.summary["curve"]} for run in everywhere))
        points = curves[0].summary["curve"]
        point = next((p for p in reversed(points) if p["ber"] in common), points[-1])
        what = f"bit errors at {rate(point['ber'])}{_drawing(curves[0])}"
        return {"faults": quality(point), "faults_what": what}
    singles = sorted(without_curve(of_command(campaigns, "faultcamp")), key=draws_layers)
    if singles:
        what = f"{singles[0].summary['fault_model']}{_drawing(singles[0])}"
        return {"faults": quality(singles[0].summary), "faults_what": what}
    return {}


def _drawing(run: Run) -> str:
    return ", layers drawn evenly" if draws_layers(run) else ""


def _under_attack(campaigns: Sequence[Run], line: Sequence[Step]) -> dict[str, Any]:
    """Return the worst case at the largest radius that all attack campaigns of the line have."""
    attacks = [run for run in of_command(campaigns, "attackcamp") if run.summary["worst_case"]]
    if not attacks:
        return {}
    everywhere = [run for step in line for run in of_command(step.campaigns, "attackcamp")]
    common = set.intersection(*(set(run.summary["worst_case"]) for run in everywhere if run.summary["worst_case"]))
    found = attacks[0].summary["worst_case"]
    epsilon = max(common & found.keys() or found, key=float)
    return {
        "attack": found[epsilon],
        "attack_what": f"worst case at {radius(attacks[0], epsilon)}",
    }


def _effect(rows: Sequence[Mapping[str, Any]]) -> Dots:
    kinds = {"clean": "clean", "faults": "under faults", "attack": "under attack"}
    series = [Series(name=name, estimates=[row.get(key) for row in rows]) for key, name in kinds.items()]
    return Dots(
        rows=[row["name"] for row in rows],
        series=[one for one in series if any(one.estimates)],
        x_title="accuracy (%)",
        description="Clean accuracy, accuracy under faults and accuracy under attack, stage by stage",
    )


def _told(row: Mapping[str, Any]) -> list[str]:
    return [
        row["name"],
        row.get("file", NONE),
        percent(row["clean"]),
        percent(row.get("faults")),
        row.get("faults_what", NONE),
        percent(row.get("attack")),
        row.get("attack_what", NONE),
    ]


def _has_ranking(train: Run) -> bool:
    return (train.path / _CRITICALITY).is_file()


def _critical(train: Run, runs: Sequence[Run]) -> Section:
    """Return the layers that training found critical, beside what injection found on deployed files."""
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
    blocks: list[Block] = [
        f"Moving averages of gradient norms over training batches, measured {when}; the highest "
        f"{min(TOP_LAYERS, len(ranking))} of {len(ranking)} layers.",
        Table(headers=headers, rows=rows),
        *(_agreement(run, ranking, measured, proven=run in proven) for run, measured, _ in injections),
    ]
    if not injections:
        blocks.append("No fault campaign given names these layers on these data: nothing stands beside the ranking.")
    title = f"{train.label}: {ranking[0]['layer']} is the layer with the largest gradients" if ranking else train.label
    return Section(title=title, topic="Critical layers", blocks=blocks)


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


def tested_row(run: Run) -> list[str]:
    """Return what a training run did, for the table of runs."""
    test = next(iter(run.summary["stages"].values()))["test"]["clean"]["n"]
    return [
        run.label,
        "train",
        f"{run.summary['network']} (float)",
        f"{run.summary['dataset']} ({short(run.digest('test'))})",
        f"{test:,}",
        f"stages {', '.join(stage for stage in STAGES if stage in run.summary['stages'])}; PGD at "
        f"{255 * run.summary['attack']['epsilon']:g}/255",
    ]
