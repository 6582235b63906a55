"""What the sections about faults claim, and what they leave open."""

import json

import numpy as np
import pytest

from resq_deploy.records import write_json
from resq_deploy.report import exposure_section
from resq_deploy.report.build import document, gather
from resq_deploy.report.document import Table
from resq_deploy.report.fault_table import read_faults
from resq_deploy.report.layer_harm import place
from resq_deploy.report.runs import load_runs


def section(folder, topic):
    return next(found for found in document(gather([folder])).sections if found.topic == topic)


def tables(found):
    return [block for block in found.blocks if isinstance(block, Table)]


def edited(folder, change):
    summary = json.loads((folder / "summary.json").read_text())
    change(summary)
    write_json(folder / "summary.json", summary)
    return folder


def rate(value, low, high, n=50):
    return {"value": value, "low": low, "high": high, "n": n, "confidence": 0.95}


def test_no_probability_is_above_one_and_first_order_needs_the_upper_end(single, copied):
    def exposed(summary):
        for entry, found in zip(
            summary["exposure"]["at"],
            (rate(0.001, 0, 0.02), rate(0, 0, 0.9), rate(0.7, 0.1, 1), *[rate(0, 0, 1)] * 2),
            strict=True,
        ):
            entry["failing_faults"]["total"] = found

    found = section(edited(copied(single), exposed), "Exposure")
    assert [row[2] for row in tables(found)[-1].rows][:3] == [
        "0.1 % [0.0, 2.0]",
        "not known to be rare",
        "no longer rare",
    ]
    assert any(isinstance(block, str) and "run --faults ber" in block for block in found.blocks)
    for at in json.loads((single / "summary.json").read_text())["exposure"]["at"]:
        for kind in ("wrong_answers", "failing_faults", "failing_faults_over_share", "due"):
            assert max(part["high"] for part in (at[kind]["total"], *at[kind]["by_role"].values())) <= 1.0


LAYERS = ["conv", "fc", "normalise"]


@pytest.mark.parametrize(
    ("rates", "title"),
    [
        ([(0.3, 0.25, 0.35), (0.1, 0.08, 0.12)], "layer conv is hit hardest, SDC-1 30.0 % [25.0, 35.0]"),
        (
            [(0.02, 0.01, 0.03), (0.9, 0.0, 1.0)],
            "the largest SDC-1 of those with enough faults to tell is 2.0 % [1.0, 3.0], of layer conv, but the figures "
            "do not tell it apart from all others",
        ),
        ([(0.4, 0.0, 0.9), (0.9, 0.0, 1.0)], "too few faults to tell the layers apart"),
        ([(0.4, 0.0, 0.9), (0.0, 0.0, 0.1)], "too few faults to tell the layers apart"),
        ([(0.2, 0.1, 0.3)], "SDC-1 of conv, the only layer hit, is 20.0 % [10.0, 30.0]"),
        ([(0.0, 0.0, 0.3), (0.0, 0.0, 0.1)], "no answer was changed"),
    ],
)
def test_the_heading_names_the_layer_on_top_only_where_its_interval_shows_it(single, copied, rates, title):
    def layered(summary):
        some = next(iter(summary["by_layer"].values()))
        summary["by_layer"] = {name: {**some, "sdc1": rate(*found)} for name, found in zip(LAYERS, rates, strict=False)}

    found = section(edited(copied(single), layered), "Layers and bits")
    assert found.title == f"single: {title}"
    assert tables(found)[0].rows[0][0] in title or title == "no answer was changed" or title.startswith("too few")


def shared(harmful, table, run):
    sdc1 = np.zeros(len(table))
    sdc1[:harmful] = 1.0
    object.__setattr__(table, "sdc1", sdc1)
    return exposure_section.exposed(run, table)


def test_risk_is_shared_out_only_where_enough_faults_did_harm(single):
    (run,) = load_runs([single])
    table = read_faults(run)
    few = shared(9, table, run)
    assert few.title == "single: 9 of 80 faults changed an answer, too few to share out the risk"
    assert {row[7] for row in tables(few)[1].rows} == {"-"}
    enough = shared(10, table, run)
    assert " of the risk" in enough.title
    assert all("[" in row[7] for row in tables(enough)[1].rows if row[3] != "-")


def test_a_share_of_the_risk_has_an_interval_that_holds_it():
    parts = {"bias": rate(0.05, 0.03, 0.07), "weight": rate(0.09, 0.045, 0.18), "scale": rate(0.01, 0.005, 0.02)}
    exposure = {"wrong_answers": {"by_role": parts}}
    found = exposure_section._share_of_risk(exposure, ["bias"])
    assert found == pytest.approx({"value": 5 / 15, "low": 3 / 23, "high": 7 / 12})
    two = exposure_section._share_of_risk(exposure, ["bias", "scale"])
    assert two == pytest.approx({"value": 6 / 15, "low": 3.5 / 21.5, "high": 9 / 13.5})
    whole = exposure_section._share_of_risk(exposure, parts)
    assert whole == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_shares_say_of_which_roles_they_are(single, copied):
    folder = copied(single)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["options"]["roles"] = ["weight", "bias"]
    write_json(folder / "manifest.json", manifest)
    told = [block for block in section(folder, "Exposure").blocks if isinstance(block, str)]
    assert "Only bits of weight and bias were chosen: all shares are among these." in told


def test_only_harmful_faults_are_listed(faultcamp, single):
    calm = section(faultcamp("calm-list", samples=30, bits=(0,), ecc="secded"), "Layers and bits")
    assert any("No fault changed an answer" in block for block in calm.blocks if isinstance(block, str))
    assert "tensor" not in {header for table in tables(calm) for header in table.headers}
    worst = tables(section(single, "Layers and bits"))[-1]
    assert all(row[6] != "0 %" for row in worst.rows)


def test_layers_that_did_no_harm_have_no_rank():
    found = [0.0, 0.2, 0.2, 0.5]
    assert [place(one, found) for one in found] == ["-", "2", "2", "1"]
    assert place(None, found) == "-"
