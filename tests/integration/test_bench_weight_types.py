"""The short version of tools/bench_weight_types.py: files and figures agree; times are never judged."""

import json

import bench_weight_types
import numpy as np
import onnx
import pytest

from resq_deploy.data import load_dataset

pytestmark = pytest.mark.slow

TINY = "--calibration-images 30 --test-images 40 --timed-images 20 --batch 10 --threads 1 --repeats 3"
VARIANTS = ["int8", "reduced", "uint8", "switched"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Digits in a file of their own."""
    path = tmp_path_factory.mktemp("images") / "digits.npz"
    digits = load_dataset("digits")
    parts = {"images": digits.test.images[:60], "labels": digits.test.labels[:60]}
    parts |= {"images_train": digits.train.images[:50], "labels_train": digits.train.labels[:50]}
    np.savez(path, **parts, classes=[str(digit) for digit in range(10)])
    return path


@pytest.fixture(scope="module")
def called(digits_float, images, tmp_path_factory):
    """Run the tool; return the report it wrote, and where its files lie."""
    folder = tmp_path_factory.mktemp("bench")

    def run(*more):
        words = [f"digits={digits_float}", f"--dataset={images}", *TINY.split(), f"--files={folder / 'files'}", *more]
        status = bench_weight_types.main([*words, f"--out={folder / 'report.json'}"])
        return status, json.loads((folder / "report.json").read_text()), folder / "files" / "digits"

    return run


def test_figures_of_every_variant(called):
    status, report, folder = called()
    assert (status, report["complete"], report["schema"]) == (0, True, bench_weight_types.SCHEMA)
    assert str(folder) not in json.dumps(report)
    assert {path.name for path in folder.iterdir()} == {"int8.onnx", "reduced.onnx", "uint8.onnx", "made.json"}
    found = report["networks"]["digits"]["variants"]
    assert list(found) == VARIANTS
    for name, figures in found.items():
        assert figures["accuracy"]["n"] == 40
        assert figures["macs"]["share"] == 1.0
        ratio = figures["time_to_int8"]
        assert len(ratio["raw"]) == 3
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        assert (figures["other_answers"] is None) == (name == "reduced")
    assert found["int8"]["time_to_int8"]["raw"] == [1.0] * 3
    assert found["int8"]["sha256"] == found["switched"]["sha256"] != found["uint8"]["sha256"]
    for name in ["uint8", "switched"] if report["machine"]["saturates"] else ["int8", "uint8", "switched"]:
        assert found[name]["bit_equal_to_uint8"], name
        assert found[name]["other_answers"]["value"] == 0.0
    assert not found["reduced"]["bit_equal_to_uint8"]
    text = bench_weight_types.table(report)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(VARIANTS)
    assert len({row.count("|") for row in rows}) == 1
    assert ("which saturates sums" in text) == report["machine"]["saturates"]


def test_files_that_are_there_are_used_and_others_refused(called, capsys):
    _, before, folder = called()
    (folder / "uint8.onnx").write_bytes((folder / "reduced.onnx").read_bytes())
    status, report, _ = called()
    assert status == 0
    sums = {name: report["networks"]["digits"]["variants"][name]["sha256"] for name in VARIANTS}
    assert sums["uint8"] == sums["reduced"] == before["networks"]["digits"]["variants"]["reduced"]["sha256"]
    capsys.readouterr()
    assert called("--scheme", "ranges=mse")[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench_weight_types: ")
    assert "holds files made from something else, or otherwise: give another --files" in line


def test_a_fixed_batch_is_filled_or_refused(digits_float, images, tmp_path, capsys):
    fixed = onnx.load(digits_float)
    for value in (fixed.graph.input[0], fixed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 16
    onnx.save(fixed, tmp_path / "fixed.onnx")
    words = [f"digits={tmp_path / 'fixed.onnx'}", f"--dataset={images}", *TINY.split(), f"--out={tmp_path / 'b.json'}"]
    assert bench_weight_types.main(words) == 0
    found = json.loads((tmp_path / "b.json").read_text())["networks"]["digits"]["variants"]
    assert found["int8"]["accuracy"]["n"] == 32
    capsys.readouterr()
    assert bench_weight_types.main([*words, "--test-images", "15"]) == 2
    assert "15 images do not fill the model's batch of 16: give more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--repeats 0", "--repeats 0: give a whole number from 1 up"),
        ("--scheme weight_type=uint8", "--scheme weight_type: the variants say this, leave it out"),
        ("--scheme speed=1", "--scheme speed: export has no such option"),
    ],
    ids=["no repeats", "a variant's", "no such option"],
)
def test_bad_input_is_one_line(digits_float, images, tmp_path, capsys, options, message):
    words = [f"digits={digits_float}", f"--dataset={images}", *TINY.split(), *options.split()]
    assert bench_weight_types.main([*words, f"--out={tmp_path / 'b.json'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench_weight_types: ")
    assert message in line
