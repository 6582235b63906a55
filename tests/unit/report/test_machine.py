"""What other programs read: run folders against their schemas, and the report as JSON and CSV."""

import csv
import importlib.resources
import io
import json
import pathlib

import jsonschema
import pytest

from resq_deploy.campaign.options import FaultModel
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.faults.outcomes import COUNTS
from resq_deploy.report.build import document, gather
from resq_deploy.report.machine import as_csv, as_json

SCHEMAS = importlib.resources.files("resq_deploy") / "schemas"


def validator(name):
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", [path.stem for path in pathlib.Path(str(SCHEMAS)).glob("*.json")])
def test_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(json.loads((SCHEMAS / f"{name}.json").read_text()))


CAMPAIGNS = {
    "single": {"samples": 80, "fit_per_mbit": 100.0},
    "margin": {"margin": 0.3},
    "curve": {"faults": FaultModel.BER, "ber": (1e-3, 3e-2), "chips": 4},
    "burst": {"faults": FaultModel.BURST, "samples": 20},
    "word": {"faults": FaultModel.WORD, "samples": 20},
    "stuck": {"faults": FaultModel.STUCK_AT_1, "samples": 20},
    "due": {"faults": FaultModel.BURST, "samples": 5, "ecc": "secded"},
}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_campaigns_fit_their_schema(faultcamp, name):
    folder = faultcamp(f"schema-{name}", **CAMPAIGNS[name])
    summary = json.loads((folder / "summary.json").read_text())
    validator("manifest").validate(json.loads((folder / "manifest.json").read_text()))
    validator("faultcamp").validate(summary)
    several = name in ("curve", "burst", "word", "due")
    assert (summary["exposure"] is None) == bool(summary["exposure_reason"]) == several
    assert set(COUNTS) <= validator("faultcamp").schema["$defs"]["rates"]["properties"].keys()
    if name == "due":
        assert summary["faults"]["due"] == 5
    assert as_csv(gather([folder]))


def test_json_holds_runs_comparisons_and_limits(everything):
    report = json.loads(as_json(gather(everything)))
    assert report["schema"] == 1
    assert [run["command"] for run in report["runs"]] == ["train", *["faultcamp"] * 4, "attackcamp"]
    summary = json.loads((everything[1] / "summary.json").read_text())
    assert report["runs"][1]["summary"] == summary
    assert [(one["first"], one["second"]) for one in report["comparisons"]] == [
        ("single", "coarse-single"),
        ("curve", "coarse-curve"),
    ]
    for comparison in report["comparisons"]:
        for one in comparison["differences"]:
            assert one["difference"]["low"] <= one["difference"]["value"] <= one["difference"]["high"]
            assert one["real"] in (True, False)
    assert report["not_tested"][0].startswith("Transient faults")
    assert str(pathlib.Path.home()) not in json.dumps(report["comparisons"])


def test_csv_has_a_row_for_every_estimate(everything):
    rows = list(csv.DictReader(io.StringIO(as_csv(gather(everything)))))
    found = {(row["run"], row["figure"]): row for row in rows}
    summary = json.loads((everything[1] / "summary.json").read_text())
    sdc1 = found["single", "rates/sdc1"]
    assert [float(sdc1[key]) for key in ("value", "low", "high")] == [
        summary["rates"]["sdc1"][key] for key in ("value", "low", "high")
    ]
    assert {("curve", f"curve/0.03/{figure}") for figure in ("accuracy", "due", "rates/sdc1")} <= found.keys()
    assert not {("curve", figure) for figure in ("accuracy", "due", "rates/sdc1")} & found.keys()
    for kind in ("wrong_answers", "failing_faults", "failing_faults_over_share", "due"):
        for place in (f"{kind}/total", f"{kind}/by_role/weight", f"at/1e-06/{kind}/total", f"fit/{kind}/total"):
            assert ("single", f"exposure/{place}") in found
    assert ("attacks", "robust/twin-pgd/4") in found
    assert ("train", "stages/fault/test/robust") in found
    assert ("coarse-curve - curve", "accuracy at 3e-2") in found
    assert len(found) == len(rows)


def test_attack_campaigns_fit_their_schema(digits_int8, digits, tmp_path):
    pytest.importorskip("torch")
    from resq_deploy.pipeline.attack import AttackCampaign
    from resq_deploy.pipeline.attack_options import AttackOptions
    from resq_deploy.pipeline.bit_flip_options import BitFlipOptions

    options = AttackOptions(
        attacks=("square", "twin-pgd", "bit-flip"),
        epsilon=(2.0, 8.0),
        queries=60,
        steps=2,
        images=20,
        check_images=10,
        bit_flip=BitFlipOptions(batches=2, limit=1),
        with_faults="1e-3",
        fault_chips=2,
        workers=1,
    )
    AttackCampaign(DeployedModel.load(digits_int8), digits, options).run(tmp_path / "attacks")
    validator("manifest").validate(json.loads((tmp_path / "attacks" / "manifest.json").read_text()))
    validator("attackcamp").validate(json.loads((tmp_path / "attacks" / "summary.json").read_text()))
    topics = [section.topic for section in document(gather([tmp_path / "attacks"])).sections]
    assert topics == [
        "Overview",
        "Attacks",
        "Bit-flip attack",
        "Faults and attacks",
        "Limits",
        "Provenance",
        "Glossary",
    ]
