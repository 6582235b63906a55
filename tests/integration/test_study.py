"""A study, run for real: its chain, its tables, its resuming, and what a failing step leaves."""

import csv
import fcntl
import importlib.resources
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import jsonschema
import pytest

from resq_deploy.errors import RunFolderError
from resq_deploy.report.study_figures import read_study

RECIPE = """
[study]
title = "A small study"
[grid]
network = ["resnet8"]
dataset = ["digits"]
variant = ["baseline", "fault"]
[train]
train-images = 128
epochs-baseline = 1
epochs-fault = 1
test-images = 20
robust-test-images = 10
criticality-batches = 1
[export-int8]
no-gate = true
calibration-images = 20
test-images = 100
gate = ["transfer-pgd=off", "square=off", "faults=off"]
[faultcamp.chips]
faults = "ber"
roles = "weight"
ber = "1e-2"
chips = 3
images = 50
"""


def study(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "resq_deploy", "study", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished study: its folder, its recipe, and what the command said."""
    folder = tmp_path_factory.mktemp("study")
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    jobs = str(min(2, len(os.sched_getaffinity(0))))
    return folder / "out", recipe, study(str(recipe), "--out", str(folder / "out"), "--jobs", jobs)


def records(out: pathlib.Path):
    return json.loads((out / "summary.json").read_text())


def test_the_tables_hold_the_figures_of_the_run_folders(done):
    out, _, said = done
    assert said.returncode == 0, said.stderr
    assert [cell["status"] for cell in records(out)["cells"]] == ["done", "done"]
    with (out / "study.csv").open() as stream:
        rows = {(row["variant"], row["metric"]): float(row["value"]) for row in csv.DictReader(stream)}
    for variant in ("baseline", "fault"):
        cell = out / "resnet8" / "digits" / "seed-0" / variant
        sidecar = json.loads((cell / "net.int8.json").read_text())
        curve = json.loads((cell / "faultcamp-chips" / "summary.json").read_text())["curve"]
        assert rows[variant, "clean"] == sidecar["accuracy"]["int8"]["value"]
        assert rows[variant, "fault"] == curve[0]["accuracy"]["value"]
    text = (out / "study.md").read_text()
    assert text in said.stdout
    assert "accuracy at bit error rate 0.01, chips" in text
    assert "stage 2 alone" in text
    assert "+10.35 | +12.47" in text
    assert "<table" in (out / "study.html").read_text()


def test_the_summary_fits_its_schema_and_a_broken_one_is_named(done, tmp_path):
    out, _, _ = done
    text = (importlib.resources.files("resq_deploy") / "schemas" / "study.json").read_text(encoding="utf-8")
    jsonschema.validate(records(out), json.loads(text))
    broken = records(out)
    del broken["cells"][1]["status"]
    shutil.copy(out / "manifest.json", tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(broken))
    with pytest.raises(RunFolderError, match=r"summary.json is broken or half-written \(at cells.1: 'status'"):
        read_study(tmp_path)


def test_report_points_to_the_tables_of_a_study(done, tmp_path):
    out, _, _ = done
    line = [sys.executable, "-m", "resq_deploy", "report", str(out), "--out", str(tmp_path / "r.html")]
    said = subprocess.run(line, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert f"is a study: its tables are in {out / 'study.html'}" in said.stderr


def test_what_is_done_is_not_done_again(done):
    out, recipe, _ = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")}
    again = study(str(recipe), "--out", str(out), "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(": done before") == 6
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")} == before


def test_a_file_that_is_gone_is_made_again_and_what_needs_it_stays(done, tmp_path):
    out, recipe, _ = done
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    file = copy / "resnet8" / "digits" / "seed-0" / "fault" / "net.int8.onnx"
    whole = file.read_bytes()
    file.unlink()
    again = study(str(recipe), "--out", str(copy), "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(": done before") == 5
    assert file.read_bytes() == whole


def test_a_step_that_fails_leaves_the_rest(done, tmp_path):
    """A campaign that cannot be: a layer that the network has not."""
    out, recipe, _ = done
    copy, broken = tmp_path / "out", tmp_path / "small.toml"
    shutil.copytree(out, copy)
    broken.write_text(recipe.read_text() + '[faultcamp.nowhere]\nlayers = "no-such-layer"\nsamples = 5\nimages = 5\n')
    said = study(str(broken), "--out", str(copy), "--resume")
    assert said.returncode == 1
    assert "Traceback" not in said.stderr
    last = said.stderr.strip().splitlines()[-1]
    assert "baseline/faultcamp-nowhere failed (exit status 2: " in last
    assert "and 1 more: mend it and --resume" in last
    assert [cell["status"] for cell in records(copy)["cells"]] == ["failed", "failed"]
    assert "0 of 2 cells were run" in (copy / "study.md").read_text()


def test_a_study_that_is_told_to_end_ends_its_steps(tmp_path):
    """A training left behind would hold its folder, and the resumed study could not go on."""
    recipe = tmp_path / "long.toml"
    recipe.write_text(RECIPE.replace("epochs-baseline = 1", "epochs-baseline = 10000"), encoding="utf-8")
    line = [sys.executable, "-m", "resq_deploy", "study", str(recipe), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "out/resnet8/digits/seed-0/train-baseline/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with metrics.with_name(".lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; a run folder goes on with --resume" in said
    with metrics.with_name(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
