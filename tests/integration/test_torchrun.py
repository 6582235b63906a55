"""Training shared out among the processes that torchrun starts: same files, no worse figures, one line for an error."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from resq_deploy.hardening.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

SHORT = [
    *("--network", "resnet8", "--dataset", "digits", "--train-images", "512", "--epochs-baseline", "4"),
    *("--epochs-attack", "1", "--epochs-fault", "1", "--criticality-batches", "2", "--validation-images", "20"),
    *("--test-images", "200", "--robust-test-images", "20", "--ema", "0.5", "--precision", "float32"),
    *("--device", "cpu"),
]
FILES = {"baseline.pt", "attack.pt", "fault.pt", "last.pt", "metrics.jsonl", "criticality.json", "summary.json"}
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def command(processes, out, *options):
    train = ["-m", "resq_deploy", "train", *SHORT, "--out", str(out), *options]
    return [sys.executable, *train] if processes == 1 else [*LAUNCH, str(processes), *train]


def run(processes, out, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(processes, out, *options), env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def started(halting):
    """Start two processes, of which the first stops after an epoch; return the torchrun above them once it has."""

    def start(out):
        call = halting("resq_deploy.hardening.progress:Progress.save", 2, "train", *SHORT, "--out", out)
        group = subprocess.Popen(
            [*LAUNCH, "2", *call],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not any(map(is_stopped, workers(group))):
            assert group.poll() is None, f"it ended before an epoch was saved: {group.stderr.read()}"
            time.sleep(0.05)
        return group

    return start


def is_stopped(process):
    return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def workers(group):
    """Return the processes that torchrun started; they lead sessions of their own."""
    return [int(word) for word in pathlib.Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def shared(started, tmp_path_factory):
    """A run of two processes, all of which were killed once with their torchrun, and then resumed."""
    out = tmp_path_factory.mktemp("torchrun") / "run"
    with started(out) as group:
        for process in (group.pid, *workers(group)):
            os.kill(process, signal.SIGKILL)
    done = len(lines(out))
    return out, done, run(2, out, "--resume")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    assert run(1, out).returncode == 0
    return out


def test_a_killed_group_goes_on_and_one_process_writes_and_reports(shared):
    out, done, result = shared
    assert result.returncode == 0, result.stderr
    assert done == 1
    assert {entry.name for entry in out.iterdir()} - {".lock", "manifest.json"} == FILES
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["status"], manifest["settings"]["processes"]) == ("done", 2)
    assert [(line["stage"], line["epoch"]) for line in lines(out)] == [
        *(("baseline", epoch) for epoch in range(1, 5)),
        ("attack", 1),
        ("fault", 1),
    ]
    assert result.stdout.count("under PGD-10") == 1
    assert result.stderr.count("resuming after epoch") == 1
    assert "Traceback" not in result.stderr


def test_two_processes_train_as_well_as_one(shared, alone):
    (out, _, _), summaries = shared, []
    for folder in (out, alone):
        summaries.append(json.loads((folder / "summary.json").read_text())["stages"])
    for stage, found in summaries[0].items():
        expected = summaries[1][stage]["test"]["clean"]
        assert found["test"]["clean"]["n"] == expected["n"]
        assert found["test"]["clean"]["value"] == pytest.approx(expected["value"], abs=0.2)
    assert summaries[0]["fault"]["test"]["clean"]["value"] > 0.3, "chance is 0.1"


def test_a_run_of_two_processes_is_resumed_by_one(shared, tmp_path):
    """Only the last stage is left to do again: its state is no other for one process."""
    out = tmp_path / "run"
    shutil.copytree(shared[0], out)
    (out / "fault.pt").unlink()
    payload = torch.load(out / "last.pt", weights_only=True)
    payload["progress"] |= {"epoch": 0, "best_epoch": 0, "best_score": float("-inf")}
    torch.save(payload, out / "last.pt")
    result = run(1, out, "--resume")
    assert result.returncode == 0, result.stderr
    assert load_checkpoint(out / "fault.pt").lineage == ("baseline", "attack", "fault")
    assert json.loads((out / "manifest.json").read_text())["settings"]["processes"] == 1


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (["--epochs-fault", "few"], "'few' is not a valid integer", 2),
        (["--epsilon", "400"], "epsilon is", 2),
        (["--batch-size", "63"], "63 images cannot be shared evenly among 2 processes", 2),
        (["--rate-baseline", "100", "--weight-decay", "1"], "lower the learning rate", 1),
    ],
    ids=["usage", "all at once", "once joined", "diverged"],
)
def test_an_error_ends_all_processes_with_one_line(tmp_path, options, message, status):
    result = run(2, tmp_path / "run", *options)
    assert result.returncode != 0
    (told,) = (line for line in result.stderr.splitlines() if "resq" in line and ": " in line and message in line)
    assert "Traceback" not in result.stderr.partition(told)[0]
    assert re.search(rf"exitcode +: {status} ", result.stderr)


def test_a_process_that_vanishes_ends_the_others(started, tmp_path):
    """Only one of two processes is killed: torchrun or the broken link ends the other."""
    out = tmp_path / "run"
    with started(out) as group:
        first, last = sorted(workers(group), key=is_stopped, reverse=True)
        os.kill(last, signal.SIGKILL)
        os.kill(first, signal.SIGCONT)
        _, told = group.communicate(timeout=900)
    assert group.returncode != 0
    assert told.count("resq-deploy: ") <= 1
    assert torch.load(out / "last.pt", weights_only=True)["progress"]["stage"] == "baseline"
