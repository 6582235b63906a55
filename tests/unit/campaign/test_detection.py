"""Campaigns on protected files: what is corrected, what the file's report tells of the rest, and the proofs of both."""

import csv
import pathlib

import numpy as np
import pytest

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.record import Way
from resq_deploy.campaign.run import Campaign
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.data import load_dataset
from resq_deploy.deployed.decoding import Left
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.runtime_graph import RuntimeGraph
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import FailedError

REFERENCE = pathlib.Path(__file__).parents[3] / "models" / "resnet8-digits-baseline.int8.onnx"
IMAGES = 30
TOLD = ["detected", "words_corrected", "words_uncorrectable"]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def files(protected_file):
    """ResNet-8 on digits: every stored tensor protected, and without protection; its weights have 7 bits."""
    return protected_file(REFERENCE, rescaled=True)


@pytest.fixture
def campaign(files, digits, tmp_path):
    """Prepare a campaign on the protected file; give it and a function that runs it and returns all it wrote."""

    def prepare(*, model=files[0], **values):
        made = Campaign(
            DeployedModel.load(model), digits, CampaignOptions(**{"images": IMAGES, "workers": 1, **values})
        )

        def run(name="run", **more):
            summary = made.run(tmp_path / name, **more)
            with (tmp_path / name / "faults.csv").open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            with Store(tmp_path / name / FILE) as store:
                return summary, rows, store.records()

        return made, run

    return prepare


@pytest.fixture
def listed(files, tmp_path):
    """Write a fault list: words with one flip, with two that stay, and two copies of a bias at its highest bits."""
    model = DeployedModel.load(files[0])
    group = model.codes().groups[0]
    rows = ["fault,tensor,index,bit"]
    for number, weight in enumerate(group.weights[:6]):
        (edit,) = group.as_edits(group.broken(weight.start + np.arange(weight.count)))
        rows += [f"word{number},{edit.tensor},{i},{b}" for i, b in zip(edit.index, edit.bit, strict=True)]
        rows.append(f"flip{number},{edit.tensor},{edit.index[0]},{edit.bit[0]}")
    roles = {surface.tensor: surface.role for surface in model.surfaces}
    biases = [vote.copies for vote in model.votes() if roles[vote.copies[0]] is Role.BIAS]
    for number, copies in enumerate(biases[:4]):
        rows += [f"bias{number},{copy},{index},30" for copy in copies[:2] for index in range(4)]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_every_fault_is_told_with_what_the_file_reports_of_it(campaign, listed):
    _, run = campaign(faults=FaultModel.LIST, fault_list=listed, audit=1.0)
    summary, rows, records = run()
    by_label = {row["fault"]: row for row in rows}
    for label, row in by_label.items():
        told = [int(row[name]) for name in TOLD]
        if label.startswith("flip"):
            assert (row["outcome"], told) == ("masked", [1, 1, 0])
        elif label.startswith("word"):
            assert told[0] == 1
            assert told[2] > 0
        else:
            assert told == [1, 4, 0]  # values of which no two copies are right: each looks like one that was healed
    assert [record.detected for record in records] == [True] * len(records)
    assert summary["golden"]["health"] == {"corrected": 0, "uncorrectable": 0}
    assert summary["audit"] == {**summary["audit"], "mismatches": 0, "rules_out": 0.0}
    found = summary["detection"]
    failing = {label for label, row in by_label.items() if int(row["sdc1"])}
    assert any(label.startswith("word") for label in failing)
    assert any(label.startswith("bias") for label in failing)
    assert found["failing"] == len(failing)
    assert found["diagnostic_coverage"]["value"] == 1.0
    named = sum(label.startswith("word") for label in failing)
    assert found["diagnostic_coverage_uncorrectable"]["value"] == pytest.approx(named / len(failing))
    assert found["by_role"]["bias"]["diagnostic_coverage_uncorrectable"]["value"] == 0.0
    rates = summary["rates"]
    assert rates["sdc1_detected"]["value"] == rates["sdc1"]["value"] > 0.0
    assert rates["sdc1_silent"]["value"] == 0.0


def test_a_file_that_reports_nothing_says_nothing(campaign, files):
    summary, rows, records = campaign(model=files[1], samples=10)[1]()
    assert summary["detection"] is None
    assert summary["golden"]["health"] is None
    assert not {"sdc1_detected", "sdc1_silent"} & summary["rates"].keys()
    assert not set(TOLD) & rows[0].keys()
    assert {(record.health, record.detected) for record in records} == {(None, False)}


def test_random_bit_errors_have_a_coverage_at_each_rate(campaign):
    values = {"faults": FaultModel.BER, "ber": (1e-5, 3e-3), "chips": 3, "roles": (Role.WEIGHT,)}
    summary, rows, _ = campaign(**values)[1]()
    low, high = summary["curve"]
    assert low["detection"]["failing"] == 0
    assert low["detection"]["diagnostic_coverage"] is None
    assert high["detection"]["diagnostic_coverage"]["value"] == 1.0
    assert high["rates"]["sdc1_silent"]["value"] == 0.0
    assert all(int(row["words_corrected"]) > 100 for row in rows if float(row["ber"]) > 1e-3)


def test_faults_drawn_in_strata_have_one_as_well(campaign):
    summary, _, records = campaign(margin=0.05, audit=0.0)[1]()
    assert summary["design"] == "stratified"
    assert summary["detection"]["detected"]["value"] > 0.95  # all but what attributes store
    assert {record.way for record in records} >= {Way.CODES, Way.VOTES}


def test_faults_on_some_images_are_told_as_on_all_but_for_coverage(campaign, listed):
    """What the file reports of a fault is the same on any images; how many of those that fail it tells is not known."""
    values = {"faults": FaultModel.LIST, "fault_list": listed, "audit": 1.0}
    whole, _, of_all = campaign(**values, images_per_fault="all")[1]("all")
    summary, rows, records = campaign(**values, images_per_fault=10)[1]()
    assert [(one.health, one.detected) for one in records] == [(one.health, one.detected) for one in of_all]
    assert {record.images for record in records} == {10}
    assert {int(row["share"]) for row in rows} == {0, 1, 2}
    assert summary["audit"]["mismatches"] == 0
    found, known = summary["detection"], whole["detection"]
    assert (found["at_least"], known["at_least"]) == (["failing"], [])
    assert 0 < found["failing"] <= known["failing"]
    assert found["diagnostic_coverage"] is found["diagnostic_coverage_uncorrectable"] is None
    assert found["detected"]["value"] == known["detected"]["value"] == 1.0
    assert summary["rates"]["sdc1_detected"]["value"] == summary["rates"]["sdc1"]["value"] > 0.0


@pytest.mark.parametrize("images", [10, "all"])
def test_each_way_through_codes_gives_what_reload_and_run_does_on_its_images(campaign, images):
    values = {"samples": 60, "audit": 1.0, "images_per_fault": images, "images": IMAGES}
    summary, _, records = campaign(**values)[1]()
    assert summary["audit"]["mismatches"] == 0
    assert {record.way for record in records} >= {Way.CODES, Way.VOTES}
    _, _, truth = campaign(**values, engine="reload")[1]("truth")
    said = [(one.outcome, one.counts, one.right, one.logits, one.share, one.parts, one.health) for one in records]
    assert said == [(one.outcome, one.counts, one.right, one.logits, one.share, one.parts, one.health) for one in truth]


# Proofs.


def test_a_canary_goes_by_every_way_through_codes(campaign):
    summary, _, _ = campaign(samples=20, roles=(Role.WEIGHT, Role.CODE))[1]()
    seen = summary["canary"]
    assert seen["codes"]["outcome"] == "masked"
    assert seen["channels"]["outcome"] == "sdc1"
    assert summary["audit"]["mismatches"] == 0


def test_an_engine_that_takes_broken_words_for_corrected_ones_is_caught(campaign, monkeypatch):
    made, run = campaign(samples=5, audit=0.0, roles=(Role.WEIGHT,))
    blind = Left(changes={}, corrected=0, uncorrectable=0)
    monkeypatch.setattr(made.testbed.engine._protection.decoding, "left", lambda _: blind)
    with pytest.raises(FailedError, match=r"canary: replay \(codes\) differs from reload-and-run"):
        run()


def test_an_engine_that_reports_otherwise_is_caught(campaign, monkeypatch):
    made, run = campaign(samples=5, audit=0.0, roles=(Role.WEIGHT,))
    monkeypatch.setattr(made.testbed.engine._protection.report, "of", lambda *_: made.golden.health)
    with pytest.raises(FailedError, match=r"canary: replay .* differs from reload-and-run"):
        run()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["replay", "reload"])
def test_resumed_halfway_it_is_the_same(campaign, engine):
    values = {"samples": 24, "engine": engine, "seed": 3}
    whole, rows, records = campaign(**values)[1]()
    _, run = campaign(**values)

    def stop(progress):
        if progress.done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("again", report=stop)
    resumed, rows_resumed, records_resumed = campaign(**values)[1]("again", resume=True)
    assert rows_resumed == rows
    assert records_resumed == records
    assert {**resumed, "throughput": 0} == {**whole, "throughput": 0}


def test_a_report_that_is_not_folded_is_left_to_reload_and_run(campaign, monkeypatch):
    monkeypatch.setattr(RuntimeGraph, "health", lambda _: None)
    summary, _, _ = campaign(samples=3, audit=0.0)[1]()
    assert summary["engine"]["name"] == "reload"
    assert summary["engine"]["fallback"] == "onnxruntime does not fold what the file reports of its code words"
