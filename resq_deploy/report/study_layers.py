"""Figure 2 of RESQ (arXiv 2603.15413), of a study: critical layers by training, and what injection says of them."""

import dataclasses
from collections.abc import Mapping, Sequence

from resq_deploy.faults.statistics import rank_correlation
from resq_deploy.report.document import Block, Section, Table
from resq_deploy.report.layer_harm import (
    FEWEST_LAYERS,
    INJECTED,
    TOP_LAYERS,
    Injection,
    Ranking,
    harm_plot,
    norms_plot,
    place,
)
from resq_deploy.report.study_cells import Layered, of_pair
from resq_deploy.report.text import NONE, count, percent

TOPIC = "Critical layers"

_RANKED_BY = {"baseline": "before", "fault": "before"}
"""Whose network the ranking before stage 1 is of, or the nearest there is; of all others the one after it."""

_SHOWN = ("baseline", "attack", "fault", "attack+fault", "resq")
"""Variants without votes and codes, which hide what training did; `baseline+stage3` differs by its export alone."""

_MODES = (("gradient", "gradient norm"), ("scaled", "times quantization step"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Beside:
    """A file's injection beside the ranking that is of its network, or nearest to it."""

    cell: Layered
    injection: Injection
    when: str
    ranking: Ranking

    @property
    def risk(self) -> dict[str, float]:
        """Return SDC-1 times weights, by layer: what it adds where every bit is as likely to flip; empty if unknown."""
        sdc1, layers = self.injection.sdc1, self.cell.layers
        return {layer: of["value"] * layers[layer]["weights"] for layer, of in sdc1.items() if layer in layers}


def layers_section(pair: tuple[str, str], cells: Sequence[Layered]) -> Section | None:
    """Return the layers that training found critical, beside what injection found in the files of each variant.

    Args:
        pair: network and data set.
        cells: those of the study that are done.

    Returns:
        None where no training of the pair ranked its layers.
    """
    own = of_pair(cells, pair)
    rankings = _rankings(list(own.values()))
    if not rankings:
        return None
    seed = min(rankings)
    when = "after" if "after" in rankings[seed] else "before"
    main = rankings[seed][when]
    besides = [found for cell in own.values() if (found := _beside(cell, rankings))]
    drawn = [found for found in besides if found.cell.seed == seed]
    top = [entry["layer"] for entry in main[:TOP_LAYERS]]
    norms = {f"{name} stage 1": rankings[seed][name] for name in (when, "before") if name in rankings[seed]}
    seeds = f" of seed {seed}" if len({cell.seed for cell in own.values()}) > 1 else ""
    blocks: list[Block] = [
        f"Training ranks layers by moving averages of gradient norms over batches of training images; drawn are the "
        f"highest {len(top)} of {len(main)}{seeds}, as measured {when} stage 1, which is what stage 2 goes by.",
        norms_plot(norms),
    ]
    if not drawn:
        blocks.append("No campaign of single faults names these layers: nothing stands beside the ranking.")
    else:
        blocks += [INJECTED, harm_plot(top, [found.injection for found in drawn]), _top_table(main, drawn), _NOTE]
        blocks.append(_agreement(besides))
    title = f"{pair[0]} on {pair[1]}: {main[0]['layer']} is the layer with the largest gradients"
    return Section(title=title, topic=TOPIC, blocks=blocks)


_NOTE = (
    "Places are those among all layers that both know: by SDC-1 of one flip among the layer's weights / by risk, which "
    "is SDC-1 times the number of weights, what the layer adds where every bit is as likely to flip. "
    "Correlations are Spearman's over layers, with the interval of Bonett and Wright; each file stands beside the "
    "ranking of its own network or the last before it. Few faults in a layer pull a correlation towards 0."
)


def _rankings(cells: Sequence[Layered]) -> dict[int, dict[str, Ranking]]:
    """Return the rankings of each seed; a network that several trainings ranked is taken from the first."""
    found: dict[int, dict[str, Ranking]] = {}
    for cell in cells:
        if cell.rankings:
            found[cell.seed] = dict(cell.rankings) | found.get(cell.seed, {})
    return found


def _beside(cell: Layered, rankings: Mapping[int, Mapping[str, Ranking]]) -> _Beside | None:
    known = rankings.get(cell.seed)
    if cell.variant not in _SHOWN or cell.injection is None or not known:
        return None
    wanted = _RANKED_BY.get(cell.variant, "after")
    when = wanted if wanted in known else next(iter(known))
    found = _Beside(cell=cell, injection=cell.injection, when=when, ranking=known[when])
    both = {entry["layer"] for entry in found.ranking} & cell.injection.sdc1.keys()
    return found if len(both) >= FEWEST_LAYERS else None


def _top_table(ranking: Ranking, besides: Sequence[_Beside]) -> Table:
    headers = ["place", "layer", "gradient norm"]
    for one in besides:
        headers += [f"SDC-1 of a flip, {one.cell.variant}", "places"]
    known = {entry["layer"] for entry in ranking}
    rows = []
    for number, entry in enumerate(ranking[:TOP_LAYERS], start=1):
        layer = entry["layer"]
        row = [str(number), layer, f"{entry['gradient']:.3g}"]
        for one in besides:
            sdc1, risk = one.injection.sdc1, one.risk
            harm = {name: found["value"] for name, found in sdc1.items() if name in known}
            risks = {name: value for name, value in risk.items() if name in known}
            places = (place(found.get(layer), list(found.values())) for found in (harm, risks))
            row += [percent(sdc1.get(layer)), " / ".join(places)]
        rows.append(row)
    return Table(headers=headers, rows=rows)


def _agreement(besides: Sequence[_Beside]) -> Table:
    headers = ["file, seed", "ranking", "by", "with SDC-1 of a flip", "with risk", "layers", "fewest flips in a layer"]
    rows = []
    for one in besides:
        both = [entry for entry in one.ranking if entry["layer"] in one.injection.sdc1]
        fewest = min(one.injection.sdc1[entry["layer"]]["n"] for entry in both)
        harm = {entry["layer"]: one.injection.sdc1[entry["layer"]]["value"] for entry in both}
        for key, name in _MODES:
            row = [f"{one.cell.variant}, {one.cell.seed}", f"{one.when} stage 1", name]
            row += [_correlation(both, key, values, one.injection.confidence) for values in (harm, one.risk)]
            rows.append([*row, str(len(both)), count(fewest)])
    return Table(headers=headers, rows=rows)


def _correlation(both: Ranking, key: str, figures: Mapping[str, float], confidence: float) -> str:
    shared = [entry for entry in both if entry["layer"] in figures]
    found = rank_correlation(
        [entry[key] for entry in shared], [figures[entry["layer"]] for entry in shared], confidence
    )
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" if found else NONE
