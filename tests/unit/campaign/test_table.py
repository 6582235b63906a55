"""`faults.csv` is a valid fault list, whatever tensors and layers are called."""

import csv
import dataclasses
import io
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_deploy.campaign.fault_list import read_fault_list
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.table import faults_csv
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.faults.outcomes import Outcome

SINGLE = CampaignOptions(samples=3)
ODD = [
    "block 3\n*_w_q",
    "a\rb",
    "a\r\nb",
    'quoted "name", with a comma',
    " spaces ",
    "tab\t",
    "line\u2028separator\x0b\x0c\x1c\x85",
    "nul\0",
    "gewicht-\u00e4\u6f22",
    "'",
    "=1+1",
]


def _due(number):
    counts = dict.fromkeys(("masked", "benign", "sdc1"), 0)
    return Record(
        number=number, outcome=Outcome.DUE, images=0, counts=counts, quality=0.0, logits="", right=b"", changed=1
    )


def round_trip(names, tmp_path, model=FaultModel.SINGLE):
    surfaces = [
        Surface(tensor=name, role=Role.WEIGHT, layer=f"layer {name}", dtype="int8", shape=(4,), width=8)
        for name in names
    ]
    plan = make_plan(surfaces, CampaignOptions(exhaustive=True, faults=model, burst=2))
    table = faults_csv(plan, [_due(number) for number in range(len(plan))])
    path = tmp_path / "faults.csv"
    path.write_bytes(table.encode())
    labels, faults, _ = read_fault_list(path, surfaces)
    assert labels == [str(number) for number in range(len(plan))]
    for number, fault in enumerate(faults):
        (read,), (edit,) = fault.edits, plan.fault(number).edits
        assert (read.tensor, read.op) == (edit.tensor, edit.op)
        assert (read.index.tolist(), read.bit.tolist()) == (edit.index.tolist(), edit.bit.tolist())
    return table


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_table_is_a_fault_list_whatever_a_tensor_is_called(name, tmp_path):
    round_trip([name], tmp_path)


@pytest.mark.parametrize("model", [FaultModel.BURST, FaultModel.STUCK_AT_1, FaultModel.WORD])
def test_so_is_that_of_other_fault_models(model, tmp_path):
    round_trip(ODD, tmp_path, model)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
def test_so_is_that_of_any_names(tmp_path_factory, names):
    round_trip(names, tmp_path_factory.getbasetemp())


def test_plain_names_are_not_quoted_and_lines_end_with_a_line_feed(tmp_path):
    table = round_trip([string.ascii_letters], tmp_path)
    assert '"' not in table
    assert "\r" not in table
    assert table.endswith("\n")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 32
    assert rows[0]["layer"] == f"layer {string.ascii_letters}"


def test_faults_that_nothing_rates_have_no_quality():
    plan = make_plan([Surface(tensor="w", role=Role.WEIGHT, layer="l", dtype="int8", shape=(4,), width=8)], SINGLE)
    records = [dataclasses.replace(_due(number), quality=None) for number in range(len(plan))]
    header, *rows = csv.reader(io.StringIO(faults_csv(plan, records, "map50")))
    assert "map50" not in header
    assert len(rows) == len(plan)
    rated = faults_csv(plan, [_due(number) for number in range(len(plan))], "map50")
    assert next(csv.DictReader(io.StringIO(rated)))["map50"] == "0.000000"
