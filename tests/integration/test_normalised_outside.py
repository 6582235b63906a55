"""A file that does not normalise by itself: how its images are made ready is said once, and kept beside it."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data import load_dataset, to_model_input

MEAN, STD = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
TOLD = (
    "--mean",
    ",".join(map(str, MEAN)),
    "--std",
    ",".join(map(str, STD)),
    "--channels",
    "bgr",
    "--input-layout",
    "nhwc",
)
SMALL = ("--calibration-images", 60, "--test-images", 100)
GATES = [word for name in ("faults", "transfer-pgd", "square") for word in ("--gate", f"{name}=off")]
IMAGES = ("--images", 100)


@pytest.fixture(scope="module")
def outside(digits_float, tmp_path_factory):
    """The classifier of digits as a file for BGR images, channels last, normalised outside."""
    model = onnx.load(digits_float)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight, bias = (numpy_helper.to_array(tensors[f"conv.{name}"]).astype(np.float64) for name in ("weight", "bias"))
    weight = weight[:, ::-1]  # of BGR
    mean, std = (np.array(part)[None, :, None, None] for part in (MEAN, STD))
    for name, value in (("weight", weight * std), ("bias", bias + (weight * mean).sum(axis=(1, 2, 3)))):
        tensors[f"conv.{name}"].CopyFrom(numpy_helper.from_array(value.astype(np.float32), f"conv.{name}"))
    model.graph.node.insert(0, helper.make_node("Transpose", ["images"], ["input"], perm=[0, 3, 1, 2]))
    del model.graph.input[:]
    # The last three lengths are open, so that the shape does not tell the layout.
    model.graph.input.append(helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", "h", "w", "c"]))
    path = tmp_path_factory.mktemp("outside") / "float.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def exported(resq, outside, tmp_path):
    file = tmp_path / "net.int8.onnx"
    status, _, said = resq("export-int8", outside, "--out", file, "--dataset", "digits", *SMALL, *GATES, *TOLD)
    assert status == 0, said
    assert "near chance" not in said
    return file


def read(path):
    return json.loads(path.read_text())


def test_told_once_it_is_known_to_every_command(resq, exported, outside, tmp_path):
    accuracy = read(exported.with_suffix(".json"))["accuracy"]["int8"]["value"]
    assert accuracy > 0.85
    given = ("--dataset", "digits", *IMAGES)
    status, _, said = resq("faultcamp", exported, *given, "--samples", 20, "--out", tmp_path / "faults")
    assert status == 0, said
    assert "as the sidecar of net.int8.onnx says: --channels bgr --input-layout nhwc --mean 0.2,0.3,0.4" in said
    assert read(tmp_path / "faults/summary.json")["golden"]["accuracy"]["value"] == accuracy
    kept = read(tmp_path / "faults/manifest.json")["options"]["deployment"]["preprocessing"]
    assert kept == read(exported.with_suffix(".json"))["preprocessing"]

    status, _, said = resq("protect", exported, "--out", tmp_path / "safe.onnx", *given, "--gate", "clean=off")
    assert status == 0, said
    after = read(tmp_path / "safe.json")
    assert after["accuracy"]["before"]["value"] == accuracy
    assert after["preprocessing"] == kept
    status, _, said = resq("inspect", tmp_path / "safe.onnx", "--verify", "--dataset", "digits")
    assert status == 0, said


def test_attacks_move_pixels_and_not_what_the_file_is_fed(resq, exported, tmp_path):
    attack = (
        "--attacks",
        "twin-pgd,square",
        "--epsilon",
        "8",
        "--queries",
        20,
        "--steps",
        3,
        "--images",
        40,
        "--workers",
        1,
    )
    out = tmp_path / "attacks"
    status, printed, said = resq("attackcamp", exported, "--dataset", "digits", *attack, "--out", out)
    assert status == 0, said
    assert "check twin_agrees: passed" in printed
    assert "check within_ball: passed" in printed
    summary = read(out / "summary.json")
    assert summary["robust"]["twin-pgd"]["8"]["value"] < summary["clean"]["value"]
    with np.load(out / "adversarial/twin-pgd-8.npz") as kept:
        assert str(kept["channels"]) == "bgr"
        clean = load_dataset("digits").evaluation(40).images[..., ::-1]
        moved = np.abs(kept["images"].astype(int) - clean).max()
    assert 1 <= moved <= 8
    # What was kept is a data set, and answered by a campaign as it was by the attack.
    adversarial = ("--dataset", out / "adversarial/twin-pgd-8.npz", "--images", 40, "--samples", 20)
    status, _, said = resq("faultcamp", exported, *adversarial, "--out", tmp_path / "again")
    assert status == 0, said
    right = read(tmp_path / "again/summary.json")["golden"]["accuracy"]
    assert round(right["value"] * right["n"]) == round(summary["robust_8bit"]["twin-pgd"]["8"]["value"] * 40)


def test_a_contradiction_is_told_and_counts(resq, exported, tmp_path):
    other = ("--dataset", "digits", *IMAGES, "--samples", 20, "--preprocess", "none", "--channels", "rgb")
    status, _, said = resq("faultcamp", exported, *other, "--out", tmp_path / "faults")
    assert status == 0, said
    assert "warning: the sidecar of net.int8.onnx says" in said
    assert "yours counts" in said
    accuracy = read(tmp_path / "faults/summary.json")["golden"]["accuracy"]["value"]
    assert accuracy < read(exported.with_suffix(".json"))["accuracy"]["int8"]["value"]


def test_without_a_word_the_accuracy_is_warned_about(resq, exported, tmp_path):
    (tmp_path / "alone").mkdir()
    file = tmp_path / "alone/net.onnx"
    file.write_bytes(exported.read_bytes())
    given = ("--dataset", "digits", *IMAGES, "--samples", 20, "--input-layout", "nhwc", "--mean", "3", "--std", "1")
    status, _, said = resq("faultcamp", file, *given, "--out", tmp_path / "faults")
    assert status == 0, said
    assert "near chance" in said
    assert "--preprocess" in said


def test_floats_as_the_file_takes_them_give_the_same_everywhere(resq, exported, outside, tmp_path):
    digits = load_dataset("digits")
    arrays = {}
    for key, split in (("", digits.evaluation(100)), ("_train", digits.train.head(100))):
        pixels = to_model_input(split.images)[:, ::-1].transpose(0, 2, 3, 1)
        arrays[f"images{key}"] = ((pixels - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
        arrays[f"labels{key}"] = split.labels
    np.savez(tmp_path / "fed.npz", **arrays, classes=list(digits.classes))
    again = tmp_path / "again.onnx"
    data = ("--dataset", tmp_path / "fed.npz")
    status, _, said = resq("export-int8", outside, "--out", again, *data, *SMALL, *GATES, "--input-layout", "nhwc")
    assert status == 0, said
    accuracy = read(again.with_suffix(".json"))["accuracy"]["int8"]["value"]
    assert accuracy > 0.85
    status, _, said = resq("faultcamp", again, *data, "--samples", 20, "--out", tmp_path / "faults")
    assert status == 0, said
    assert read(tmp_path / "faults/summary.json")["golden"]["accuracy"]["value"] == accuracy
    attack = ("--attacks", "square", "--epsilon", "8", "--queries", 20, "--images", 20, "--workers", 1)
    status, _, said = resq("attackcamp", again, *data, *attack, "--out", tmp_path / "attacks")
    assert status == 2
    assert "say how with --mean and --std" in said
    status, _, said = resq("attackcamp", again, *data, *attack, *TOLD[:4], "--out", tmp_path / "attacks")
    assert status == 0, said
