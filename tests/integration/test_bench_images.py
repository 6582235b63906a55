"""The short version of tools/bench_images.py: campaigns end, what is beyond is what is left; times are not judged."""

import json
import pathlib

import pytest
from bench_images import assess, main

MODEL = pathlib.Path(__file__).parents[2] / "models" / "resnet8-digits-baseline.int8.onnx"


def test_beyond_is_what_the_golden_run_and_as_many_faults_leave():
    few = {"golden": 1.0, "golden, kept": 2.0, "campaign": 12.0, "faults": 100}
    many = {"golden": 5.0, "golden, kept": 7.0, "campaign": 29.0, "faults": 200}
    found = assess(few, many)
    assert found["golden, kept"] == {"seconds": 1.0, "of": 17.0, "share": 1.0 / 17.0}  # 7 + 11 - (12 + 7 - 2)
    assert found["golden"] == {"seconds": 2.0, "of": 16.0, "share": 0.125}


@pytest.mark.slow
def test_both_numbers_of_images_are_measured(tmp_path, capsys):
    out = tmp_path / "images.json"
    some = ["--dataset", "digits", "--images", "60", "300", "--margin", "0.05", "--seeds", "1", "--touch", "0"]
    assert main([str(MODEL), *some, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["complete"]
    (one,) = found["seeds"]
    assert one["few"]["faults"] > 0
    assert one["few"]["a fault"] == one["many"]["a fault"] > 0
    assert one["golden"] == assess(one["few"], one["many"])["golden"]
    assert "| 1 | 300 |" in capsys.readouterr().out


def test_few_images_come_first(tmp_path, capsys):
    wrong = ["x.onnx", "--dataset", "digits", "--images", "300", "60", "--out", str(tmp_path / "out.json")]
    assert main(wrong) == 2
    assert capsys.readouterr().err == "bench_images: --images 300 60: give few images first, then more\n"
