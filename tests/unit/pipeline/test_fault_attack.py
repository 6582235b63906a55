import dataclasses
import json

import numpy as np
import pytest

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import InputError, OptionError
from resq_deploy.faults.outcomes import top1
from resq_deploy.pipeline import fault_attack as module
from resq_deploy.pipeline.attack_options import AttackOptions
from resq_deploy.pipeline.attack_scene import Scene
from resq_deploy.pipeline.fault_attack import fault_attack, plan_faults

IMAGES = 100
BER = 5e-3
CHIPS = 6


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def model(digits_int8):
    return DeployedModel.load(digits_int8)


@pytest.fixture
def scene(model, dataset, tmp_path):
    return Scene(
        model=model,
        dataset=dataset,
        test=dataset.evaluation(IMAGES),
        options=AttackOptions(images=IMAGES, with_faults=str(BER)),
        folder=tmp_path,
        report=lambda _: None,
    )


@pytest.fixture
def chips(model):
    return plan_faults(model, str(BER), CHIPS, Deployment())


@pytest.fixture
def noisy(scene):
    """Images with so much noise that some are answered wrong."""
    noise = np.random.default_rng(0).integers(-90, 90, scene.test.images.shape)
    return np.clip(scene.test.images + noise, 0, 255).astype(np.uint8)


def test_the_row_of_clean_images_is_that_of_a_campaign(scene, chips, model, dataset, tmp_path):
    matrix = fault_attack(scene, {}, chips)
    options = CampaignOptions(faults=FaultModel.BER, ber=(BER,), chips=CHIPS, roles=(Role.WEIGHT,), images=IMAGES)
    campaign = Campaign(model, dataset, options).run(tmp_path / "run")
    assert matrix["clean"]["fault_free"] == campaign["golden"]["accuracy"]
    (point,) = campaign["curve"]
    assert matrix["clean"]["faulty"]["value"] == pytest.approx(point["accuracy"]["value"])
    assert matrix["clean"]["sdc1"]["value"] == pytest.approx(point["rates"]["sdc1"]["value"])
    assert matrix["faults"]["faults"] == CHIPS


def test_differences_are_paired_by_fault(scene, chips, noisy, model):
    matrix = fault_attack(scene, {"noise": {"90": noisy}}, chips)
    cell = matrix["attacked"]["noise"]["90"]
    accuracy = {"clean": [], "noise": []}
    patcher = model.patcher()
    for place, images in (("clean", scene.test.images), ("noise", noisy)):
        for file in (patcher.golden, *(patcher.apply(patcher.masks(chips.fault(k))) for k in range(CHIPS))):
            session = Session(file, Deployment())
            accuracy[place].append((top1(session.run(session.input.prepare(images))) == scene.test.labels).mean())
    clean, noise = (np.array(values) for values in accuracy.values())
    assert cell["fault_free"]["value"] == noise[0] < clean[0]
    assert cell["drop"]["value"] == pytest.approx((noise[0] - noise[1:]).mean())
    assert cell["drop_beyond_clean"]["value"] == pytest.approx(((noise[0] - noise[1:]) - (clean[0] - clean[1:])).mean())
    assert cell["drop_beyond_clean"]["low"] < cell["drop_beyond_clean"]["value"] < cell["drop_beyond_clean"]["high"]
    assert cell["sdc1_beyond_clean"]["value"] == pytest.approx(cell["sdc1"]["value"] - matrix["clean"]["sdc1"]["value"])
    assert cell["sdc1_beyond_clean"]["value"] > 0  # what is near the boundary is easily pushed across


def test_an_attack_that_does_nothing_changes_nothing(scene, chips):
    cell = fault_attack(scene, {"none": {"0": scene.test.images}}, chips)["attacked"]["none"]["0"]
    for name in ("drop_beyond_clean", "sdc1_beyond_clean", "lost_beyond_clean"):
        assert cell[name]["value"] == 0.0
        assert cell[name]["low"] == pytest.approx(-cell[name]["high"])  # few chips say little of further ones
    assert cell["drop_beyond_clean"]["high"] == pytest.approx(2 * cell["sdc1_beyond_clean"]["high"])  # drops are signed


def test_a_list_is_run_fault_by_fault(scene, model, tmp_path):
    weight = next(surface for surface in model.surfaces if surface.role is Role.WEIGHT)
    scale = next(surface for surface in model.surfaces if surface.role is Role.ACTIVATION_SCALE)
    lines = ["fault,tensor,index,bit", f"a,{weight.tensor},0,7", f"b,{scale.tensor},0,30", f"b,{weight.tensor},1,6"]
    (tmp_path / "faults.csv").write_text("\n".join(lines))
    plan = plan_faults(model, str(tmp_path / "faults.csv"), CHIPS, Deployment())
    matrix = fault_attack(scene, {}, plan)
    assert matrix["faults"] == {"model": "list", "sha256": plan.list_digest, "faults": 2, "due": 0}
    assert matrix["clean"]["faulty"]["n"] == 2


def test_a_fault_that_is_due_scores_nothing_and_has_no_rates(scene, model_file, models, tmp_path):
    """Global pooling raises where the scale of its input is negative."""
    model = DeployedModel.load(model_file("cnn-qdq-channel-s8"))
    (tmp_path / "faults.csv").write_text("tensor,index,bit\nsum_scale,0,31\nsum_scale,0,0")
    test = Split(images=models.images(20), labels=np.zeros(20, np.int64))
    plan = plan_faults(model, str(tmp_path / "faults.csv"), CHIPS, Deployment())
    matrix = fault_attack(dataclasses.replace(scene, model=model, test=test), {"none": {"0": test.images}}, plan)
    assert matrix["faults"]["due"] == 1
    assert matrix["clean"]["faulty"]["value"] == matrix["clean"]["fault_free"]["value"] / 2
    assert matrix["clean"]["sdc1"]["n"] == matrix["attacked"]["none"]["0"]["sdc1_beyond_clean"]["n"] == 1


def test_nothing_right_leaves_nothing_to_lose(scene, chips):
    black = np.zeros_like(scene.test.images)
    session = Session(scene.model.patcher().golden, Deployment())
    always = top1(session.run(session.input.prepare(black[:1])))[0]
    labels = np.where(scene.test.labels == always, (always + 1) % 10, scene.test.labels)
    changed = dataclasses.replace(scene, test=Split(images=scene.test.images, labels=labels))
    cell = fault_attack(changed, {"black": {"1": black}}, chips)["attacked"]["black"]["1"]
    assert cell["fault_free"]["value"] == 0.0
    assert cell["lost"] is None
    assert cell["lost_beyond_clean"] is None
    assert cell["sdc1"] is not None


def test_a_killed_matrix_goes_on_with_the_rows_that_are_missing(scene, chips, noisy, monkeypatch):
    images = {"noise": {"90": noisy}}
    whole = fault_attack(scene, images, chips)
    path = scene.folder / module.STATE
    kept = json.loads(path.read_text())
    del kept["noise 90"]
    path.write_text(json.dumps(kept))
    run = []
    original = module._row
    monkeypatch.setattr(module, "_row", lambda scene, images, plan: (run.append(1), original(scene, images, plan))[1])
    assert fault_attack(scene, images, chips) == whole
    assert len(run) == 1


@pytest.mark.parametrize(
    ("given", "chips", "message"),
    [
        ("0", 20, "give a fault list, or a bit error rate above 0 and up to 0.5"),
        ("0.7", 20, "give a fault list, or a bit error rate above 0 and up to 0.5"),
        ("nan", 20, "give a fault list, or a bit error rate above 0 and up to 0.5"),
        ("1e-3", 1, "--fault-chips 1: give 2 or more"),
    ],
)
def test_wrong_rates_are_one_line(model, given, chips, message):
    with pytest.raises(OptionError, match=message):
        plan_faults(model, given, chips, Deployment())


def test_a_missing_list_is_one_line(model):
    with pytest.raises(InputError, match="cannot read fault list nowhere"):
        plan_faults(model, "nowhere.csv", 20, Deployment())
