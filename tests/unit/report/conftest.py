"""Run folders to report on: campaigns that really ran; training and attacks as their commands write them."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.records import RunFolder, write_json

IMAGES = 60
LAYERS = ("conv", "fc")


def estimate(value, spread=0.02, n=100):
    return {"value": value, "low": max(0.0, value - spread), "high": value + spread, "n": n, "confidence": 0.95}


@pytest.fixture(scope="session")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="session")
def coarse_int8(digits_int8):
    """The digits file with its weights rounded to 5 bits: the same tensors, other answers."""
    model = onnx.load(digits_int8)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(np.bitwise_and(values, np.int8(-16)), tensor.name))
    path = digits_int8.with_name("coarse.int8.onnx")
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def faultcamp(tmp_path_factory, digits, digits_int8):
    """Run a campaign once and return its folder."""
    made = {}

    def run(name, model=digits_int8, **values):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("runs") / name
            options = CampaignOptions(**{"images": IMAGES, "workers": 1, **values})
            Campaign(DeployedModel.load(model), digits, options).run(made[name])
        return made[name]

    return run


@pytest.fixture(scope="session")
def single(faultcamp):
    return faultcamp("single", samples=80, fit_per_mbit=100.0)


@pytest.fixture(scope="session")
def coarse_single(faultcamp, coarse_int8):
    return faultcamp("coarse-single", coarse_int8, samples=80)


def ber(rates=(1e-3, 3e-2), chips=4):
    return {"faults": FaultModel.BER, "roles": (Role.WEIGHT,), "ber": rates, "chips": chips}


@pytest.fixture(scope="session")
def curve(faultcamp):
    return faultcamp("curve", **ber())


@pytest.fixture(scope="session")
def coarse_curve(faultcamp, coarse_int8):
    return faultcamp("coarse-curve", coarse_int8, **ber())


def fake_train(path, digits, stages=("baseline", "attack", "fault"), init=None):
    """A train folder: what the command writes, with checkpoints that are only bytes."""
    sha256 = {"init": init, "train": digits.digest("train"), "test": digits.digest("test")}
    levels = {"baseline": (0.95, 0.1), "attack": (0.9, 0.6), "fault": (0.91, 0.62)}
    figures = {
        stage: {"clean": estimate(levels[stage][0], n=360), "robust": estimate(levels[stage][1], n=300)}
        for stage in stages
    }
    with RunFolder.open(path, command="train", options={"seed": 0, "network": "resnet8"}, sha256=sha256):
        for stage in stages:
            (path / f"{stage}.pt").write_bytes(f"{path.name} {stage}".encode())
        ranking = [{"layer": layer, "gradient": 1 / n, "scaled": n} for n, layer in enumerate(LAYERS, start=1)]
        write_json(path / "criticality.json", {"before": ranking, "after": ranking[::-1]})
        write_json(
            path / "summary.json",
            {
                "schema": 1,
                "network": "resnet8",
                "dataset": "digits",
                "attack": {"norm": "linf", "epsilon": 4 / 255, "steps": 10, "knowledge": "white box, float network"},
                "stages": {stage: {"epoch": 1, "validation": found, "test": found} for stage, found in figures.items()},
                "notes": [],
            },
        )
    return path


def fake_attackcamp(path, digits, model, *, surrogate=None, passed=True, level=0.5):
    """An attackcamp folder, as the contract has it."""
    sha256 = {"model": model, "data": digits.digest("test"), "surrogate": surrogate}
    robust = {
        "square": {"2": estimate(level + 0.1), "4": estimate(level)},
        "twin-pgd": {"2": estimate(level), "4": estimate(0.2)},
    }
    options = {"dataset": "digits", "attacks": ["square", "twin-pgd"], "norm": "linf", "queries": 100, "steps": 20}
    settings = {"model_file": "net.onnx"}
    with RunFolder.open(path, command="attackcamp", options=options, sha256=sha256, settings=settings):
        write_json(
            path / "summary.json",
            {
                "schema": 1,
                "clean": estimate(0.9),
                "robust": robust,
                "worst_case": {"2": estimate(level - 0.05), "4": estimate(0.18)},
                "checks": {
                    "falls": {"passed": passed, "figures": {}, "reason": "" if passed else "it rises <b>"},
                    "chance": {"passed": None, "figures": {}, "reason": "one radius"},
                },
                "trustworthy": passed,
                "twin": {"top1_agreement": estimate(0.999, 0.001), "max_logit_difference": 0.03},
            },
        )
    return path


@pytest.fixture(scope="session")
def sha256():
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def everything(tmp_path_factory, digits, digits_int8, single, coarse_single, curve, coarse_curve, sha256):
    """One run of each kind, and two of each campaign; the attacks name a checkpoint of the training."""
    folder = tmp_path_factory.mktemp("everything")
    train = fake_train(folder / "train", digits)
    attacks = fake_attackcamp(folder / "attacks", digits, sha256(digits_int8), surrogate=sha256(train / "fault.pt"))
    return [train, single, coarse_single, curve, coarse_curve, attacks]


@pytest.fixture(scope="session")
def train_folder(digits):
    """Write a train folder."""
    return lambda path, **values: fake_train(path, digits, **values)


@pytest.fixture(scope="session")
def attack_folder(digits):
    """Write an attackcamp folder."""
    return lambda path, model, **values: fake_attackcamp(path, digits, model, **values)


@pytest.fixture
def copied(tmp_path):
    """Copy a run folder, so that a test can break it."""

    def copy(path, **entries):
        target = tmp_path / path.name
        target.mkdir()
        for file in path.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        manifest = json.loads((target / "manifest.json").read_text())
        write_json(target / "manifest.json", {**manifest, **entries})
        return target

    return copy
