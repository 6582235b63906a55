"""Attack campaigns that need no torch: what is written, what is counted, what any number of workers gives."""

import dataclasses
import json
import multiprocessing

import numpy as np
import pytest

from resq_deploy.attacks.ball import Norm, distance
from resq_deploy.attacks.target import Target
from resq_deploy.attacks.units import shards
from resq_deploy.attacks.workers import run_units
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, FailedError, OptionError, RunFolderError
from resq_deploy.pipeline.attack import AttackCampaign
from resq_deploy.pipeline.attack_kit import AttackKit
from resq_deploy.pipeline.attack_options import AttackOptions

OPTIONS = AttackOptions(attacks=("square",), epsilon=(4.0, 12.0), queries=30, images=230, workers=1)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def model(digits_int8):
    return DeployedModel.load(digits_int8)


@pytest.fixture(scope="module")
def campaign(model, dataset, tmp_path_factory):
    """A finished campaign: its folder, its summary, and the progress it reported."""
    out, told = tmp_path_factory.mktemp("campaign") / "run", []
    summary = AttackCampaign(model, dataset, OPTIONS).run(out, report=told.append)
    return out, summary, told


def test_the_summary_is_that_of_the_design(campaign):
    out, summary, _ = campaign
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary.keys() >= {"clean", "robust", "worst_case", "checks", "trustworthy", "twin"}
    assert list(summary["robust"]) == ["square"]
    assert list(summary["robust"]["square"]) == ["4", "12"]
    estimate = summary["robust"]["square"]["4"]
    assert estimate.keys() == {"value", "low", "high", "n", "confidence"}
    assert estimate["n"] == 230
    assert summary["clean"]["value"] > estimate["value"] > summary["robust"]["square"]["12"]["value"]
    assert summary["worst_case"] == summary["robust"]["square"]
    assert summary["threat"]["epsilon"] == {"4": 4 / 255, "12": 12 / 255}
    assert 1 < summary["queries"]["square"]["12"]["mean"] < 30


def test_without_gradients_it_is_an_upper_bound(campaign):
    _, summary, _ = campaign
    assert summary["twin"] is None
    assert summary["trustworthy"] is None
    assert summary["upper_bound"] is True
    verdicts = {name: check["passed"] for name, check in summary["checks"].items()}
    assert verdicts.pop("within_ball") is verdicts.pop("falls_with_epsilon") is True
    assert set(verdicts.values()) == {None}
    assert "twin-pgd" in summary["checks"]["chance"]["reason"]


def test_adversarial_images_are_a_data_set_in_the_order_of_the_evaluation(campaign, dataset, model):
    out, summary, _ = campaign
    path = out / "adversarial" / "square-12.npz"
    with np.load(path) as archive:
        found = {name: archive[name] for name in archive.files}
    test = dataset.evaluation(230)
    np.testing.assert_array_equal(found["labels"], test.labels)
    assert found["images"].dtype == np.uint8
    assert np.abs(found["images"].astype(int) - test.images).max() == 12
    target = Target(Session(model.patcher().golden, Deployment()))
    right = target.is_right(target.prepared(found["images"]), test.labels)
    assert right.mean() == summary["robust_8bit"]["square"]["12"]["value"]
    read = load_dataset(str(path))
    assert read.classes == dataset.classes
    assert len(read.evaluation(None)) == 184  # a fifth is kept for calibration


def test_progress_counts_units(campaign):
    _, _, told = campaign
    assert [(seen.stage, seen.done, seen.total) for seen in told] == [("square", n, 6) for n in range(7)], (
        "what runs is told before it is done"
    )


def test_only_whole_files_are_left(campaign):
    out, _, _ = campaign
    assert sorted(path.name for path in out.rglob("*.npz")) == ["square-12.npz", "square-4.npz"]


def figures(summary):
    return {key: value for key, value in summary.items() if key != "seconds"}


def test_a_finished_campaign_resumes_to_the_same_figures(campaign, model, dataset):
    out, summary, _ = campaign
    told = []
    again = AttackCampaign(model, dataset, OPTIONS).run(out, resume=True, report=told.append)
    assert again == summary
    assert told == []


def test_an_interrupted_campaign_goes_on_where_it_was(campaign, model, dataset, tmp_path):
    def stop(progress):
        if progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AttackCampaign(model, dataset, OPTIONS).run(tmp_path / "run", report=stop)
    assert len(list((tmp_path / "run" / "adversarial" / "units").iterdir())) == 4
    told = []
    summary = AttackCampaign(model, dataset, OPTIONS).run(tmp_path / "run", resume=True, report=told.append)
    assert summary == campaign[1]
    assert [seen.done for seen in told] == [4, 5, 6]


def test_any_number_of_workers_gives_the_same(campaign, model, dataset, tmp_path):
    options = dataclasses.replace(OPTIONS, workers=2)
    assert AttackCampaign(model, dataset, options).run(tmp_path / "run") == campaign[1]
    assert not multiprocessing.active_children()


def test_fewer_images_are_the_first_of_more(campaign, model, dataset, tmp_path):
    options = dataclasses.replace(OPTIONS, images=100)
    AttackCampaign(model, dataset, options).run(tmp_path / "run")
    few, many = (np.load(out / "adversarial" / "square-12.npz")["images"] for out in (tmp_path / "run", campaign[0]))
    np.testing.assert_array_equal(few, many[:100])


def test_a_broken_unit_is_named(campaign, model, dataset):
    out = campaign[0]
    path = out / "adversarial" / "square-4.npz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunFolderError, match=r"square-4.npz is broken"):
        AttackCampaign(model, dataset, OPTIONS).run(out, resume=True)
    path.write_bytes((out / "adversarial" / "square-12.npz").read_bytes())
    path.unlink()
    assert AttackCampaign(model, dataset, OPTIONS).run(out, resume=True) == campaign[1]


def test_other_options_do_not_resume(campaign, model, dataset):
    with pytest.raises(RunFolderError, match="queries was 30 and is now 31"):
        AttackCampaign(model, dataset, dataclasses.replace(OPTIONS, queries=31)).run(campaign[0], resume=True)


def test_l2(model, dataset, tmp_path):
    options = dataclasses.replace(OPTIONS, norm=Norm.L2, epsilon=(2.0,), images=60)
    AttackCampaign(model, dataset, options).run(tmp_path / "run")
    with np.load(tmp_path / "run" / "adversarial" / "square-2.npz") as archive:
        moved = distance(Norm.L2, archive["images"] / 255, dataset.evaluation(60).images / 255)
        assert 1.9 < moved.max() <= 2.0 + 1e-6
        assert not archive["robust"].all()


def kit(model, dataset, **changes):
    test = dataset.evaluation(200)
    values = {
        "path": model.path,
        "model": model.patcher().golden,
        "deployment": Deployment(),
        "images": test.images,
        "labels": test.labels,
        "norm": Norm.LINF,
        "queries": 2000,
        "steps": 1,
        "seed": 0,
        "surrogate": None,
        "white_box": "",
    }
    return AttackKit(**values | changes)


def test_a_worker_that_dies_is_one_line(model, dataset):
    units = shards("square", "1", 1 / 255, 200)
    results = run_units(kit(model, dataset, queries=200), units * 5, 2)
    next(results)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(FailedError, match="a worker process died"):
        list(results)
    assert not multiprocessing.active_children()


def test_what_a_unit_raises_in_a_worker_is_raised_here(model, dataset):
    units = shards("square", "1", 1 / 255, 200)
    with pytest.raises(OptionError, match="2 queries"):
        list(run_units(kit(model, dataset, queries=2), units, 2))


def scaled(dataset, images):
    test = dataset.evaluation(20)
    return Dataset(
        name="scaled",
        classes=dataset.classes,
        augmentation="none",
        load_training=lambda: dataset.train,
        load_test=lambda: Split(images=images(test.images), labels=test.labels),
    )


def test_pixels_out_of_range_are_refused(model, dataset):
    other = scaled(dataset, lambda images: images.transpose(0, 3, 1, 2).astype(np.float32))
    with pytest.raises(DataError, match=r"pixels in \[0, 1\]"):
        AttackCampaign(model, other, OPTIONS)


def test_float_images_are_attacked_as_they_are(model, dataset, tmp_path):
    other = scaled(dataset, lambda images: images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    summary = AttackCampaign(model, other, OPTIONS).run(tmp_path / "run")
    assert summary["robust"]["square"]["12"]["value"] < summary["clean"]["value"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attacks": ("square", "sqare")}, "unknown attack 'sqare'; attacks are square, hopskipjump"),
        ({"epsilon": (0.0, 4.0)}, "--epsilon 0: give radii above 0, such as 2,4,8"),
        ({"epsilon": (-1.0,), "norm": Norm.L2}, "such as 0.25,0.5,1"),
        ({"epsilon": (float("nan"),)}, "--epsilon nan"),
        ({"epsilon": (300.0,)}, "up to 255"),
        ({"queries": 2}, "--queries 2: give a whole number from 3 up"),
        ({"images": 0}, "--images 0"),
        ({"steps": 0}, "--steps 0"),
        ({"workers": 0}, "--workers 0"),
        ({"attacks": ("transfer-pgd",)}, "give --surrogate"),
    ],
    ids=str,
)
def test_bad_options_are_refused(given, words):
    with pytest.raises(OptionError, match=words):
        AttackOptions(**given)
