"""A study, run for real: its chain, its tables, its resuming, and what a failing step leaves."""

import csv
import fcntl
import importlib.resources
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jsonschema
import paper_figures
import pytest

from resq_deploy.cli.study import check_options
from resq_deploy.errors import RunFolderError
from resq_deploy.pipeline.study_ledger import Ledger
from resq_deploy.pipeline.study_recipe import read_recipe
from resq_deploy.pipeline.study_steps import steps_of
from resq_deploy.report.study_figures import read_study

pytestmark = pytest.mark.slow

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
[faultcamp.critical]
draw = "layers"
roles = "weight"
samples = 40
images = 20
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


def test_layers_stand_beside_what_injection_says_of_them(done):
    """Figures 2 and 3, and the scales of the files."""
    out, _, _ = done
    text = (out / "study.md").read_text()
    assert "is the layer with the largest gradients" in text
    rows = [line for line in text.splitlines() if line.startswith("| fault, 0 | before stage 1 |")]
    assert len(rows) == 2
    assert all(row.endswith("| 10 | 4 |") for row in rows)  # ten layers, four flips in each
    assert "resnet8 on digits: from baseline to fault, accuracy changes clean by" in text
    assert "| stage 2 alone | " in text[text.index("scales, stage by stage") :]
    kept = json.loads((out / "resnet8/digits/seed-0/fault/layers.json").read_text())
    assert len(kept["layers"]) == 10


def test_every_cell_says_by_which_command_it_is_remade(done):
    out, recipe, _ = done
    line = f"resq-deploy study {recipe} --cells resnet8/digits/seed-0/fault --out remade"
    assert line in (out / "study.md").read_text()
    card = (out / "resnet8/digits/seed-0/fault/card.md").read_text()
    assert f"```sh\n{line}\n```" in card
    steps = [step for step in card.splitlines() if step.startswith("resq-deploy") and step != line]
    assert [step.split()[1] for step in steps] == ["train", "train", "export-int8", "faultcamp", "faultcamp"]
    asked = study(*line.split()[2:], "--dry-run").stdout.splitlines()
    assert [each.removesuffix(" --resume") for each in asked] == [each.removesuffix(" --resume") for each in steps]
    assert (out / "study.html").read_text().count('class="plot"') == 3


def test_the_figures_of_a_study_are_drawn_by_themselves(done, tmp_path):
    out, _, _ = done
    assert paper_figures.main([str(out), f"--out={tmp_path}"]) == 0
    assert {path.name for path in tmp_path.glob("*.svg")} == {"figure-2.svg", "figure-2-2.svg", "figure-3.svg"}


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
    assert again.stderr.count(": done before") == 8
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
    assert again.stderr.count(": done before") == 7
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


def test_what_is_done_stays_done_when_other_data_are_run(done, tmp_path):
    out, recipe, _ = done
    copy, more = tmp_path / "out", tmp_path / "small.toml"
    shutil.copytree(out, copy)
    (tmp_path / "tree/a").mkdir(parents=True)  # an image folder that is never read, since its cell is not asked for
    other = str(tmp_path / "tree")
    more.write_text(recipe.read_text().replace('["digits"]', f'["digits", "{other}"]'), encoding="utf-8")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["options"]["datasets"].append(other)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    said = study(str(more), "--out", str(copy), "--resume", "--cells", "*/digits/*/baseline")
    assert said.returncode == 0, said.stderr
    assert [cell["status"] for cell in records(copy)["cells"]] == ["done", "done", "not run", "not run"]
    read = read_recipe(str(recipe), None, check_options)
    assert all(Ledger(copy, {}).has(step) for step in steps_of(read, read.cells())), "data not loaded are believed"
    assert not any(Ledger(copy, {"digits": "other"}).has(step) for step in steps_of(read, read.cells()))


def test_a_step_whose_options_changed_says_which_folder_to_remove(done, tmp_path):
    out, recipe, _ = done
    copy, changed = tmp_path / "out", tmp_path / "small.toml"
    shutil.copytree(out, copy)
    changed.write_text(recipe.read_text().replace("chips = 3", "chips = 4"), encoding="utf-8")
    stale = copy / "resnet8/digits/seed-0/baseline/faultcamp-chips"
    said = study(str(changed), "--out", str(copy), "--resume", "--cells", "*/baseline")
    assert said.returncode == 1
    assert "chips was 3 and is now 4" in said.stderr
    assert f"to run this step anew, remove {stale}" in said.stderr
    shutil.rmtree(stale)
    said = study(str(changed), "--out", str(copy), "--resume", "--cells", "*/baseline")
    assert said.returncode == 0, said.stderr


def test_the_recipe_may_be_spelled_in_another_way_and_retitled(done, tmp_path):
    out, recipe, _ = done
    copy, same = tmp_path / "out", tmp_path / "again.toml"
    shutil.copytree(out, copy)
    same.write_text(recipe.read_text().replace("A small study", "A short study"), encoding="utf-8")
    said = study(str(same), "--out", str(copy), "--resume")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("# A short study")


def test_a_ledger_that_is_broken_says_what_to_do(done, tmp_path):
    out, recipe, _ = done
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    (copy / "steps.json").write_text("{", encoding="utf-8")
    said = study(str(recipe), "--out", str(copy), "--resume")
    assert said.returncode == 2
    assert "steps.json is not valid JSON" in said.stderr
    assert "delete it and --resume" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_data_that_are_not_there_leave_no_folder(tmp_path):
    recipe = tmp_path / "nowhere.toml"
    recipe.write_text(RECIPE.replace('"digits"', '"no-such.npz"'), encoding="utf-8")
    said = study(str(recipe), "--out", str(tmp_path / "out"))
    assert said.returncode == 2
    assert len(said.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("terminate", 130),
        pytest.param(
            "kill", -signal.SIGKILL, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the steps")
        ),
    ],
)
def test_a_study_that_is_told_to_end_ends_its_steps(tmp_path, how, status):
    """A training left behind would hold its folder, and the resumed study could not go on."""
    recipe = tmp_path / "long.toml"
    recipe.write_text(RECIPE.replace("epochs-baseline = 1", "epochs-baseline = 10000"), encoding="utf-8")
    line = [sys.executable, "-m", "resq_deploy", "study", str(recipe), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "out/resnet8/digits/seed-0/train-baseline/metrics.jsonl"
    deadline = time.monotonic() + 600
    while not metrics.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert is_locked(metrics.with_name(".lock"))
    getattr(process, how)()
    _, said = process.communicate(timeout=600)
    assert process.returncode == status
    if how == "terminate":
        assert "interrupted; a run folder goes on with --resume" in said
    while is_locked(metrics.with_name(".lock")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_locked(path: pathlib.Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
