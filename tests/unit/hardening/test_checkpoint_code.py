"""A checkpoint names the module its network comes from; no command imports that unless the user names it as well."""

import dataclasses
import pathlib
import sys

import pytest
import torch

from resq_deploy.cli import main
from resq_deploy.errors import CheckpointError
from resq_deploy.hardening.checkpoint import Checkpoint, load_checkpoint
from resq_deploy.networks.registry import build_network

MODULE = """
import pathlib
from torch import nn

pathlib.Path("ran").touch()


def network(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, num_classes))
"""
NAME = "hostile_module:network"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint of a network whose module leaves the file `ran` in the current folder when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pathlib.Path("hostile_module.py").write_text(MODULE, encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(NAME, num_classes=10, mean=(0.5,) * 3, std=(0.5,) * 3)
    path = tmp_path / "foreign.pt"
    Checkpoint(
        network=NAME,
        classes=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        image_size=32,
        dataset="digits",
        stage="baseline",
        lineage=("baseline",),
        epoch=1,
        metrics={},
        state=network.state_dict(),
    ).save(path)
    sys.modules.pop("hostile_module")
    pathlib.Path("ran").unlink()
    yield path
    sys.modules.pop("hostile_module", None)


@pytest.fixture
def resq(monkeypatch, capsys):
    """Run the command line; return its exit status and what it wrote to standard error."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["resq-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return run


COMMANDS = {
    "export-int8": ("--dataset", "digits", "--out", "net.onnx", "--no-gate", "--test-images", "50"),
    "train": (
        *("--dataset", "digits", "--out", "trained", "--stages", "baseline", "--epochs-baseline", "1"),
        *("--train-images", "64", "--batch-size", "32", "--robust-test-images", "8", "--device", "cpu"),
    ),
    "attackcamp": (
        *("--dataset", "digits", "--out", "attacked", "--attacks", "transfer-pgd", "--images", "20", "--steps", "2"),
        *("--workers", "1"),
    ),
}


def line(command, checkpoint, model):
    source = {
        "export-int8": (checkpoint,),
        "train": ("--init", checkpoint),
        "attackcamp": (model, "--surrogate", checkpoint),
    }
    return command, *source[command], *COMMANDS[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_checkpoint_names(command, checkpoint, digits_int8, resq):
    other = ("--network", "resnet8") if command == "train" else ()  # it takes one in any case
    status, told = resq(*line(command, checkpoint, digits_int8), *other)
    assert not pathlib.Path("ran").exists()
    assert status == 2
    assert told.count("\n") == 1
    assert f"--network {NAME}" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_a_network_that_the_user_names_is_run(command, checkpoint, digits_int8, resq):
    status, told = resq(*line(command, checkpoint, digits_int8), "--network", NAME)
    assert status == 0, told
    assert pathlib.Path("ran").exists()


def test_naming_another_network_does_not_do(checkpoint):
    for named in ("other:network", "resnet8"):
        with pytest.raises(CheckpointError, match=f"is of network {NAME}: give --network {NAME}"):
            load_checkpoint(checkpoint, network=named)
    assert not pathlib.Path("ran").exists()
    assert load_checkpoint(checkpoint, network=NAME).network == NAME


def test_our_own_networks_need_no_name(checkpoint, tmp_path):
    own = dataclasses.replace(load_checkpoint(checkpoint, network=NAME), network="resnet8")
    own.save(tmp_path / "own.pt")
    assert load_checkpoint(tmp_path / "own.pt").network == "resnet8"
