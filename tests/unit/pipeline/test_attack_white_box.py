"""Attack campaigns with gradients: what they fool, what their checks say, and how they take a file that hides them."""

import dataclasses
import pathlib

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from resq_deploy.attacks.ball import Norm
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import CheckpointError, OptionError
from resq_deploy.hardening.checkpoint import Checkpoint
from resq_deploy.networks.registry import build_network
from resq_deploy.pipeline.attack import AttackCampaign
from resq_deploy.pipeline.attack_options import AttackOptions

# those of ten classes: the digits are the images that every machine has
REFERENCES = sorted(
    path for path in (pathlib.Path(__file__).parents[3] / "models").glob("*.onnx") if "-gtsrb-" not in path.stem
)
OPTIONS = AttackOptions(
    attacks=("square", "twin-pgd"), epsilon=(4.0, 12.0), queries=60, steps=10, images=120, workers=1
)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def campaign(digits_int8, dataset, tmp_path_factory):
    """The summary of a finished campaign."""
    out = tmp_path_factory.mktemp("campaign") / "run"
    return AttackCampaign(DeployedModel.load(digits_int8), dataset, OPTIONS).run(out)


def verdicts(summary):
    return {name: check["passed"] for name, check in summary["checks"].items()}


def test_gradients_of_the_file_fool_more_than_its_scores(campaign):
    for epsilon in ("4", "12"):
        square, twin = (campaign["robust"][attack][epsilon]["value"] for attack in ("square", "twin-pgd"))
        assert campaign["worst_case"][epsilon]["value"] <= twin <= square
    assert "twin-pgd" not in campaign["queries"]


def test_the_checks_pass_on_a_file_that_hides_nothing(campaign):
    found = verdicts(campaign)
    assert found.pop("transfer") is None
    assert set(found.values()) == {True}, campaign["checks"]
    assert campaign["trustworthy"] is True
    assert campaign["upper_bound"] is False
    assert campaign["twin"]["top1_agreement"]["value"] == 1.0
    assert campaign["checks"]["chance"]["figures"]["accuracy"]["value"] <= 0.1


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_reference_files_fall_to_chance_at_a_large_radius(path, dataset, tmp_path):
    options = dataclasses.replace(OPTIONS, attacks=("twin-pgd",), epsilon=(8.0, 64.0), steps=5, images=40)
    summary = AttackCampaign(DeployedModel.load(path), dataset, options).run(tmp_path / "run")
    assert summary["robust"]["twin-pgd"]["64"]["value"] <= 0.1
    assert summary["robust"]["twin-pgd"]["8"]["value"] < summary["clean"]["value"]
    assert summary["trustworthy"] is None, summary["checks"]
    assert summary["trustworthy_missing"] == ["black_box or transfer"]
    assert False not in verdicts(summary).values()


def with_output(path, nodes, parameters):
    """The same file with more nodes behind its scores, which they read as `scores` and give as `hidden`."""
    model = onnx.load(path)
    name = model.graph.output[0].name
    for node in nodes:
        node.input[:] = [name if given == "scores" else given for given in node.input]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value), parameter) for parameter, value in parameters.items()
    )
    model.graph.output[0].name = "hidden"
    return model


def saturated_logits(path):
    """A last quantizer whose range the right score mostly leaves: what changes beyond it does not show."""
    nodes = [
        helper.make_node("QuantizeLinear", ["scores", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["level"]),
        helper.make_node("Mul", ["level", "factor"], ["hidden"]),
    ]
    parameters = {"scale": np.float32(2 / 127), "zero": np.int8(0), "factor": np.float32(200)}
    return with_output(path, nodes, parameters)


def test_masked_gradients_are_found(digits_int8, dataset, tmp_path):
    path = tmp_path / "masked.onnx"
    onnx.save(saturated_logits(digits_int8), path)
    options = dataclasses.replace(OPTIONS, queries=100)
    summary = AttackCampaign(DeployedModel.load(path), dataset, options).run(tmp_path / "run")
    assert summary["clean"]["value"] > 0.8
    found = verdicts(summary)
    assert found["gradients_present"] is False
    assert found["twin_agrees"] is True
    assert summary["trustworthy"] is False
    # Gradients that pass through the last quantizer find what the others miss, and take their place.
    assert "12" in summary["checks"]["straight_through"]["reason"]
    masked, straight = (summary["robust"][name]["12"]["value"] for name in ("twin-pgd", "twin-pgd-unmasked"))
    assert summary["worst_case"]["12"]["value"] <= straight < masked - 0.1
    assert "passed through what saturates" in summary["threat"]["attacks"]["twin-pgd-unmasked"]
    assert summary["robust"]["square"]["12"]["value"] < masked


def test_scores_so_large_that_softmax_saturates_hide_nothing(campaign, digits_int8, dataset, tmp_path):
    """The gradient of the cross-entropy is 0 in float32; the attacks on the twin do without it."""
    model = with_output(
        digits_int8, [helper.make_node("Mul", ["scores", "factor"], ["hidden"])], {"factor": np.float32(1e3)}
    )
    path = tmp_path / "large.onnx"
    onnx.save(model, path)
    summary = AttackCampaign(DeployedModel.load(path), dataset, OPTIONS).run(tmp_path / "run")
    assert summary["clean"] == campaign["clean"]
    assert summary["trustworthy"] is True, summary["checks"]
    for epsilon, expected in campaign["robust"]["twin-pgd"].items():
        assert summary["robust"]["twin-pgd"][epsilon]["value"] <= expected["value"] + 0.05


def test_a_coarse_input_quantizer_is_attacked_straight_through(digits_int8, dataset, tmp_path):
    """Eight levels of light: small changes are rounded away, and gradients straight through find those that are not."""
    model = onnx.load(digits_int8)
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["coarse" if given == name else given for given in node.input]
    coarse = [
        helper.make_node("QuantizeLinear", [name, "step", "dark"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "twice", "dark"], ["light"]),
        helper.make_node("Mul", ["light", "half"], ["coarse"]),  # onnxruntime merges two pairs that stand side by side
    ]
    for place, node in enumerate(coarse):
        model.graph.node.insert(place, node)
    numbers = {"step": np.float32(1 / 7), "twice": np.float32(2 / 7), "half": np.float32(0.5), "dark": np.uint8(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), key) for key, value in numbers.items())
    path = tmp_path / "coarse.onnx"
    onnx.save(model, path)
    summary = AttackCampaign(DeployedModel.load(path), dataset, OPTIONS).run(tmp_path / "run")
    assert summary["twin"]["top1_agreement"]["value"] == 1.0
    assert summary["robust"]["twin-pgd"]["12"]["value"] <= summary["robust"]["square"]["12"]["value"]


def checkpoint(path, classes, size=32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("resnet8", num_classes=len(classes), mean=(0.5,) * 3, std=(0.5,) * 3, image_size=size)
    Checkpoint(
        network="resnet8",
        classes=classes,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        image_size=size,
        dataset="digits",
        stage="baseline",
        lineage=("baseline",),
        epoch=1,
        metrics={},
        state=network.state_dict(),
    ).save(path)
    return path


def test_transfer_and_auto_pgd_under_l2(digits_int8, dataset, tmp_path):
    options = AttackOptions(
        attacks=("transfer-pgd", "twin-apgd"),
        epsilon=(1.0, 2.0),
        norm=Norm.L2,
        steps=5,
        images=60,
        workers=1,
        surrogate=checkpoint(tmp_path / "float.pt", dataset.classes),
    )
    summary = AttackCampaign(DeployedModel.load(digits_int8), dataset, options).run(tmp_path / "run")
    transfer, apgd = (summary["robust"][attack]["2"]["value"] for attack in ("transfer-pgd", "twin-apgd"))
    assert apgd < transfer <= summary["clean"]["value"]
    assert summary["checks"]["transfer"]["passed"] is True
    assert summary["checks"]["within_ball"]["passed"] is True
    assert summary["checks"]["black_box"]["passed"] is None


@pytest.mark.parametrize(
    ("classes", "size", "words"),
    [("abc", 32, "knows 3 classes and the model 10"), ("0123456789", 40, "40x40 and the model of 32x32")],
)
def test_a_surrogate_of_another_kind_is_refused(digits_int8, dataset, tmp_path, classes, size, words):
    path = checkpoint(tmp_path / "float.pt", tuple(classes), size)
    options = dataclasses.replace(OPTIONS, attacks=("transfer-pgd",), surrogate=path)
    with pytest.raises(CheckpointError, match=words):
        AttackCampaign(DeployedModel.load(digits_int8), dataset, options)


def test_a_surrogate_that_nobody_asked_for_is_refused(tmp_path):
    with pytest.raises(OptionError, match="--surrogate is for transfer-pgd"):
        AttackOptions(attacks=("square",), surrogate=tmp_path / "float.pt")


@pytest.mark.slow
def test_workers_that_load_torch_give_the_same(campaign, digits_int8, dataset, tmp_path):
    options = dataclasses.replace(OPTIONS, workers=2)
    threads = torch.get_num_threads()
    again = AttackCampaign(DeployedModel.load(digits_int8), dataset, options).run(tmp_path / "run")
    assert again == campaign
    assert torch.get_num_threads() == threads
