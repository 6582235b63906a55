"""Figures 2 and 3 of a study, and its table of scales."""

import dataclasses
import json

import pytest

from resq_deploy.errors import RunFolderError
from resq_deploy.faults.statistics import Estimate
from resq_deploy.records import write_json
from resq_deploy.report.document import Dots, Table
from resq_deploy.report.layer_harm import Injection
from resq_deploy.report.study_cells import Layered, read_layered
from resq_deploy.report.study_effect import effect_section
from resq_deploy.report.study_figures import Corner, Metric
from resq_deploy.report.study_layers import layers_section
from resq_deploy.report.study_scales import scales_section

PAIR = ("net", "set")
NAMES = [f"layer{number}" for number in range(1, 7)]


def ranking(order):
    return [{"layer": name, "gradient": 1 / n, "scaled": 1 / n**2} for n, name in enumerate(order, start=1)]


def estimate(value, n=50):
    return {"value": value, "low": value / 2, "high": min(1.0, 2 * value), "n": n, "confidence": 0.95}


def scale(weights=100, weight=0.1, relative=0.5, read=0.02):
    return {"weights": weights, "weight": weight, "relative": relative, "read": read}


def cell(variant, *, seed=0, rankings=None, sdc1=None, layers=None):
    found = None
    if sdc1 is not None:
        harm = {name: estimate(value) for name, value in sdc1.items()}
        found = Injection(name=variant, what="weights", sdc1=harm, confidence=0.95)
    return Layered(
        network="net",
        dataset="set",
        variant=variant,
        seed=seed,
        rankings=rankings or {},
        injection=found,
        layers=layers or {},
    )


def tables(section):
    return [block for block in section.blocks if isinstance(block, Table)]


def plots(section):
    return [block for block in section.blocks if isinstance(block, Dots)]


def falling(names):
    return {name: 0.1 / n for n, name in enumerate(names, start=1)}


def test_each_file_stands_beside_the_ranking_of_its_own_network():
    """The ranking before stage 1 is of the baseline's network; the one after it of all that come after."""
    rankings = {"before": ranking(NAMES), "after": ranking(NAMES[::-1])}
    section = layers_section(
        PAIR,
        [
            cell("baseline", sdc1=falling(NAMES)),
            cell("attack", rankings=rankings, sdc1=falling(NAMES[::-1])),
            cell("protected", rankings=rankings, sdc1=falling(NAMES)),
        ],
    )
    norms, harm = plots(section)
    assert list(norms.rows) == list(harm.rows) == NAMES[::-1]  # as stage 2 goes by
    assert [series.name for series in norms.series] == ["after stage 1", "before stage 1"]
    assert [one["value"] for one in norms.series[1].estimates] == [1 / n for n in range(6, 0, -1)]
    _, agreement = tables(section)
    assert [(row[0], row[1], row[3][:4]) for row in agreement.rows] == [
        ("baseline, 0", "before stage 1", "1.00"),
        ("baseline, 0", "before stage 1", "1.00"),
        ("attack, 0", "after stage 1", "1.00"),
        ("attack, 0", "after stage 1", "1.00"),
    ]  # votes and codes hide what training did


def test_a_large_layer_of_harmless_bits_may_carry_most_risk():
    sdc1 = falling(NAMES)
    layers = {name: scale(weights=n**3) for n, name in enumerate(NAMES, start=1)}
    section = layers_section(PAIR, [cell("resq", rankings={"after": ranking(NAMES)}, sdc1=sdc1, layers=layers)])
    top, agreement = tables(section)
    assert [row[4] for row in top.rows] == [f"{n} / {7 - n}" for n in range(1, 7)]
    assert [found.split()[0] for found in agreement.rows[0][3:5]] == ["1.00", "-1.00"]
    assert agreement.rows[0][5:] == ["6", "50"]


def test_what_did_no_harm_or_was_not_tried_has_no_place():
    sdc1 = dict.fromkeys(NAMES[:4], 0.0) | {NAMES[0]: 0.2}
    top, _ = tables(layers_section(PAIR, [cell("baseline", rankings={"before": ranking(NAMES)}, sdc1=sdc1)]))
    assert [row[4] for row in top.rows] == ["1 / -", *["- / -"] * 5]  # how many weights they have was not kept
    assert top.rows[5][3] == "-"


def test_figures_are_those_of_the_first_seed_and_correlations_of_all():
    cells = [
        cell("baseline", seed=seed, rankings={"before": ranking(order)}, sdc1=falling(NAMES))
        for seed, order in ((1, NAMES), (2, NAMES[::-1]))
    ]
    section = layers_section(PAIR, cells)
    assert list(plots(section)[0].rows) == NAMES
    _, agreement = tables(section)
    assert [(row[0], row[3].split()[0]) for row in agreement.rows[::2]] == [
        ("baseline, 1", "1.00"),
        ("baseline, 2", "-1.00"),
    ]
    assert "of seed 1" in section.blocks[0]


@pytest.mark.parametrize(
    "sdc1", [None, falling(NAMES[:3]), falling(["a", "b", "c", "d"])], ids=["none", "three layers", "other layers"]
)
def test_a_ranking_with_nothing_beside_it_says_so(sdc1):
    section = layers_section(PAIR, [cell("baseline", rankings={"before": ranking(NAMES)}, sdc1=sdc1)])
    assert "nothing stands beside the ranking" in section.blocks[-1]
    assert not tables(section)


def test_no_ranking_is_no_section():
    assert layers_section(PAIR, [cell("baseline", sdc1=falling(NAMES))]) is None
    assert layers_section(("net", "other"), [cell("baseline", rankings={"before": ranking(NAMES)})]) is None


def test_scales_are_compared_layer_by_layer_and_seed_by_seed():
    before = {"a": scale(), "b": scale()}
    after = {"a": scale(weight=0.05, relative=0.5), "b": scale(weight=0.2, relative=2.0, read=None)}
    cells = [cell("baseline", seed=s, layers=before) for s in (0, 1)]
    cells += [cell("attack", seed=0, layers=after), cell("attack+fault", seed=2, layers=after)]
    section = scales_section(PAIR, cells)
    (table,) = tables(section)
    assert table.rows == [["stage 1 alone", "1.00 (0.50 to 2.00)", "2.00 (1.00 to 4.00)", "1.00 (1.00 to 1.00)", "1"]]
    assert section.title.endswith("stage 1 alone changes the scales, beside the weights, 2.00 (1.00 to 4.00)-fold")
    assert scales_section(PAIR, [cell("attack", layers=after), cell("baseline")]) is None


def corner(variant, clean, levels, *, chance=0.1):
    figures = {Metric(kind="clean"): clean}
    figures |= {Metric(kind="attack", campaign="c", level=at, norm="linf"): value for at, value in levels.items()}
    found = {
        key: Estimate(value=of, low=of - 0.01, high=of + 0.01, n=100, confidence=0.95) for key, of in figures.items()
    }
    return Corner(
        network="net",
        dataset="set",
        variant=variant,
        asked=1,
        seeds={0: found},
        failed=0,
        seconds=1.0,
        untrusted=(),
        unchecked=(),
        chance=chance,
    )


def test_stages_are_drawn_where_the_baseline_has_lost_half_of_its_margin():
    corners = [corner("baseline", 0.9, {"2": 0.5, "8": 0.0}), corner("attack", 0.88, {"2": 0.8, "8": 0.4})]
    section = effect_section(PAIR, corners)
    (plot,) = plots(section)
    assert list(plot.rows) == ["baseline", "attack"]
    assert {s.name: [one["value"] for one in s.estimates] for s in plot.series} == {
        "clean": [0.9, 0.88],
        "under attack, 2/255 Linf": [0.5, 0.8],
    }
    assert "from baseline to attack, accuracy changes clean by -2.0 [" in section.title
    assert "under attack by +30.0 [" in section.title
    assert "(50 % of the baseline's margin is left)" in section.blocks[0]


def test_the_highest_level_is_drawn_where_no_half_is_known():
    corners = [
        corner("baseline", 0.9, {"2": 0.5, "10": 0.0}, chance=None),
        corner("attack", 0.88, {"2": 0.8, "10": 0.1}),
    ]
    (plot,) = plots(effect_section(PAIR, corners))
    assert plot.series[1].name == "under attack, 10/255 Linf"


def test_one_variant_has_no_effect():
    assert effect_section(PAIR, [corner("baseline", 0.9, {})]) is None
    assert (
        effect_section(PAIR, [corner("baseline", 0.9, {}), dataclasses.replace(corner("attack", 0.9, {}), seeds={})])
        is None
    )


def study_cell(home, steps):
    return {
        "network": "net",
        "dataset": "set",
        "variant": "baseline",
        "seed": 0,
        "folder": str(home),
        "status": "done",
        "steps": {
            f"{home}/{name}": {"command": command, "seconds": 1.0, "wrote": [f"{home}/{name}/summary.json"]}
            for name, command in steps.items()
        },
    }


def test_records_of_cells_are_read(faultcamp, tmp_path):
    campaign = faultcamp("by-layer", draw="layers", roles=("weight",), samples=20)
    train, out = tmp_path / "train", tmp_path / "out"
    train.mkdir()
    out.mkdir()
    write_json(train / "criticality.json", {"before": ranking(NAMES)})
    write_json(out / "layers.json", {"schema": 1, "file": "0" * 64, "layers": {"fc": scale()}})
    cells = [study_cell(tmp_path, {"train": "train", "out": "export-int8"})]
    cells[0]["steps"]["campaign"] = {"command": "faultcamp", "seconds": 1.0, "wrote": [str(campaign / "summary.json")]}
    (found,) = read_layered(tmp_path, {"cells": [*cells, cells[0] | {"status": "not run"}]})
    by_layer = json.loads((campaign / "summary.json").read_text())["by_layer"]
    assert found.injection.sdc1 == {layer: rates["sdc1"] for layer, rates in by_layer.items()}
    assert found.rankings == {"before": ranking(NAMES)}
    assert found.layers["fc"]["weights"] == 100
    (out / "layers.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"layers.json is broken"):
        read_layered(tmp_path, {"cells": cells})
