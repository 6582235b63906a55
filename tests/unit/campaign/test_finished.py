"""A finished campaign read again: the options it was given, the faults it drew, the outputs it judged by."""

import dataclasses
import json

import numpy as np
import pytest

from resq_deploy.campaign.finished import Finished
from resq_deploy.campaign.options import CampaignOptions, Draw, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.gaps import encoded
from resq_deploy.faults.upsets import Pattern

KINDS = {
    "simple": {"samples": 40, "roles": (Role.WEIGHT, Role.BIAS), "bits": (5, 6, 7)},
    "strata": {"margin": 0.2, "images_per_fault": "all"},
    "layers": {"samples": 40, "draw": Draw.LAYERS, "judge": "values:bound=0.02"},
    "one way": {"samples": 40, "flip_direction": Direction(0.8)},
    "true and anti cells": {"margin": 0.3, "flip_direction": Direction.DOWN, "true_cells": TrueCells(share=0.5)},
    "upsets": {
        "samples": 20,
        "faults": FaultModel.CLUSTER,
        "cluster_shares": (Pattern(1, 2, 0.5), Pattern(2, 2, 0.5)),
        "memory_layout": "rows:64",
        "flip_direction": Direction.UP,
        "true_cells": TrueCells(rows=2),
    },
    "rows": {"faults": FaultModel.STUCK_ROW_1, "memory_layout": "rows:256", "layers": "*fc*"},
    "words": {"samples": 20, "faults": FaultModel.WORD, "deployment": Deployment(optimization="basic")},
}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def model(digits_int8):
    return DeployedModel.load(digits_int8)


@pytest.fixture(scope="module")
def finished(model, digits, tmp_path_factory):
    """Return a campaign of some kind, and its run folder."""
    made = {}

    def run(kind):
        if kind not in made:
            out = tmp_path_factory.mktemp(kind) / "run"
            campaign = Campaign(model, digits, CampaignOptions(images=30, workers=1, audit=0.0, **KINDS[kind]))
            campaign.run(out)
            made[kind] = campaign, out
        return made[kind]

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_options_golden_run_and_plan_are_those_of_the_campaign(kind, finished, model, digits):
    campaign, out = finished(kind)
    found = Finished.read(out)
    found.check_model(model)
    found.check_data(digits)
    assert found.options.identity() == campaign.options.identity()
    golden = found.golden(model, digits)
    assert golden.judge == campaign.golden.judge
    for name, values in campaign.golden.outputs.items():
        assert golden.outputs[name].tobytes() == values.tobytes()
    plan = found.plan(model, golden)
    assert len(plan) == len(campaign.plan) == len(found.records)
    for number in range(len(plan)):
        assert str(plan.fault(number)) == str(campaign.plan.fault(number))
    assert (plan.sample is None) == (campaign.plan.sample is None)
    if plan.sample is not None:
        assert np.array_equal(plan.sample.weights(), campaign.plan.sample.weights())


def test_the_faults_of_a_list_are_those_of_the_campaigns_own_table(finished, model, digits, tmp_path):
    _, before = finished("simple")
    asked = CampaignOptions(images=30, workers=1, audit=0.0, faults=FaultModel.LIST, fault_list=before / "faults.csv")
    campaign = Campaign(model, digits, asked)
    campaign.run(tmp_path / "again")
    found = Finished.read(tmp_path / "again")
    plan = found.plan(model, found.golden(model, digits))
    assert [str(plan.fault(number)) for number in range(len(plan))] == [
        str(campaign.plan.fault(number)) for number in range(len(plan))
    ]


def test_records_hold_how_far_each_image_moves_as_a_reload_shows_it(finished, model, digits):
    """Worked out anew: the faulty file in a session of its own, its largest difference a row."""
    campaign, out = finished("simple")
    found, patcher = Finished.read(out), model.patcher()
    golden = campaign.golden
    (name,) = golden.outputs
    moved = 0
    for record in found.records:
        fault = campaign.plan.fault(record.number)
        session = Session(patcher.apply(patcher.masks(fault)), campaign.options.deployment)
        faulty = session.run(golden.inputs)
        apart = np.abs(faulty - golden.outputs[name]).max(axis=1).astype(np.float64)
        expected = encoded(apart / np.abs(golden.outputs[name]).max())
        expected[(faulty.view(np.uint32) == golden.outputs[name].view(np.uint32)).all(axis=1)] = 0
        assert record.gaps == (expected.tobytes() if expected.any() else b"")
        moved += bool(expected.any())
    assert moved > 10


def test_another_file_and_other_data_are_refused(finished, model, digits):
    found = Finished.read(finished("simple")[1])
    with pytest.raises(OptionError, match=r"run on another file \(SHA-256 differs\)"):
        found.check_model(dataclasses.replace(model, digest="0" * 64))
    fewer = dataclasses.replace(found, sha256={**found.sha256, "data": "0" * 64})
    with pytest.raises(OptionError, match="run on other data"):
        fewer.check_data(digits)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"command": "attackcamp"}, "give the run folder of a faultcamp that is done, and not of attackcamp, done"),
        ({"status": "running"}, "and not of faultcamp, running"),
        ({"options": {"faults": "cosmic"}}, "tells of options or figures that this resq-deploy does not read"),
        ({"options": {"gamma": 1}}, "tells of options or figures that this resq-deploy does not read"),
    ],
    ids=["command", "status", "value", "name"],
)
def test_what_is_no_finished_campaign_is_refused(finished, tmp_path, change, told):
    manifest = json.loads((finished("simple")[1] / "manifest.json").read_text())
    options = {**manifest["options"], **change.pop("options", {})}
    (tmp_path / "summary.json").write_bytes((finished("simple")[1] / "summary.json").read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change, "options": options}))
    with pytest.raises(RunFolderError, match=told):
        Finished.read(tmp_path)


def test_native_arithmetic_of_another_kind_of_cpu_is_refused(finished, tmp_path):
    manifest = json.loads((finished("simple")[1] / "manifest.json").read_text())
    here = Deployment(arithmetic=Arithmetic.NATIVE)
    manifest["options"]["deployment"] = {**here.identity(), "cpu_saturates": not here.saturates}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(OptionError, match="--arithmetic native on a CPU that"):
        Finished.read(tmp_path)


def test_faults_that_are_drawn_otherwise_now_are_refused(finished, model, digits, tmp_path):
    _, out = finished("simple")
    found = Finished.read(out)
    other = dataclasses.replace(found, options=dataclasses.replace(found.options, seed=5))
    with pytest.raises(RunFolderError, match="not those that this version of resq-deploy draws"):
        other.plan(model, other.golden(model, digits))
