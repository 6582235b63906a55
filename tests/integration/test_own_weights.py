"""A network of the user's own as code and weights: exported, and attacked through its gradients, without training."""

import json

import numpy as np
import pytest

from resq_deploy.data import load_dataset
from resq_deploy.data.preprocessing import in_channels

torch = pytest.importorskip("torch")

NETWORK = """
from torch import nn


def build(num_classes):
    return nn.Sequential(nn.Conv2d(1, 12, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 100, num_classes))
"""
PAIR = ("--network", "greynet:build", "--weights", "grey.pth")
TOLD = ("--channels", "gray", "--mean", "0.3", "--std", "0.4")
SMALL = ("--calibration-images", 60, "--test-images", 100)
GATES = [word for name in ("faults", "square") for word in ("--gate", f"{name}=off")]


@pytest.fixture(scope="module")
def state():
    """Weights of a network of grey images, normalised by hand."""
    names: dict = {}
    exec(NETWORK, names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = names["build"](10)
        optimiser = torch.optim.Adam(network.parameters(), 3e-3)
        train = load_dataset("digits").train
        grey = in_channels(train.images, "rgb", "gray")[..., 0][:, None]
        images = (torch.from_numpy(grey).float() / 255 - 0.3) / 0.4
        for _ in range(60):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images), torch.from_numpy(train.labels)).backward()
            optimiser.step()
    return network.state_dict()


@pytest.fixture
def mine(state, tmp_path, monkeypatch):
    """A folder with the code and the weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "greynet.py").write_text(NETWORK, encoding="utf-8")
    torch.save(state, tmp_path / "grey.pth")
    return tmp_path


def read(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_code_and_weights_are_exported_and_attacked(resq, mine):
    data = ("--dataset", "digits")
    status, _, said = resq("export-int8", *PAIR, *TOLD, *data, "--out", "net.onnx", *SMALL, *GATES, "--no-gate")
    assert status == 0, said
    sidecar = read(mine / "net.json")
    assert sidecar["accuracy"]["int8"]["value"] > 0.85
    assert sidecar["preprocessing"] == {"channels": "gray", "layout": None, "scale": 1.0, "mean": [], "std": []}
    assert sidecar["normalises"] == {"mean": [0.3], "std": [0.4]}
    assert {gate["gate"] for gate in sidecar["gates"] if "passed" in gate} == {"clean", "transfer-pgd"}

    few = ("--attacks", "transfer-pgd", "--epsilon", "8", "--steps", 3, "--images", 40, "--workers", 1)
    status, printed, said = resq("attackcamp", "net.onnx", *data, *few, *PAIR, "--out", "attacks")
    assert status == 0, said
    assert "transfer-pgd" in printed
    summary = read(mine / "attacks/summary.json")
    assert summary["robust"]["transfer-pgd"]["8"]["value"] < summary["clean"]["value"]
    assert (mine / "attacks/surrogate.pt").exists()
    with np.load(mine / "attacks/adversarial/transfer-pgd-8.npz") as kept:
        assert kept["images"].shape == (40, 32, 32, 1)

    # The same as a source, and the checkpoint that was made of it as the surrogate.
    again = ("export-int8", "grey.pth", "--network", "greynet:build", *TOLD, *data, "--out", "again.onnx")
    assert resq(*again, *SMALL, *GATES, "--no-gate")[0] == 0
    assert read(mine / "again.json")["model"]["sha256"] == sidecar["model"]["sha256"]
    surrogate = ("--surrogate", "attacks/surrogate.pt", "--network", "greynet:build")
    assert resq("attackcamp", "net.onnx", *data, *few, *surrogate, "--out", "twice")[0] == 0
    assert read(mine / "twice/summary.json")["robust"] == summary["robust"]


def test_what_is_not_said_of_the_weights_is_told(resq, mine):
    options = ("--channels", "gray", "--dataset", "digits", "--out", "net.onnx", *SMALL, *GATES, "--no-gate")
    status, _, said = resq("export-int8", *PAIR, *options)
    assert status == 0
    assert "nothing is said of its normalisation" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--weights", "grey.pth"), "say with --network what they are of"),
        (("nowhere.pt",), "no such file or folder: nowhere.pt"),
        ((), "SOURCE (checkpoint, train folder or float .onnx) and --weights: give one of them"),
        (("grey.pth", *PAIR), "both say what is meant: give one"),
        (
            ("grey.pth",),
            "is no resq-deploy checkpoint: give a file that resq-deploy train wrote; if it holds weights, say",
        ),
        ((*PAIR, "--input-layout", "nhwc"), "networks of torch take [N, C, H, W]"),
        ((*PAIR, "--mean", "0.1,0.2", "--std", "1,1"), "the images have 3 channels, the normalisation is for 2"),
        (PAIR, "expected input[2, 3, 32, 32] to have 1 channels"),
    ],
)
def test_wrong_pairs_are_one_line(resq, mine, given, words):
    status, _, said = resq("export-int8", *given, "--dataset", "digits", "--out", "net.onnx", "--no-gate")
    assert status == 2
    assert words in said
    assert not (mine / "net.onnx").exists()
