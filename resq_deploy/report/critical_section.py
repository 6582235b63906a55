"""The layers that training found critical, and what injection on deployed files says of them."""

from collections.abc import Sequence

from resq_deploy.faults.statistics import rank_correlation
from resq_deploy.report.document import Block, Section, Table
from resq_deploy.report.fault_sections import without_curve
from resq_deploy.report.layer_harm import (
    CRITICALITY,
    FEWEST_LAYERS,
    INJECTED,
    TOP_LAYERS,
    Injection,
    Ranking,
    harm_plot,
    injection,
    norms_plot,
    place,
    read_rankings,
)
from resq_deploy.report.lineage import lines
from resq_deploy.report.runs import Run, of_command
from resq_deploy.report.text import percent, quantity, short


def has_ranking(train: Run) -> bool:
    """Return whether a training run ranked its layers."""
    return (train.path / CRITICALITY).is_file()


def critical_section(train: Run, runs: Sequence[Run]) -> Section:
    """Return the layers that training found critical, beside what injection found on deployed files.

    Raises:
        RunFolderError: if the ranking or a table of faults is broken.
    """
    rankings = read_rankings(train.path / CRITICALITY)
    when = "after" if "after" in rankings else "before"
    ranking = rankings[when]
    proven = _proven(train, runs)
    injections = [(run, injection(run, run.label)) for run in _beside(train, runs, proven)]
    known = {entry["layer"] for entry in ranking}
    injections = [found for found in injections if len(known & found[1].sdc1.keys()) >= FEWEST_LAYERS]
    told = [one for _, one in injections]
    top = [entry["layer"] for entry in ranking[:TOP_LAYERS]]
    beside: list[Block] = [INJECTED, harm_plot(top, told)] if told else []
    blocks: list[Block] = [
        f"Moving averages of gradient norms over training batches, measured {when} stage 1; the highest "
        f"{len(top)} of {len(ranking)} layers.",
        norms_plot({"gradient norm": ranking}),
        *beside,
        _top_layers(ranking, told),
        *(_agreement(run, ranking, one, proven=run in proven) for run, one in injections),
    ]
    if not injections:
        blocks.append("No fault campaign given names these layers on these data: nothing stands beside the ranking.")
    title = f"{train.label}: {ranking[0]['layer']} is the layer with the largest gradients" if ranking else train.label
    return Section(title=title, topic="Critical layers", blocks=blocks)


def _top_layers(ranking: Ranking, injections: Sequence[Injection]) -> Table:
    headers = ["rank", "layer", "gradient norm", "times quantization step"]
    for one in injections:
        headers += [f"rank by injection, {one.name}", f"SDC-1, {one.what}"]
    known = {entry["layer"] for entry in ranking}
    rows = []
    for number, entry in enumerate(ranking[:TOP_LAYERS], start=1):
        row = [str(number), entry["layer"], f"{entry['gradient']:.3g}", f"{entry['scaled']:.3g}"]
        for one in injections:
            sdc1 = one.sdc1.get(entry["layer"])
            values = [one.sdc1[layer]["value"] for layer in known & one.sdc1.keys()]
            row += [place(sdc1["value"] if sdc1 else None, values), percent(sdc1)]
        rows.append(row)
    return Table(headers=headers, rows=rows)


def _beside(train: Run, runs: Sequence[Run], proven: Sequence[Run]) -> list[Run]:
    """Return the campaigns of faults one by one that can tell of this network: proven to, else on the same data."""
    campaigns = [run for run in without_curve(of_command(runs, "faultcamp")) if run.summary["fault_model"] != "list"]
    chosen = [run for run in campaigns if run in proven]
    return chosen or [run for run in campaigns if run.digest("data") == train.digest("test")]


def _proven(train: Run, runs: Sequence[Run]) -> list[Run]:
    return [run for line in lines(runs) for step in line if step.train is train for run in step.campaigns]


def _agreement(run: Run, ranking: Ranking, found: Injection, *, proven: bool) -> str:
    both = [entry for entry in ranking if entry["layer"] in found.sdc1]
    harm = [found.sdc1[entry["layer"]]["value"] for entry in both]
    told = []
    for key, name in (("gradient", "gradient norm"), ("scaled", "gradient norm times quantization step")):
        rho = rank_correlation([entry[key] for entry in both], harm, run.confidence)
        told.append(f"{name} {quantity(rho.as_dict()) if rho else 'cannot be told'}")
    matched = (
        "a run names the SHA-256 of the checkpoint that the file was made from"
        if proven
        else f"the layers have the same names, but no run proves that {short(run.model)} was made from this training"
    )
    return (
        f"Rank correlation (Spearman) with {run.label} over {len(both)} layers: {'; '.join(told)}. Matched: {matched}."
    )
