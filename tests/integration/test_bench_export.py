"""The short version of tools/bench_export.py: the figures are there and agree; times are never judged."""

import json

import bench_export
import numpy as np
import onnx
import pytest

from resq_deploy.data import load_dataset

pytestmark = pytest.mark.slow

TINY = "--calibration-images 30 --test-images 40 --batch 10 --repeats 1"
VARIANTS = {"ours", "plain_batches", "plain_single"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Digits in a file of their own: each measurement is a process, which so need not import scikit-learn."""
    path = tmp_path_factory.mktemp("images") / "digits.npz"
    digits = load_dataset("digits")
    parts = {"images": digits.test.images[:60], "labels": digits.test.labels[:60]}
    parts |= {"images_train": digits.train.images[:50], "labels_train": digits.train.labels[:50]}
    np.savez(path, **parts, classes=[str(digit) for digit in range(10)])
    return path


@pytest.fixture(scope="module")
def report(digits_float, images, tmp_path_factory):
    """Run the tool once; return the report it wrote, and the place."""
    path = tmp_path_factory.mktemp("bench") / "export.json"
    words = [f"digits={digits_float}", f"--dataset={images}", *TINY.split(), f"--out={path}"]
    assert bench_export.main(words) == 0
    return json.loads(path.read_text()), path


def test_all_figures_are_written(report):
    figures, path = report
    assert figures["schema"] == bench_export.SCHEMA
    assert figures["complete"]
    assert figures["options"]["calibration_images"] == 30
    assert str(path.parent) not in json.dumps(figures)
    network = figures["networks"]["digits"]
    assert set(network) == {"model", "variants", "quality", "ours_to_plain"}
    assert network["model"]["calibration_images"] == 30
    assert set(network["variants"]) == VARIANTS
    for variant in network["variants"].values():
        assert variant["seconds"]["median"] > 0
        assert variant["above_loaded_mb"]["median"] >= 0
        assert variant["repeats_identical"]
    assert set(network["ours_to_plain"]) == VARIANTS - {"ours"}


def test_the_same_ranges_come_out_whatever_the_batches(report):
    variants = report[0]["networks"]["digits"]["variants"]
    assert variants["plain_batches"]["sha256"] == variants["plain_single"]["sha256"]


def test_accuracy_and_integer_share_of_every_file(report):
    quality = report[0]["networks"]["digits"]["quality"]
    assert set(quality) == {"float", *VARIANTS}
    for name, found in quality.items():
        assert found["accuracy"]["n"] == 40
        assert found["accuracy"]["low"] < found["accuracy"]["value"] <= found["accuracy"]["high"]
        assert found["accuracy"]["value"] > 0.8
        assert found["macs"]["share"] == (0.0 if name == "float" else 1.0)
    assert quality["ours"]["bytes"] < quality["float"]["bytes"] / 2


def test_the_table_has_a_row_a_variant(report):
    text = bench_export.table(report[0])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.split(" | ")[1] for row in rows[2:]] == ["none (float)", *bench_export.VARIANTS.values()]
    assert len({row.count("|") for row in rows}) == 1


def test_figures_are_medians_with_extremes():
    assert bench_export._figure([3.0, 1.0, 9.0]) == {"median": 3.0, "low": 1.0, "high": 9.0, "raw": [3.0, 1.0, 9.0]}
    assert bench_export._ratio({"median": 3.0}, {"median": 2.0}) == 1.5
    assert bench_export._ratio({"median": 3.0}, {"median": 0.0}) is None


def test_options_of_our_export():
    words = ["ranges=fault-aware", "equalize=true", "design_ber=1e-4", "activation_percentile=auto"]
    assert bench_export.read_scheme(words) == {
        "ranges": "fault-aware",
        "equalize": True,
        "design_ber": 1e-4,
        "activation_percentile": "auto",
    }


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("digits", "", "give a network as NET=CHECKPOINT.pt or NET=FLOAT.onnx"),
        ("digits=none.onnx", "", "digits: there is no file none.onnx"),
        ("digits={model}", "--repeats 0", "--repeats 0: give a whole number from 1 up"),
        ("digits={model}", "--scheme ranges", "--scheme 'ranges': give KEY=VALUE"),
        ("digits={model}", "--scheme speed=1", "--scheme speed: export has no such option"),
        ("digits={model}", "--scheme ranges=wide", "--ranges wide: give one of minmax"),
        ("digits={broken}", "", "is not an ONNX model"),
    ],
    ids=["no file named", "no such file", "no repeats", "no value", "no such option", "no such ranges", "no model"],
)
def test_bad_input_is_one_line(digits_float, images, tmp_path, capsys, network, options, message):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    words = [network.format(model=digits_float, broken=tmp_path / "broken.onnx"), f"--dataset={images}"]
    assert bench_export.main([*words, *options.split(), f"--out={tmp_path / 'b.json'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench_export: ")
    assert message in line
    onnx.load(digits_float)  # what was given is left as it was
