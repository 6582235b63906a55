"""Campaigns on files of other kinds than a classifier of one image: both engines, record by record."""

import dataclasses
import importlib.resources
import json

import jsonschema
import numpy as np
import pytest

from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.run import Campaign
from resq_deploy.campaign.store import FILE, read_records
from resq_deploy.data.samples import Samples
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.pipeline.campaign_data import data_for

SCHEMA = json.loads((importlib.resources.files("resq_deploy") / "schemas" / "faultcamp.json").read_text())


@pytest.fixture
def campaign(kinds, tmp_path):
    """Return a function that runs a campaign on a kind of file, and gives summary and records."""

    def run(kind, spec, name="run", *, once=None, states=None, **options):
        path = tmp_path / f"{kind}.onnx"
        path.write_bytes(kinds.KINDS[kind]().SerializeToString())
        model = DeployedModel.load(path)
        count = 40 if kind == "twice_quantised" else 6  # on a few samples files are reloaded rather than optimised anew
        data = data_for(model, str(spec), Deployment(), count=count, once=once, states=states)
        chosen = CampaignOptions(**{"samples": 30, "workers": 1, "audit": 0.0, **options})
        summary = Campaign(model, data, chosen).run(tmp_path / name)
        return summary, read_records(tmp_path / name / FILE)

    return run


@pytest.mark.parametrize(
    ("kind", "replayed"),
    [
        ("five_states", False),
        ("tagger", True),
        ("scaled_boxes", True),
        ("nhwc_levels", True),
        ("twice_quantised", True),
    ],
)
def test_both_engines_give_the_same_records_of_a_file_of_any_kind(kind, replayed, kinds, campaign):
    states = {name: f"{name}_out" for name in kinds.STATES} if kind == "five_states" else {}
    summaries, records = zip(
        *(campaign(kind, "synthetic", engine, states=states, engine=engine) for engine in ("replay", "reload")),
        strict=True,
    )
    jsonschema.validate(summaries[0], SCHEMA)
    fast, slow = ([dataclasses.replace(record, way=None) for record in each] for each in records)
    assert fast == slow
    assert len({record.logits for record in slow}) > 4  # faults are seen
    assert summaries[0]["engine"]["name"] == ("replay" if replayed else "reload")
    assert any(not record.reloaded for record in records[0]) is replayed
    assert replayed or "sequences" in summaries[0]["engine"]["fallback"]
    data = summaries[0]["data"]
    assert (data["synthetic"], data["labels"]) == (True, False)
    assert "accuracy" not in summaries[0]["golden"]


def test_arrays_and_values_that_are_fed_are_what_the_file_is_run_on(kinds, campaign, tmp_path):
    images = np.random.default_rng(0).random((7, 3, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "own.npz", image=images)
    fed, _ = campaign("scaled_boxes", tmp_path / "own.npz", once={"size": np.array([8, 6])}, samples=4)
    assert fed["data"]["fed"] == {"size": [8, 6]}
    np.savez(tmp_path / "own.npz", image=images, size=np.tile([[8, 6]], (7, 1)))
    given, records = campaign("scaled_boxes", tmp_path / "own.npz", "again", samples=4)
    assert given["rates"] == fed["rates"]
    assert records == read_records(tmp_path / "run" / FILE)


def test_a_sequence_is_judged_as_a_whole(kinds, campaign, tmp_path):
    frames = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    np.savez(tmp_path / "own.npz", x=frames)
    states = {name: f"{name}_out" for name in kinds.STATES}
    summary, records = campaign("five_states", tmp_path / "own.npz", states=states, samples=4)
    assert summary["data"]["notes"] == ["a sample is a sequence of 4 steps, and figures are per sequence"]
    assert {record.images for record in records} == {3}


def test_a_faulty_file_carries_its_own_state_to_the_end_of_a_sequence(kinds, tmp_path):
    path = tmp_path / "file.onnx"
    path.write_bytes(kinds.five_states().SerializeToString())
    model, frames = DeployedModel.load(path), np.random.default_rng(0).standard_normal((1, 4, 6)).astype(np.float32)
    patcher = model.patcher()
    weight = next(surface.tensor for surface in model.surfaces if surface.tensor.startswith("w_s0"))
    mask = np.zeros_like(patcher.stored(weight))
    mask[0] = 0x40
    samples = Samples(name="d", arrays={"x": frames}, states={name: f"{name}_out" for name in kinds.STATES})
    last = []
    for file in (patcher.golden, patcher.apply({weight: mask})):
        plain, carried = (
            create(file, Deployment()),
            {name: np.zeros((1, 6), np.float32) for name in kinds.STATES},
        )
        for frame in frames[0]:
            y, *after = plain.run(["y", *samples.states.values()], {"x": frame[None], **carried})
            carried = dict(zip(kinds.STATES, after, strict=True))
        session = Session(file, Deployment())
        found, _ = session.first_answers([bound(samples, session.inputs, [each.name for each in session.outputs])])
        assert found["y"][0, -1].tobytes() == y[0].tobytes()
        last.append(y)
    assert not np.array_equal(*last)
