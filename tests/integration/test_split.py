"""Which images judge: all labelled ones of an archive in campaigns, and one share of an undivided folder throughout."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from resq_deploy.data import load_dataset
from resq_deploy.errors import DataError

SMALL = ("--calibration-images", 60, "--no-gate")
GATES = [word for name in ("faults", "transfer-pgd", "square") for word in ("--gate", f"{name}=off")]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """200 digits as DIR/CLASS/*, in webp and bmp."""
    root = tmp_path_factory.mktemp("undivided") / "numbers"
    digits = load_dataset("digits").test
    for number, (image, label) in enumerate(zip(digits.images[:200], digits.labels[:200], strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        if number % 2:
            Image.fromarray(image).save(root / str(label) / f"{number}.webp", lossless=True)
        else:
            Image.fromarray(image).save(root / str(label) / f"{number}.bmp")
    return root


def test_a_share_is_kept_for_later_commands_and_a_contradiction_is_told(resq, folder, digits_float, tmp_path):
    file, data = tmp_path / "net.onnx", ("--dataset", folder)
    status, _, said = resq("export-int8", digits_float, "--out", file, *data, "--split", "0.4", *SMALL, *GATES)
    assert status == 0, said
    sidecar = read(file.with_suffix(".json"))
    assert sidecar["dataset"]["split"] == 0.4
    few = ("--samples", 20, "--out")
    status, _, said = resq("faultcamp", file, *data, *few, tmp_path / "silent")
    assert status == 0, said
    assert "a fixed share of 0.4 of each class" in said
    golden = read(tmp_path / "silent/summary.json")["golden"]["accuracy"]
    assert golden == sidecar["accuracy"]["int8"]
    assert golden["n"] == pytest.approx(80, abs=4)
    status, _, said = resq("faultcamp", file, *data, "--split", "0.3", *few, tmp_path / "other")
    assert status == 0, said
    assert "warning: --split 0.3, and numbers was divided by 0.4 before" in said


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.2"])
def test_a_share_that_is_none_is_one_line(resq, folder, digits_float, tmp_path, share):
    given = ("--dataset", folder, "--split", share, "--out", tmp_path / "net.onnx")
    status, _, said = resq("export-int8", digits_float, *given)
    assert status == 2
    assert "give the share of the images to test on" in said


def test_what_comes_divided_takes_no_share():
    with pytest.raises(DataError, match="digits comes divided into training and test images: leave it out"):
        load_dataset("digits", split=0.3)


def test_campaigns_judge_by_all_labelled_images_of_an_archive(resq, digits_int8, digits_float, tmp_path):
    digits = load_dataset("digits")
    archive = tmp_path / "some.npz"
    np.savez(archive, images=digits.test.images[:50], labels=digits.test.labels[:50], classes=list(digits.classes))
    file, data = tmp_path / "net.int8.onnx", ("--dataset", archive)
    shutil.copy(digits_int8, file)
    status, _, said = resq("faultcamp", file, *data, "--samples", 20, "--out", tmp_path / "all")
    assert status == 0, said
    assert read(tmp_path / "all/summary.json")["golden"]["images"] == 50
    assert "kept for calibration" not in said

    # unless the file was calibrated on a part of them
    made = tmp_path / "made.onnx"
    status, _, said = resq("export-int8", digits_float, "--out", made, *data, *SMALL, *GATES)
    assert status == 0, said
    status, _, said = resq("faultcamp", made, *data, "--samples", 20, "--out", tmp_path / "rest")
    assert status == 0, said
    assert read(tmp_path / "rest/summary.json")["golden"]["images"] == 40
    assert "kept for calibration" in said
