"""A reference file protected, and hit: single flips in it change no answer, where those in the plain one do."""

import json
import pathlib

import pytest

SOURCE = pathlib.Path(__file__).parents[2] / "models" / "resnet8-digits-baseline.int8.onnx"


@pytest.mark.slow
def test_flips_in_a_protected_reference_file_change_no_answer(resq, tmp_path):
    healing = tmp_path / "healing.onnx"
    status, printed, err = resq("protect", SOURCE, "--out", healing, "--dataset", "digits", "--gate", "clean=0.3")
    assert status == 0, err
    assert "gate clean: passed" in printed
    rates = {}
    for name, file in (("plain", SOURCE), ("healing", healing)):
        out = tmp_path / name
        given = ("--dataset", "digits", "--images", 50, "--samples", 60, "--seed", 3, "--workers", 1)
        status, _, err = resq("faultcamp", file, *given, "--out", out)
        assert status == 0, err
        summary = json.loads((out / "summary.json").read_text())
        rates[name] = {key: summary["rates"][key]["value"] for key in ("masked", "sdc1")}
        assert summary["faults"]["evaluated"] == 60
        assert summary["audit"]["mismatches"] == 0
    assert rates["plain"]["masked"] < 1
    assert rates["healing"] == {"masked": 1, "sdc1": 0}
