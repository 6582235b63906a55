"""Reference files with uint8 weights: exported once more, held against the file that was measured, carded as such."""

import json

import make_reference_models as make
import pytest

from resq_deploy.data import load_dataset
from resq_deploy.errors import FailedError
from resq_deploy.records import read_json, sha256_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture
def measured(digits_float, tmp_path):
    """A file of the digits classifier, and the arguments it was exported with."""
    path = tmp_path / "work" / "net.int8.onnx"
    path.parent.mkdir()
    arguments = [str(digits_float), "--dataset", "digits", "--no-gate", *make.DEMO_GATES, "--calibration-images", "30"]
    make.export_int8.command.main([*arguments, "--out", str(path)], standalone_mode=False)
    return path, arguments


def card(file, dataset, monkeypatch, tmp_path):
    """Write a card for a file; return what lies in models/ then, and the card's text."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(make, "MODELS", folder)
    texts = {"command": "python tool.py", "reading": "Read it so.", "stages": "none"}
    make._write("net", make.DIGITS, file=file, dataset=dataset, rows=[("clean", "97 %")], **texts)
    (text,) = folder.glob("*.md")
    return {path.name for path in folder.iterdir()}, text.read_text()


def test_a_file_with_uint8_weights_is_made_beside_the_measured_one(measured, dataset, monkeypatch, tmp_path):
    path, arguments = measured
    made = make.with_uint8_weights(path, [*arguments, "--out", str(path)], dataset)
    assert made.name == "net-uint8.int8.onnx"
    assert sha256_file(path) == read_json(path.with_suffix(".json"))["model"]["sha256"]  # left as it was
    assert read_json(made.with_suffix(".json"))["quantization"]["weights"] == "uint8"
    names, text = card(made, dataset, monkeypatch, tmp_path)
    assert names == {f"net-uint8.int8.{suffix}" for suffix in ("onnx", "json", "md")}
    assert json.loads((tmp_path / "models" / "net-uint8.int8.json").read_text())["model"]["file"] in names
    assert "weights uint8 per channel" in text
    assert "`python tool.py --weight-type uint8`" in text
    assert f"gives its logits, bit by bit, on all {len(dataset.test)} test images" in text


def test_the_card_of_a_measured_file(measured, dataset, monkeypatch, tmp_path):
    names, text = card(measured[0], dataset, monkeypatch, tmp_path)
    assert names == {f"net.int8.{suffix}" for suffix in ("onnx", "json", "md")}
    assert "weights int8 per channel" in text
    assert "uint8 per" not in text
    assert "bit by bit" not in text


def test_another_file_than_the_measured_one_is_refused(measured, dataset):
    path, arguments = measured
    with pytest.raises(FailedError, match=r"-uint8.int8.onnx does not give the logits of .*net.int8.onnx"):
        make.with_uint8_weights(path, [*arguments, "--ranges", "mse"], dataset)
