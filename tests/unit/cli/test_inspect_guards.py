"""What `inspect` says of tensors that are stored three times and voted."""

import json
import sys

import pytest

from resq_deploy import cli
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.protection.guards import guard


@pytest.fixture
def inspect(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["resq-deploy", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def guarded(digits_int8, tmp_path):
    """The digits file with its biases and activation scales guarded, and their names."""
    model = DeployedModel.load(digits_int8)
    names = [found.tensor for found in model.surfaces if found.role in ("bias", "activation-scale")]
    path = tmp_path / "guarded.onnx"
    path.write_bytes(guard(digits_int8.read_bytes(), names))
    return path, names


def test_guards_as_json(inspect, guarded, digits_int8):
    path, names = guarded
    report, before = (json.loads(inspect(file, "--json")) for file in (path, digits_int8))
    assert before["guards"] == []
    assert {entry["tensor"] for entry in report["guards"]} == set(names)
    assert {entry["role"] for entry in report["guards"]} == {"bias", "activation-scale"}
    added = sum(entry["bytes_added"] for entry in report["guards"])
    assert added == pytest.approx(path.stat().st_size - digits_int8.stat().st_size, abs=8)
    assert report["warnings"] == before["warnings"]
    bits, plain = (
        {role: sum(s["bits"] for s in found["surfaces"] if s["role"] == role) for role in ("bias", "weight")}
        for found in (report, before)
    )
    assert bits == {"bias": 3 * plain["bias"], "weight": plain["weight"]}
    assert before["folding"] == []
    assert {found["optimization"]: found["folded"] for found in report["folding"]} == {
        "all": True, "extended": True, "basic": True, "none": False,
    }  # fmt: skip
    stored = {surface["tensor"] for surface in report["surfaces"]}
    assert all(set(entry["copies"]) <= stored for entry in report["guards"])


def test_guards_as_a_table(inspect, guarded, digits_int8):
    path, names = guarded
    printed = " ".join(inspect(path).split())
    assert "Guarded: stored three times and voted" in printed
    assert f"{len(names)} guarded tensors: faults in storage, before the file is loaded, are voted out" in printed
    assert "uarded" not in inspect(digits_int8)
    assert "votes at optimisation all, extended, basic (CPUExecutionProvider of this machine): taken when" in printed
    assert (
        f"votes at optimisation none (CPUExecutionProvider of this machine): {len(names)} of {len(names)} run"
        in printed
    )
    assert "every run is slower; answers are the same" in printed
