"""The whole line on a network of one's own: weights and a folder of images to a page; resumable, step by step."""

import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.pipeline import own_demo

torch = pytest.importorskip("torch")

NETWORK = """
from torch import nn


def build(num_classes):
    stage = nn.Sequential(nn.Conv2d(3, 12, 5, stride=3), nn.ReLU())
    return nn.Sequential(stage, nn.Flatten(), nn.Linear(12 * 36, num_classes))
"""
SMALL = ("--epochs-attack", 1, "--epochs-fault", 1, "--images", 24)
TOLD = ("--mean", "0.5", "--std", "0.25", "--channels", "bgr")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with code, weights, and images of two classes: a dark or a bright half, in two formats."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_demo, "_BER", "1e-3,1e-2")
    (tmp_path / "halves.py").write_text(NETWORK, encoding="utf-8")
    rng = np.random.default_rng(0)
    for name, columns in (("left", slice(0, 11)), ("right", slice(11, 22))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(0, 160, (22, 22, 3))
            pixels[:, columns] += 60
            form = "webp" if number % 2 else "png"
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "photos" / name / f"{number}.{form}", lossless=True
            )
    names: dict = {}
    exec(NETWORK, names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = names["build"](2)
        train = load_dataset("photos").in_channels("bgr").train
        images, labels = torch.from_numpy(to_model_input(train.images)), torch.from_numpy(train.labels)
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(40):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network((images - 0.5) / 0.25), labels).backward()
            optimiser.step()
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    return tmp_path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_from_weights_and_images_to_a_page(resq, mine):
    line = ("demo", "--network", "halves:build", "--weights", "mine.pth", "--dataset", "photos", *TOLD, *SMALL)
    status, printed, said = resq(*line, "--out", "out")
    assert status == 0, said
    summary = read(mine / "out/summary.json")
    assert set(summary["files"]) == {"baseline", "resq", "protected"}
    assert all(file["accuracy"]["int8"]["value"] > 0.9 for file in summary["files"].values())
    assert summary["attacks"] == ["square", "transfer-pgd", "twin-pgd"]
    assert summary["files"]["protected"]["single"]["rates"]["sdc1"]["value"] == 0
    assert "hardened and protected" in (mine / "out/report.html").read_text(encoding="utf-8")
    assert "worst of" in printed
    for name in summary["files"]:
        assert read(mine / f"out/{name}.int8.json")["preprocessing"]["channels"] == "bgr"

    # The commands that are printed are those that were run; each runs alone.
    lines = [text for text in (mine / "out/commands.sh").read_text().splitlines() if not text.startswith("#")]
    assert lines == summary["commands"]
    assert all(text in said for text in lines)
    alone = next(text for text in lines if "resq-single" in text and "faultcamp" in text)
    assert resq(*shlex.split(alone.replace("out/resq-single", "alone"))[1:])[0] == 0
    assert read(mine / "alone/summary.json")["rates"] == read(mine / "out/resq-single/summary.json")["rates"]

    # A run that was stopped goes on: what is there stays, what is missing is made, and the figures are the same.
    shutil.rmtree(mine / "out/protected-single")
    (mine / "out/summary.json").unlink()
    manifest = read(mine / "out/manifest.json")
    (mine / "out/manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    status, _, said = resq(*line, "--out", "out", "--resume")
    assert status == 0, said
    assert said.count("done already") == len(lines) - 1
    assert read(mine / "out/summary.json")["files"] == summary["files"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--dataset", "digits"), "--dataset is about a network of yours: give --network, too"),
        (("--network", "resnet8"), "say with --dataset what images it is for"),
        (("--network", "resnet8", "--dataset", "digits", "--weights", "nowhere.pth"), "there is no such file"),
        (("--network", "resnet8", "--dataset", "digits", "--mean", "0.5"), "--mean and --std go together"),
        (("--network", "resnet8", "--dataset", "digits", "--images", "0"), "--images 0: give a whole number from 1 up"),
    ],
)
def test_wrong_options_are_one_line(resq, tmp_path, given, words):
    status, _, said = resq("demo", *given, "--out", tmp_path / "out")
    assert status == 2
    assert words in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
