"""Campaigns whose faults are judged on their own images: resumed, on several workers, beside another file."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from resq_deploy.campaign import effort
from resq_deploy.campaign.engines.replay import ReplayEngine
from resq_deploy.campaign.option_text import parse_images_per_fault
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.record import Way
from resq_deploy.campaign.run import Campaign
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import FailedError, OptionError, RunFolderError
from resq_deploy.faults.outcomes import Outcome

IMAGES = 50


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def campaign(digits_int8, digits, tmp_path):
    """Run a campaign; return its summary and its records."""

    def run(name="run", *, resume=False, report=lambda _: None, model=digits_int8, **values):
        options = CampaignOptions(**{"images": IMAGES, "images_per_fault": 12, "samples": 60, **values})
        prepared = Campaign(DeployedModel.load(model), digits, options)
        summary = prepared.run(tmp_path / name, resume=resume, report=report)
        with Store(tmp_path / name / FILE) as store:
            return summary, store.records()

    return run


def test_each_fault_is_judged_on_its_part_and_the_table_says_which(campaign, tmp_path):
    summary, records = campaign()
    assert "lower bound" in summary["images"].pop("not_known")
    assert summary["images"] == {"per_fault": 10, "parts": 5, "part_size": 10, "of": IMAGES}
    assert summary["golden"]["images"] == IMAGES
    assert {record.images for record in records if record.outcome != "due"} == {10}
    assert {record.share for record in records} == set(range(5))
    assert {record.parts for record in records} == {1}
    with (tmp_path / "run" / "faults.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(int(row["share"]), int(row["parts"])) for row in rows] == [(one.share, one.parts) for one in records]
    assert summary["audit"]["mismatches"] == 0


def test_the_mean_over_the_parts_of_all_is_what_all_images_give(campaign):
    """The same faults on all images: each share seen is that part of what all of them show."""
    _, whole = campaign("all", images_per_fault="all")
    _, parts = campaign()
    for one, of in zip(whole, parts, strict=True):
        if one.outcome == "due":
            continue
        right = np.unpackbits(np.frombuffer(one.right, np.uint8), count=IMAGES)
        assert (one.share, one.parts, one.images) == (0, 1, IMAGES)
        seen = np.unpackbits(np.frombuffer(of.right, np.uint8), count=of.images)
        assert seen.tolist() == right[10 * of.share : 10 * of.share + 10].tolist()


def test_neither_workers_nor_resuming_nor_engines_change_anything(campaign, tmp_path):
    summary, records = campaign()
    assert campaign("two", workers=2)[1] == records

    def stop(progress):
        if progress.done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign("broken", report=stop)
    resumed, again = campaign("broken", resume=True)
    assert again == records
    assert {**resumed, "throughput": 0} == {**summary, "throughput": 0}
    reloaded = campaign("reload", engine="reload")[1]
    kept = ("outcome", "counts", "right", "logits", "share", "parts")
    assert [[getattr(one, name) for name in kept] for one in reloaded] == [
        [getattr(one, name) for name in kept] for one in records
    ]


def test_two_files_and_a_larger_sample_meet_the_same_faults_on_the_same_images(campaign, digits_int8, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(digits_int8.read_bytes() + b"\x12\x04made")  # another producer, the same tensors
    first, second, larger = campaign()[1], campaign("other", model=other)[1], campaign("more", samples=80)[1]
    places = [(record.share, record.parts) for record in first]
    assert [(record.share, record.parts) for record in second] == places
    assert [(record.share, record.parts) for record in larger][:60] == places
    assert [record.share for record in campaign("seed", seed=1)[1]] != [share for share, _ in places]


def test_margins_take_parts_of_twenty_images_by_themselves(campaign):
    summary, records = campaign(images_per_fault=None, samples=None, margin=0.1)
    assert summary["images"]["per_fault"] == 17  # three parts of 50 images
    assert {record.images for record in records if record.outcome != "due"} == {16, 17}


@pytest.mark.parametrize("model", [FaultModel.BURST, FaultModel.STUCK_AT_1, FaultModel.WORD, FaultModel.CLUSTER])
def test_every_fault_model_is_replayed_as_it_is_reloaded(campaign, model):
    assert campaign(faults=model, samples=25, audit=1.0)[0]["audit"]["mismatches"] == 0


@pytest.mark.parametrize("asked", ["all", None, IMAGES, 500])
def test_all_images_are_one_share(campaign, asked):
    summary, records = campaign(samples=5, images_per_fault=asked)
    assert summary["images"]["per_fault"] is None
    assert {record.images for record in records if record.outcome != "due"} == {IMAGES}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images_per_fault": 0}, "--images-per-fault 0: give a whole number from 1 up, auto or all"),
        ({"images_per_fault": 10, "faults": FaultModel.BER}, "does not apply to ber"),
        ({"images_per_fault": "auto", "samples": 5}, "learns from the pilot"),
    ],
)
def test_what_makes_no_sense_is_one_line(values, message):
    with pytest.raises(OptionError, match=message):
        CampaignOptions(**values)


def test_images_per_fault_are_read():
    assert [parse_images_per_fault(text) for text in ("auto", "all", "30")] == ["auto", "all", 30]
    with pytest.raises(OptionError, match="'some': give a whole number"):
        parse_images_per_fault("some")


def test_a_campaign_is_not_resumed_on_other_images(campaign, tmp_path):
    campaign(samples=5)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["options"]["images_per_fault"] == 12
    with pytest.raises(Exception, match="images_per_fault was 12 and is now 20"):
        campaign(samples=5, images_per_fault=20, resume=True)


def test_a_claim_about_images_that_were_not_run_is_held_against_the_faulty_file(campaign, monkeypatch):
    """An engine that takes a fault for inert where its own images stay as they are: reload-and-run agrees on these."""
    evaluate = ReplayEngine.evaluate

    def claims(self, faults):
        return [
            dataclasses.replace(record, way=Way.GOLDEN) if record.outcome is Outcome.MASKED else record
            for record in evaluate(self, faults)
        ]

    monkeypatch.setattr(ReplayEngine, "evaluate", claims)
    with pytest.raises(FailedError, match="faults differ from reload-and-run"):
        campaign(audit=1.0)
    monkeypatch.undo()
    summary, records = campaign("sound", audit=1.0)
    assert summary["faults"]["inert"] == sum(record.inert for record in records)
    assert summary["audit"]["mismatches"] == 0


def test_a_campaign_whose_faults_another_version_judged_on_other_images_is_not_gone_on_with(campaign, monkeypatch):
    """What decides how many images a fault has are weights of its cost, which may be measured anew."""
    asked = {"images": 300, "margin": 0.04, "samples": None, "images_per_fault": "auto"}
    totals = []

    def stop(progress):
        totals.append(progress.total)
        if progress.total > totals[0]:  # in the phase after the first pilot
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign(report=stop, **asked)
    with monkeypatch.context() as dear:
        dear.setattr(effort, "_LAYER_OF_A_FAULT", 1e4)
        with pytest.raises(RunFolderError, match="was judged on other images than this version"):
            campaign(resume=True, **asked)
    assert campaign(resume=True, **asked)[0]["images"]["per_fault"] < 300
