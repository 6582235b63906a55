"""Corruptions in a campaign: figures by hand, resuming, the matrix with faults, and what is no attack."""

import json

import numpy as np
import pytest

from resq_deploy.attacks.ball import Norm
from resq_deploy.attacks.corruptions import CORRUPTIONS, SEVERITIES, corrupted, definitions_for
from resq_deploy.attacks.summary import corruption_figures
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.faults.outcomes import top1
from resq_deploy.pipeline import corruptions as module
from resq_deploy.pipeline.attack import AttackCampaign
from resq_deploy.pipeline.attack_options import AttackOptions
from resq_deploy.pipeline.corruptions import Corruptions
from resq_deploy.report.runs import check_schema

IMAGES = 30


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def model(digits_int8):
    return DeployedModel.load(digits_int8)


def options(**more):
    return AttackOptions(**{"attacks": ("corruptions",), "images": IMAGES, "workers": 1, **more})


@pytest.fixture(scope="module")
def whole(model, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corruptions") / "run"
    return folder, AttackCampaign(model, dataset, options()).run(folder)


def answered_right(model, images, labels):
    session = Session(model.patcher().golden, Deployment())
    return top1(session.run(session.input.prepare(images))) == labels


def test_figures_are_those_of_images_corrupted_by_hand(whole, model, dataset):
    _, summary = whole
    found, test = summary["corruptions"], dataset.evaluation(IMAGES)
    definitions = definitions_for(32, 32)
    assert found["definitions"] == "CIFAR-10-C"
    for name in ("shot-noise", "fog", "jpeg"):
        for severity in (1, 5):
            images = corrupted(test.images, name, severity, definitions=definitions, seed=0)
            right = answered_right(model, images, test.labels)
            assert found["accuracy"][name][str(severity)]["value"] == right.mean()
    rows = found["accuracy"]
    means = [np.mean([rows[name][str(severity)]["value"] for name in CORRUPTIONS]) for severity in SEVERITIES]
    assert [found["by_severity"][str(severity)]["value"] for severity in SEVERITIES] == pytest.approx(means)
    assert found["mean"]["value"] == pytest.approx(np.mean(means))
    assert found["mean"]["low"] < found["mean"]["value"] < found["mean"]["high"]


def test_they_are_no_attack(whole):
    _, summary = whole
    assert summary["worst_case"] == summary["robust"] == {}
    assert summary["threat"]["attacks"] == {"corruptions": "nothing: what sensors do, not attackers"}


def test_a_campaign_goes_on_where_it_was_stopped(whole, model, dataset, tmp_path, monkeypatch):
    folder, summary = whole
    campaign, written = AttackCampaign(model, dataset, options(workers=3)), []
    write = module.write_atomic

    def stopped(path, data):
        write(path, data)
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_atomic", stopped)
    with pytest.raises(KeyboardInterrupt):
        campaign.run(tmp_path / "run")
    with np.load(tmp_path / "run" / "corruptions.npz") as archive:
        assert archive.files == list(CORRUPTIONS[:3])
    monkeypatch.undo()
    assert campaign.run(tmp_path / "run", resume=True) == summary
    assert (tmp_path / "run" / "corruptions.npz").read_bytes() == (folder / "corruptions.npz").read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"PK\x03\x04", "is broken"), ({"fog": np.ones((5, 3), dtype=bool)}, "is not of these images")],
    ids=["half-written", "others"],
)
def test_a_broken_file_is_told(model, dataset, tmp_path, content, words):
    path = tmp_path / "corruptions.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    campaign = Corruptions(model, dataset, dataset.evaluation(IMAGES), options())
    with pytest.raises(RunFolderError, match=words):
        campaign.run(tmp_path, lambda _: None)


def test_faults_are_crossed_with_images_that_take_corruptions_in_turn(model, dataset, tmp_path):
    campaign = AttackCampaign(model, dataset, options(with_faults="5e-3", fault_chips=3))
    summary = campaign.run(tmp_path / "run")
    rows = summary["fault_attack"]["attacked"]["corruptions"]
    assert list(rows) == ["1", "2", "3", "4", "5"]
    test = dataset.evaluation(IMAGES)
    mixed = np.empty_like(test.images)
    for number, name in enumerate(CORRUPTIONS):
        made = corrupted(test.images, name, 4, definitions=definitions_for(32, 32), seed=0)
        mixed[number :: len(CORRUPTIONS)] = made[number :: len(CORRUPTIONS)]
    assert rows["4"]["fault_free"]["value"] == answered_right(model, mixed, test.labels).mean()
    assert np.array_equal(Corruptions(model, dataset, test, options()).mixed()["4"], mixed)


def test_faults_need_something_to_be_crossed_with():
    with pytest.raises(OptionError, match="--with-faults crosses"):
        AttackOptions(attacks=("bit-flip",), with_faults="1e-3")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"epsilon": (4.0,)}, "--epsilon: corruptions have severities from 1 to 5 and no radius"),
        ({"norm": Norm.L2}, "--norm: corruptions"),
        ({"norm": Norm.L2, "epsilon": (0.5,)}, "--epsilon and --norm: corruptions"),
        ({"norm": Norm.L2, "epsilon": (0.5,), "attacks": ("corruptions", "square")}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_a_radius_that_means_nothing_is_said_to(model, dataset, more, words):
    notes = Corruptions(model, dataset, dataset.evaluation(IMAGES), options(**more)).notes
    assert len(notes) == bool(words)
    assert words in " ".join(notes)


def test_a_size_that_was_not_published_is_said(model, dataset, monkeypatch):
    monkeypatch.setattr(Corruptions, "_in_levels", lambda *_: np.zeros((1, 48, 40, 3), np.uint8))
    (note,) = Corruptions(model, dataset, dataset.evaluation(IMAGES), options()).notes
    assert "CIFAR-10-C, made for 32x32 images; these are 48x40" in note


def test_blue_green_red_is_corrupted_as_red_green_blue(model, dataset):
    test = dataset.evaluation(8)
    tinted = test.images.copy()
    tinted[..., 0] //= 2
    there = Corruptions(model, dataset, Split(images=tinted, labels=test.labels), options())
    turned = Split(images=tinted[..., ::-1], labels=test.labels)
    back = Corruptions(model, dataset.in_channels("bgr"), turned, options())
    for severity, images in there.mixed().items():
        assert np.array_equal(back.mixed()[severity], images[..., ::-1])


@pytest.mark.parametrize("as_floats", [False, True], ids=["uint8", "floats in [0, 1]"])
def test_files_that_take_other_images(models, tmp_path, as_floats):
    """Whole levels in [N, H, W, C], and floats as an `.npz` may hold them for a file that takes these."""
    name = "float_cnn" if as_floats else "nhwc_uint8"
    other = DeployedModel.load(models.save(getattr(models, name)(), tmp_path / "other.onnx"))
    images = models.images(8, name)
    if as_floats:
        images = np.rint((images - images.min()) / np.ptp(images) * 255).astype(np.float32) / np.float32(255)
    levels = np.rint(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8) if as_floats else images
    split = Split(images=images, labels=np.zeros(8, dtype=np.int64))
    digits = load_dataset("digits")
    found = Corruptions(other, digits, split, options(images=8))
    figures = found.run(tmp_path / "run", lambda _: None)
    made = corrupted(levels, "fog", 3, definitions=definitions_for(8, 8), seed=0)
    assert figures["accuracy"]["fog"]["3"]["value"] == answered_right(other, made, split.labels).mean()
    assert np.array_equal(found.mixed()["3"][7], made[7])


def test_means_count_images_and_not_corruptions():
    right = {name: np.zeros((5, 4), dtype=bool) for name in ("a", "b")}
    right["a"][:, :2] = True
    right["b"][4, :] = True
    found = corruption_figures(right)
    assert found["accuracy"]["a"]["3"]["value"] == 0.5
    assert found["accuracy"]["b"]["5"] == found["accuracy"]["b"]["5"] | {"value": 1.0, "n": 4}
    assert [found["by_severity"][str(at)]["value"] for at in SEVERITIES] == [0.25] * 4 + [0.75]
    assert found["mean"]["value"] == pytest.approx(0.35)
    assert {found["mean"]["n"], found["by_severity"]["1"]["n"]} == {4}


def test_the_summary_is_as_the_schema_has_it(whole):
    folder, _ = whole
    path = folder / "summary.json"
    check_schema(json.loads(path.read_text()), "attackcamp", path)
