"""Upsets of several cells and flips that go one way, in campaigns on a real int8 file."""

import csv
import importlib.resources
import json

import jsonschema
import numpy as np
import pytest

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import InputError, RunFolderError
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.fault import Op
from resq_deploy.faults.upsets import Pattern

SCHEMA = json.loads((importlib.resources.files("resq_deploy") / "schemas" / "faultcamp.json").read_text())
CLUSTER = {"faults": FaultModel.CLUSTER, "cluster_shares": (Pattern(1, 2, 0.5), Pattern(1, 4, 0.5))}


BIT_ERRORS = {"faults": FaultModel.BER, "ber": (1e-3,), "chips": 12, "samples": None}


def surface(name, elements, width=8, role=Role.WEIGHT):
    dtype = {8: "int8", 32: "int32"}[width]
    return Surface(tensor=name, role=role, layer=name, dtype=dtype, shape=(elements,), width=width)


FILE = [surface("w", 4), surface("b", 2, 32, Role.BIAS), surface("v", 3)]


def struck(plan, number):
    return {(e.tensor, int(i), int(b)) for e in plan.fault(number).edits for i, b in zip(e.index, e.bit, strict=True)}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def campaign(digits_int8, digits, tmp_path):
    def run(name="run", *, resume=False, report=lambda _: None, **values):
        options = CampaignOptions(**{"images": 40, "samples": 30, **values})
        summary = Campaign(DeployedModel.load(digits_int8), digits, options).run(
            tmp_path / name, resume=resume, report=report
        )
        jsonschema.validate(summary, SCHEMA)
        with (tmp_path / name / "faults.csv").open(encoding="utf-8", newline="") as stream:
            return summary, list(csv.DictReader(stream))

    return run


def test_an_upset_goes_on_in_the_next_element_and_ends_with_the_tensor_s_last_word():
    options = CampaignOptions(faults=FaultModel.CLUSTER, cluster_shares=(Pattern(1, 3, 1.0),), exhaustive=True)
    plan = make_plan(FILE, options)
    assert len(plan) == plan.bits == 32 + 64 + 24
    by_anchor = {plan.group(number, "bit"): struck(plan, number) for number in range(len(plan))}
    assert len(by_anchor) == 32
    every = [struck(plan, number) for number in range(len(plan))]
    assert {("w", 0, 7), ("w", 1, 0), ("w", 1, 1)} in every
    assert {("b", 0, 31), ("b", 1, 0), ("b", 1, 1)} in every
    assert {("b", 1, 31), ("v", 0, 0), ("v", 0, 1)} in every  # two words of b are full: v is next to it
    assert {("w", 3, 7)} in every  # half of the word is empty behind w
    assert {("v", 2, 7)} in every  # there is nothing behind v


def test_an_upset_does_not_stop_at_what_was_chosen():
    options = CampaignOptions(
        faults=FaultModel.CLUSTER, cluster_shares=(Pattern(1, 3, 1.0),), roles=(Role.BIAS,), exhaustive=True
    )
    plan = make_plan(FILE, options)
    assert {plan.group(number, "role") for number in range(len(plan))} == {"bias"}
    beyond = {("b", 1, 31), ("v", 0, 0), ("v", 0, 1)}
    (last,) = (number for number in range(len(plan)) if struck(plan, number) == beyond)
    assert plan.tensors(last) == ("b", "v")
    assert str(plan.surface("v").role) == "weight"


@pytest.mark.parametrize(("direction", "op"), [(Direction.UP, Op.SET1), (Direction.DOWN, Op.SET0)])
@pytest.mark.parametrize(
    "asked", [{}, {"faults": FaultModel.BURST}, CLUSTER, {"faults": FaultModel.BER, "ber": (0.3,), "samples": None}]
)
def test_every_strike_goes_one_way(direction, op, asked):
    plan = make_plan(FILE, CampaignOptions(**{"samples": 10, **asked}, flip_direction=direction))
    assert {edit.op for number in range(len(plan)) for edit in plan.fault(number).edits} == {op}


def test_rates_are_of_strikes_whatever_they_find(campaign):
    down, rows = campaign(samples=60, flip_direction=Direction.DOWN, roles=(Role.WEIGHT,))
    assert down["flip_direction"] == "1to0"
    assert down["faults"]["evaluated"] == 60
    both, as_before = campaign("both", samples=60, roles=(Role.WEIGHT,))
    assert "flip_direction" not in both
    assert [row["bit"] for row in rows] == [row["bit"] for row in as_before]  # the same cells
    masked = [row for row in rows if row["masked"] == row["images"]]
    assert 10 < len(masked) < 50
    for one, two in zip(rows, as_before, strict=True):  # a flip that goes that way, or nothing
        assert one in masked or {**one, "op": ""} == {**two, "op": ""}


def test_interleaving_is_what_makes_upsets_correctable(campaign):
    pairs = {"faults": FaultModel.CLUSTER, "ecc": "secded"}
    adjacent, _ = campaign("adjacent", **pairs)
    apart, _ = campaign("apart", **pairs, memory_layout="interleaved:2")
    assert adjacent["upsets"] == {"layout": "file", "patterns": [{"rows": 1, "columns": 2, "share": 1.0}]}
    assert adjacent["faults"]["due"] > 25  # two flips in one word: detected, not corrected
    assert apart["faults"]["due"] == 0
    assert apart["rates"]["masked"]["value"] == 1.0


LINED = {"samples": None, "layers": "*fc*"}
HALF = {"flip_direction": Direction.DOWN, "true_cells": TrueCells(share=0.5)}


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({**CLUSTER, "memory_layout": "interleaved:4"}, id="cluster"),
        pytest.param({**CLUSTER, **HALF, "memory_layout": "interleaved:4"}, id="cluster-true-and-anti-cells"),
        pytest.param({"flip_direction": Direction.DOWN}, id="single-1to0", marks=pytest.mark.slow),
        pytest.param(
            {"flip_direction": Direction(0.7), "samples": None, "margin": 0.2},
            id="single-mostly-1to0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {**HALF, "memory_layout": "rows:64", "true_cells": TrueCells(rows=2)},
            id="single-rows-of-cells",
            marks=pytest.mark.slow,
        ),
        pytest.param({**HALF, "faults": FaultModel.BURST}, id="burst-true-and-anti-cells", marks=pytest.mark.slow),
        pytest.param({**BIT_ERRORS, "flip_direction": Direction(0.7)}, id="ber-mostly-1to0", marks=pytest.mark.slow),
        pytest.param({**BIT_ERRORS, **HALF}, id="ber-true-and-anti-cells"),
        pytest.param(
            {**LINED, "faults": FaultModel.STUCK_ROW_0, "memory_layout": "rows:64"},
            id="stuck-row-0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {**LINED, "faults": FaultModel.STUCK_ROW_1, "memory_layout": "rows:64"},
            id="stuck-row-1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {**LINED, "faults": FaultModel.STUCK_COLUMN_0, "memory_layout": "rows:2"},
            id="stuck-column-0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {**LINED, "faults": FaultModel.STUCK_COLUMN_1, "memory_layout": "rows:2"},
            id="stuck-column-1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_neither_workers_nor_resuming_nor_engines_change_anything(campaign, asked):
    summary, rows = campaign(**asked, workers=1, audit=1.0)
    assert summary["audit"]["mismatches"] == 0 < summary["audit"]["checked"]
    assert campaign("two", **asked, workers=2)[1] == rows
    evaluated = summary["curve"][0]["chips"] if "curve" in summary else summary["faults"]["evaluated"]

    def stop(progress):
        if progress.done >= evaluated // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign("broken", **asked, workers=1, audit=1.0, report=stop)
    resumed, again = campaign("broken", **asked, audit=1.0, resume=True)
    assert again == rows
    assert {**resumed, "throughput": 0} == {**summary, "throughput": 0}
    assert campaign("reload", **asked, engine="reload")[1] == rows


def test_another_layout_is_another_campaign(campaign):
    campaign(**CLUSTER, memory_layout="interleaved:4")
    with pytest.raises(RunFolderError, match=r"memory_layout was 'interleaved:4' and is now 'file'"):
        campaign(**CLUSTER, resume=True)


HEADER = "tensor,byte,bytes,row,column\n"
WHOLE = ("w,0,4,0,0", "b,0,8,1,0", "v,0,3,0,32")


def laid_out(tmp_path, *rows, header=HEADER, **values):
    path = tmp_path / "layout.csv"
    path.write_text(header + "\n".join(rows))
    options = {"faults": FaultModel.CLUSTER, "exhaustive": True, "memory_layout": str(path), **values}
    return make_plan(FILE, CampaignOptions(**options))


def test_a_table_says_what_lies_beside_and_below(tmp_path):
    plan = laid_out(tmp_path, *WHOLE, cluster_shares=(Pattern(2, 2, 1.0),))
    every = [struck(plan, number) for number in range(len(plan))]
    assert {("w", 3, 7), ("v", 0, 0), ("b", 0, 31), ("b", 1, 0)} in every
    assert {("v", 2, 7), ("b", 1, 23), ("b", 1, 24)} in every


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("u,0,4,0,0",), "row 2: the model stores no tensor 'u'"),
        (("w,0,4,0,0", "b,8,1,1,0"), "row 3: byte 8 of 'b' is out of range; give from 0 to 7"),
        (("w,1,4,0,0",), "row 2: bytes 4 of 'w' is out of range; give from 1 to 3"),
        (("w,0,0,0,0",), "row 2: bytes 0 of 'w' is out of range; give from 1 to 4"),
        (("w,0,4,-1,0",), "row 2: row -1 of 'w' is out of range; give from 0 up"),
        (("w,0,4,0,x",), "row 2: column 'x' is not a whole number"),
        (("w,0,4,0,0", "w,3,1,2,0"), "row 3: bytes of row 2 again"),
        (("w,0,4,0,0", "b,0,8,0,31"), "row 3: cells of row 2 again"),
        (("w,0,2,0,0", "w,3,1,0,64", "b,0,8,1,0", "v,0,3,2,0"), "byte 2 of 'w' lies nowhere: give it a row"),
        (("w,0,4,0,0", "b,0,8,1,0"), "byte 0 of 'v' lies nowhere"),
    ],
)
def test_what_is_wrong_in_a_table_is_one_line(tmp_path, rows, message):
    with pytest.raises(InputError) as caught:
        laid_out(tmp_path, *rows)
    assert message in str(caught.value)


def test_a_table_without_its_columns_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no column 'bytes': its header must name tensor,byte,bytes,row,column"):
        laid_out(tmp_path, header="tensor,byte,row,column\n")


def test_only_where_upsets_begin_must_lie_somewhere(tmp_path):
    plan = laid_out(tmp_path, WHOLE[0], roles=(Role.WEIGHT,), layers="w")
    assert len(plan) == 32


def test_a_table_is_known_by_what_is_in_it(tmp_path):
    one = laid_out(tmp_path, *WHOLE).options.identity()["memory_layout"]
    (tmp_path / "elsewhere").mkdir()
    two = laid_out(tmp_path / "elsewhere", *WHOLE).options.identity()["memory_layout"]
    other = laid_out(tmp_path, *WHOLE[::-1]).options.identity()["memory_layout"]
    assert one == two != other


def test_shares_are_those_of_the_population(tmp_path):
    plan = make_plan([surface("w", 5000)], CampaignOptions(**CLUSTER, samples=2000))
    sizes = np.array([len(struck(plan, number)) for number in range(len(plan))])
    assert set(sizes.tolist()) == {2, 4}
    assert abs((sizes == 2).mean() - 0.5) < 0.05


def bits_of(plan, number):
    """Which bits a fault names, and what they become; elements that are replaced by all their bits."""
    found = {}
    for edit in plan.fault(number).edits:
        width = plan.surface(edit.tensor).width
        if edit.op is Op.WORD:
            for index, value in zip(edit.index.tolist(), edit.value.tolist(), strict=True):
                found |= {(edit.tensor, index, bit): value >> bit & 1 for bit in range(width)}
        else:
            pairs = zip(edit.index.tolist(), edit.bit.tolist(), strict=True)
            found |= {(edit.tensor, index, bit): int(edit.op is Op.SET1) for index, bit in pairs}
    return found


@pytest.mark.parametrize("line", ["row", "column"])
@pytest.mark.parametrize("value", [0, 1])
def test_every_line_is_a_fault_and_together_they_hold_every_bit_once(line, value):
    plan = make_plan(FILE, CampaignOptions(faults=FaultModel(f"stuck-{line}-{value}"), memory_layout="rows:5"))
    every = [bits_of(plan, number) for number in range(len(plan))]
    assert sum(map(len, every)) == len(set().union(*every)) == 4 * 8 + 2 * 32 + 3 * 8
    assert {bit for bits in every for bit in bits.values()} == {value}
    assert [plan.label(number).split()[0] for number in range(len(plan))] == [line] * len(plan)
    starts = {"w": 0, "b": 64, "v": 128}  # bits of the memory, in rows of 40
    for number, bits in enumerate(every):
        places = [divmod(starts[tensor] + index * plan.surface(tensor).width + bit, 40) for tensor, index, bit in bits]
        assert {f"{line} {place[line == 'column']}" for place in places} == {plan.label(number)}
    assert [fault.number for fault in plan.listed[1:3]] == [1, 2]


def test_lines_are_chosen_by_what_they_hold_and_do_not_end_there():
    asked = {"faults": FaultModel.STUCK_ROW_1, "memory_layout": "rows:16"}
    plan = make_plan(FILE, CampaignOptions(**asked, layers="v"))
    (only,) = (bits_of(plan, number) for number in range(len(plan)))
    assert {tensor for tensor, _, _ in only} == {"v"}  # the third word, behind w and b
    both = make_plan(FILE, CampaignOptions(**asked, roles=(Role.BIAS,)))
    assert {tensor for tensor, _, _ in bits_of(both, 0)} == {"w", "b"}


@pytest.mark.parametrize("model", [FaultModel.STUCK_ROW_0, FaultModel.STUCK_COLUMN_1])
def test_stuck_lines_are_replayed_and_listed(campaign, tmp_path, model):
    asked = {"faults": model, "memory_layout": "rows:4096", "samples": None, "layers": "*fc*", "audit": 1.0}
    if model is FaultModel.STUCK_COLUMN_1:
        asked["memory_layout"] = "rows:1"
    summary, rows = campaign(**asked, workers=1)
    assert summary["audit"]["mismatches"] == 0
    assert summary["population"]["faults"] == summary["faults"]["evaluated"] == len({row["fault"] for row in rows})
    sdc1 = summary["rates"]["sdc1"]
    assert sdc1["low"] == sdc1["value"] == sdc1["high"]  # all there are
    listed = {"faults": FaultModel.LIST, "fault_list": tmp_path / "run" / "faults.csv", "samples": None}
    _, again = campaign("listed", **listed)
    outcome = ("fault", "outcome", "masked", "sdc1")
    assert [[row[name] for name in outcome] for row in again] == [[row[name] for name in outcome] for row in rows]
