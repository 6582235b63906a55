"""The short version of tools/bench_any.py: the figures are there, the records agree; times are never judged."""

import json

import pytest
from bench_any import main


@pytest.mark.slow
def test_a_small_detector_is_measured(tmp_path, capsys):
    out = tmp_path / "any.json"
    sizes = ["--size", "96", "--images", "2", "--faults", "6", "--reload-faults", "3"]
    assert main([*sizes, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["complete"]
    assert found["judge"] == "boxes"
    assert found["faults"] == {"replay": 6, "reload": 3}
    assert found["differing"] == 0
    assert found["ratio"] == found["cpu_s_per_fault"]["reload"] / found["cpu_s_per_fault"]["replay"]
    assert "judged as boxes" in capsys.readouterr().out
