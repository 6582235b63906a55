"""An attack campaign that is killed in earnest, and goes on."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import bench_attackcamp
import pytest

pytestmark = pytest.mark.slow

MODEL = pathlib.Path(__file__).parents[2] / "models" / "resnet8-digits-baseline.int8.onnx"
NUMBERS = ("--images", "120", "--queries", "60", "--steps", "2", "--epsilon", "4,8")
ARGUMENTS = ("--dataset", "digits", *NUMBERS)
PATIENCE = 600  # seconds until a wait for what must come is given up


WRITTEN = "resq_deploy.attacks.store:write_atomic"  # called for every unit


def call(out, *more):
    return ["attackcamp", MODEL, *ARGUMENTS, *more, "--out", out]


def run(out, *more):
    command = [sys.executable, "-m", "resq_deploy", *map(str, call(out, "--workers", 1, *more))]
    return subprocess.run(command, capture_output=True, text=True)


def units(out):
    return list((out / "adversarial" / "units").glob("[!.]*.npz"))


def children(pid):
    listed = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


@pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="looks for processes under /proc")
def test_a_campaign_killed_twice_ends_with_the_figures_of_one_that_was_not(halted, tmp_path):
    whole = run(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    process = halted(WRITTEN, 2, *call(out, "--workers", 2))
    workers = children(process.pid)
    process.kill()
    process.communicate()
    written = {path.name: path.stat().st_mtime_ns for path in units(out)}
    assert len(written) == 2
    assert not (out / "summary.json").exists()
    deadline = time.monotonic() + PATIENCE
    while any(pathlib.Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    assert not [worker for worker in workers if pathlib.Path(f"/proc/{worker}").exists()], "workers outlived the run"
    interrupted = halted(WRITTEN, 1, *call(out, "--workers", 2, "--resume"), start_new_session=True)
    assert len(units(out)) > len(written)
    os.killpg(interrupted.pid, signal.SIGINT)  # Ctrl-C reaches the workers, too
    interrupted.send_signal(signal.SIGCONT)
    _, err = interrupted.communicate()
    assert interrupted.returncode == 130, err
    assert err.splitlines()[-1] == "resq-deploy: interrupted; a run folder goes on with --resume"
    assert "Traceback" not in err
    assert all((out / "adversarial" / "units" / name).stat().st_mtime_ns == age for name, age in written.items())
    done = run(out, "--resume")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "summary.json").read_text()) == json.loads(
        (tmp_path / "whole" / "summary.json").read_text()
    )
    assert json.loads((out / "manifest.json").read_text())["status"] == "done"
    assert not (out / "adversarial" / "units").exists() or not units(out)


def test_the_benchmark(tmp_path, capsys):
    out = tmp_path / "bench.json"
    numbers = ("--images", "20", "--queries", "8", "--repeats", "1", "--workers", "1", "--toolbox-images", "5")
    assert bench_attackcamp.main([str(MODEL), "--dataset", "digits", *numbers, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "square, 20 images, 1 workers" in printed
    result = json.loads(out.read_text())["result"]
    assert set(result["ratios"]) == {"square_to_bare", "square_few_to_bare_few", "toolbox_to_bare_few"}
    assert 20 < result["sent"]["square"] <= 160
    assert 0.0 <= result["robust"]["toolbox"] <= 1.0


def test_the_benchmark_refuses_what_makes_no_sense(tmp_path, capsys):
    arguments = [str(MODEL), "--dataset", "digits", "--queries", "2", "--out", str(tmp_path / "bench.json")]
    assert bench_attackcamp.main(arguments) == 2
    assert "--queries 2: give a whole number from 3 up" in capsys.readouterr().err
