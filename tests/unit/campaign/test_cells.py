"""Flips that go either way by a share, and true and anti cells, in plans counted by hand and on a real int8 file."""

import csv
import importlib.resources
import json

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.campaign.option_text import parse_direction, parse_true_cells
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import InputError, OptionError, RunFolderError
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.fault import Op
from resq_deploy.faults.upsets import Pattern

SCHEMA = json.loads((importlib.resources.files("resq_deploy") / "schemas" / "faultcamp.json").read_text())
UP, DOWN = Direction.UP, Direction.DOWN
PAIRS = {"faults": FaultModel.CLUSTER, "cluster_shares": (Pattern(1, 2, 1.0),)}
HALF = {"flip_direction": DOWN, "true_cells": TrueCells(share=0.5)}


def surface(name, elements, width=8, role=Role.WEIGHT):
    dtype = {8: "int8", 32: "int32"}[width]
    return Surface(tensor=name, role=role, layer=name, dtype=dtype, shape=(elements,), width=width)


FILE = [surface("w", 4), surface("b", 2, 32, Role.BIAS), surface("v", 3)]
"""w is at bytes 0 to 3 of the memory, b at 8 to 15, v at 16 to 18."""


def becomes(plan, numbers=None):
    """What the faults of a plan turn bits to: tensor, element and bit, and what it becomes."""
    found = {}
    for number in range(len(plan)) if numbers is None else numbers:
        for edit in plan.fault(number).edits:
            for index, bit in zip(edit.index.tolist(), edit.bit.tolist(), strict=True):
                assert found.setdefault((edit.tensor, index, bit), edit.op) == edit.op
    return found


def every(**values):
    return make_plan(FILE, CampaignOptions(**{"exhaustive": True, **values}))


def test_rows_of_true_and_of_anti_cells_by_turns_counted_by_hand():
    """Rows of four bytes: w in row 0, nothing in row 1, b in rows 2 and 3, v in row 4; two rows of a kind."""
    plan = every(flip_direction=DOWN, true_cells=TrueCells(rows=2), memory_layout="rows:4")
    found = becomes(plan)
    assert len(found) == len(plan) == 32 + 64 + 24
    assert {bit: op for bit, op in found.items() if bit[0] == "w"} == {
        ("w", i, b): Op.SET0 for i in range(4) for b in range(8)
    }
    assert {op for (tensor, *_), op in found.items() if tensor == "b"} == {Op.SET1}
    assert {op for (tensor, *_), op in found.items() if tensor == "v"} == {Op.SET0}
    mirrored = becomes(every(flip_direction=UP, true_cells=TrueCells(rows=2), memory_layout="rows:4"))
    assert all(op != mirrored[bit] for bit, op in found.items())
    single = becomes(every(flip_direction=DOWN, true_cells=TrueCells(rows=1), memory_layout="rows:4"))
    assert {bit: op for bit, op in single.items() if bit[0] == "b"} == {
        ("b", i, b): Op.SET1 if i else Op.SET0 for i in range(2) for b in range(32)
    }


HEADER = "tensor,byte,bytes,row,column,cells\n"
TABLE = ("w,0,1,0,0,anti", "w,1,3,0,8,true", "b,0,8,1,0,anti", "v,0,3,2,0, true ")


@pytest.fixture
def table(tmp_path):
    def write(*rows, header=HEADER):
        path = tmp_path / "memory.csv"
        path.write_text(header + "\n".join(rows))
        return str(path)

    return write


@pytest.mark.parametrize("asked", [{}, {"faults": FaultModel.BURST}, PAIRS], ids=["single", "burst", "upsets"])
def test_a_table_says_which_cells_are_true_ones(table, asked):
    found = becomes(every(**asked, flip_direction=DOWN, memory_layout=table(*TABLE)))
    anti = {bit for bit, op in found.items() if op is Op.SET1}
    assert anti == {("w", 0, bit) for bit in range(8)} | {("b", i, bit) for i in range(2) for bit in range(32)}
    assert len(found) == 120


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    "asked",
    [{"true_cells": TrueCells(share=0.5)}, {"true_cells": TrueCells(rows=1), "memory_layout": "rows:1"}],
    ids=["share", "rows"],
)
def test_a_cell_is_the_same_one_in_every_model_and_sample(asked, rows):
    """An upset reaches cells from several anchors, whichever are drawn; `becomes` finds each to go one way."""
    values = {"flip_direction": DOWN, **asked}
    alone = becomes(every(**values))
    assert set(alone.values()) == {Op.SET0, Op.SET1}
    upsets = {**PAIRS, "cluster_shares": (Pattern(1, rows + 1, 1.0),)}
    for other in (
        becomes(every(**values, **upsets)),
        becomes(every(**values, faults=FaultModel.BURST, burst=rows + 1)),
    ):
        assert other.items() <= alone.items()
    for seedless in ({"samples": 30, "exhaustive": False}, {"roles": (Role.BIAS,)}, {"layers": "v"}):
        assert becomes(every(**values, **seedless)).items() <= alone.items()
    chips = CampaignOptions(**values, faults=FaultModel.BER, ber=(0.1, 0.5), chips=5)
    assert becomes(make_plan(FILE, chips)).items() <= alone.items()


def test_another_seed_is_another_memory_and_another_file_with_the_tensor_is_not():
    alone, other = becomes(every(**HALF)), becomes(every(**HALF, seed=1))
    assert 0.3 < np.mean([other[bit] == op for bit, op in alone.items()]) < 0.7
    elsewhere = make_plan([surface("u", 9), FILE[2]], CampaignOptions(**HALF, exhaustive=True))
    assert {bit: op for bit, op in becomes(elsewhere).items() if bit[0] == "v"}.items() <= alone.items()


def test_a_chip_has_directions_of_its_own_and_the_same_at_every_rate():
    asked = CampaignOptions(faults=FaultModel.BER, ber=(0.1, 0.5), chips=6, flip_direction=Direction(0.75), seed=3)
    plan = make_plan(FILE, asked)
    low, high = (
        [becomes(plan, [number]) for number, (rate, _) in enumerate(plan.masks) if rate == wanted]
        for wanted in (0.1, 0.5)
    )
    for few, many in zip(low, high, strict=True):
        assert few.items() <= many.items()
    shares = [np.mean([op is Op.SET0 for op in chip.values()]) for chip in high]
    assert 0.6 < np.mean(shares) < 0.9
    one, two = high[:2]
    both = one.keys() & two.keys()
    assert any(one[bit] != two[bit] for bit in both)
    again = make_plan(FILE, CampaignOptions(**{**vars(asked), "seed": 4}))  # chips are no matter of the seed
    assert [becomes(again, [number]) for number in range(len(again))] == [becomes(plan, [n]) for n in range(len(plan))]


def test_an_upset_of_both_kinds_names_its_tensor_once():
    plan = every(**HALF, **PAIRS)
    several = [number for number in range(len(plan)) if len(plan.fault(number).edits) == 2]
    assert several
    for number in range(len(plan)):
        assert plan.tensors(number) == plan.fault(number).tensors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"true_cells": TrueCells(share=0.5)}, "--true-cells 0.5: says in which cells --flip-direction goes the other"),
        ({"flip_direction": Direction(1.5)}, "--flip-direction 1to0:1.5: give a share from 0 to 1"),
        ({"flip_direction": DOWN, "true_cells": TrueCells(share=-0.1)}, "--true-cells -0.1: give a share from 0 to 1"),
        ({"flip_direction": DOWN, "true_cells": TrueCells(rows=0)}, "--true-cells rows:0: give one row or more"),
        (
            {"flip_direction": DOWN, "true_cells": TrueCells(rows=4)},
            "the layout file has one row; give --memory-layout",
        ),
        (
            {**PAIRS, "flip_direction": UP, "true_cells": TrueCells(rows=4), "memory_layout": "interleaved:4"},
            "the layout interleaved:4 has one row",
        ),
        ({**HALF, "memory_layout": "rows:4"}, "--memory-layout is about upsets"),
        ({"flip_direction": DOWN, "memory_layout": "rows:4"}, "with --flip-direction, --true-cells rows:N or a table"),
        ({**HALF, "faults": FaultModel.WORD}, "does not apply to word"),
    ],
)
def test_options_that_make_no_sense(values, message):
    with pytest.raises(OptionError) as caught:
        CampaignOptions(**values)
    assert message in str(caught.value)


PLAIN = "tensor,byte,bytes,row,column\n"
PLAINLY = ("w,0,4,0,0", "b,0,8,1,0", "v,0,3,0,32")


@pytest.mark.parametrize(
    ("rows", "header", "values", "error", "message"),
    [
        (
            TABLE,
            HEADER,
            PAIRS,
            OptionError,
            "in column 'cells' which way cells lose their charge: give --flip-direction",
        ),
        (TABLE, HEADER, {**HALF, **PAIRS}, OptionError, "--true-cells 0.5: the table of --memory-layout says so"),
        (PLAINLY, PLAIN, {"flip_direction": DOWN}, OptionError, "it has no column 'cells' (true or anti): add it"),
        ((*TABLE[:2], "b,0,8,1,0,both", TABLE[3]), HEADER, {"flip_direction": DOWN}, InputError, "row 4: cells 'both'"),
        (
            (*TABLE[:3], "v,0,3,2,0"),
            HEADER,
            {"flip_direction": DOWN},
            InputError,
            "row 5: cells '' of 'v': give true or",
        ),
        (TABLE[:3], HEADER, {"flip_direction": DOWN}, InputError, "byte 0 of 'v' lies nowhere: give it a row"),
    ],
)
def test_what_a_table_leaves_open_is_one_line(table, rows, header, values, error, message):
    with pytest.raises(error) as caught:
        every(**values, memory_layout=table(*rows, header=header))
    assert message in str(caught.value)


def test_lines_of_a_memory_take_a_table_with_kinds_of_cells(table):
    asked = CampaignOptions(faults=FaultModel.STUCK_ROW_1, memory_layout=table(*TABLE))
    assert len(make_plan(FILE, asked)) == 3


def test_upsets_take_a_table_without_kinds_of_cells(table):
    """All are true cells then, or by a share."""
    layout = table(*PLAINLY, header=PLAIN)
    assert set(becomes(every(**PAIRS, flip_direction=DOWN, memory_layout=layout)).values()) == {Op.SET0}
    found = becomes(every(**PAIRS, **HALF, memory_layout=layout))
    assert found == becomes(every(**HALF))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("both", Direction.BOTH),
        ("0to1", UP),
        ("1to0", DOWN),
        ("1to0:0.8", Direction(0.8)),
        ("1to0:1", DOWN),
        ("1to0:0", UP),
    ],
)
def test_directions_as_text(text, value):
    assert parse_direction(text) == value


@pytest.mark.parametrize("text", ["", "up", "1to0:", "1to0:x", "1to0:1.5", "1to0:nan", "0to1:0.5", "0.5"])
def test_what_is_no_direction(text):
    with pytest.raises(OptionError, match=r"--flip-direction .*: give both, 0to1, 1to0, or a share"):
        parse_direction(text)


def test_true_cells_as_text():
    assert parse_true_cells("0.25") == TrueCells(share=0.25)
    assert parse_true_cells("rows:512") == TrueCells(rows=512)
    for text in ("", "rows:", "rows:x", "half"):
        with pytest.raises(OptionError, match=r"--true-cells .*: give a share from 0 to 1, or rows:N"):
            parse_true_cells(text)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def campaign(digits_int8, digits, tmp_path):
    def run(name, *, resume=False, **values):
        options = CampaignOptions(**{"images": 40, "samples": 60, **values})
        summary = Campaign(DeployedModel.load(digits_int8), digits, options).run(tmp_path / name, resume=resume)
        jsonschema.validate(summary, SCHEMA)
        with (tmp_path / name / "faults.csv").open(encoding="utf-8", newline="") as stream:
            return summary, list(csv.DictReader(stream))

    return run


@pytest.mark.parametrize(
    "asked",
    [{"flip_direction": Direction(0.3)}, HALF, {**HALF, "true_cells": TrueCells(rows=3), "memory_layout": "rows:64"}],
    ids=["share", "true and anti cells", "rows of each"],
)
def test_a_strike_is_the_flip_of_its_cell_or_nothing_by_what_the_cell_holds(campaign, digits_int8, asked):
    flipped, flips = campaign("flips", roles=(Role.WEIGHT, Role.BIAS))
    summary, rows = campaign("strikes", roles=(Role.WEIGHT, Role.BIAS), **asked)
    tensors = {one.name: numpy_helper.to_array(one) for one in onnx.load(digits_int8).graph.initializer}
    idle = 0
    for row, flip in zip(rows, flips, strict=True):
        assert [row[name] for name in ("tensor", "index", "bit")] == [flip[name] for name in ("tensor", "index", "bit")]
        held = int(tensors[row["tensor"]].reshape(-1)[int(row["index"])]) >> int(row["bit"]) & 1
        if row["op"] == ("set1" if held else "set0"):
            idle += 1
            assert row["masked"] == row["images"]
        else:
            assert {**row, "op": ""} == {**flip, "op": ""}
    assert 10 < idle < 50
    assert {row["op"] for row in rows} == {"set0", "set1"}
    assert summary["flip_direction"] == str(asked["flip_direction"])
    assert summary.get("true_cells") == (str(asked["true_cells"]) if "true_cells" in asked else None)
    assert summary.get("memory_layout") == asked.get("memory_layout")
    assert 0.3 < summary["population"].pop("changed") < 0.7
    assert summary["population"] == flipped["population"]  # of strikes
    assert summary["rates"]["sdc1"]["n"] == 60


def test_cells_are_part_of_what_a_run_was_asked_for(campaign, tmp_path):
    campaign("run", samples=5, **HALF)
    options = json.loads((tmp_path / "run" / "manifest.json").read_text())["options"]
    assert (options["flip_direction"], options["true_cells"]) == ("1to0", "0.5")
    assert "memory_layout" not in options
    with pytest.raises(RunFolderError, match=r"true_cells was '0.5' and is now '0.25'"):
        campaign("run", samples=5, flip_direction=DOWN, true_cells=TrueCells(share=0.25), resume=True)
    with pytest.raises(RunFolderError, match=r"flip_direction was '1to0' and is now '1to0:0.5'"):
        campaign("run", samples=5, **{**HALF, "flip_direction": Direction(0.5)}, resume=True)
