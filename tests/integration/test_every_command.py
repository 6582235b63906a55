"""Every command in this process, fed with what the one before it wrote, at the smallest size that goes all the way."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from resq_deploy.data import load_dataset
from resq_deploy.pipeline import demo

TRAIN = {
    "epochs_baseline": 1,
    "epochs_attack": 1,
    "epochs_fault": 1,
    "criticality_batches": 1,
    "validation_images": 10,
    "robust_test_images": 10,
    "train_images": 64,
    "test_images": 40,
    "batch_size": 16,
}
OPTIONS = [word for name, value in TRAIN.items() for word in (f"--{name.replace('_', '-')}", value)]
STUDY = """
[study]
title = "The smallest study"
[grid]
network = ["resnet8"]
dataset = ["digits"]
variant = ["baseline"]
[train]
train-images = 64
epochs-baseline = 1
test-images = 20
robust-test-images = 10
criticality-batches = 1
[export-int8]
no-gate = true
calibration-images = 20
test-images = 40
gate = ["transfer-pgd=off", "square=off", "faults=off"]
[faultcamp.chips]
faults = "ber"
roles = "weight"
ber = "1e-2"
chips = 2
images = 20
"""


@pytest.fixture
def done(resq):
    """Run a command that must end well; return what it printed."""

    def run(*arguments):
        status, printed, err = resq(*arguments)
        assert status == 0, err
        return printed

    return run


@pytest.fixture
def few_digits(tmp_path):
    """Digits enough to go all the way with."""
    digits, path = load_dataset("digits"), tmp_path / "few.npz"
    parts = {"images": digits.test.images[:60], "labels": digits.test.labels[:60]}
    parts |= {"images_train": digits.train.images[:80], "labels_train": digits.train.labels[:80]}
    np.savez(path, **parts, classes=list(digits.classes))
    return path


def read(path):
    return json.loads(path.read_text())


def test_from_training_to_the_report(done, few_digits, tmp_path):
    data, file = ("--dataset", few_digits), tmp_path / "net.int8.onnx"
    train, faults, attacks = (tmp_path / name for name in ("train", "faults", "attacks"))
    assert "fault" in done("train", "--network", "resnet8", *data, *OPTIONS, "--precision", "float32", "--out", train)
    assert {path.name for path in train.glob("*.pt")} == {"baseline.pt", "attack.pt", "fault.pt", "last.pt"}

    gates = done("export-int8", train, *data, "--out", file, "--calibration-images", 20, "--no-gate")
    assert all(f"gate {name}: " in gates for name in ("clean", "transfer-pgd", "square", "faults"))
    sidecar = read(file.with_suffix(".json"))
    surfaces = json.loads(done("inspect", file, "--json"))["surfaces"]
    bits = {role: sum(s["bits"] for s in surfaces if s["role"] == role) for role in {s["role"] for s in surfaces}}
    assert bits["weight"] > 0.9 * sum(bits.values())

    done("faultcamp", file, *data, "--images", 40, "--samples", 20, "--out", faults)
    campaign = read(faults / "summary.json")
    assert campaign["population"]["faults"] == sum(bits.values())
    assert {name: campaign["audit"][name] for name in ("checked", "mismatches")} == {"checked": 20, "mismatches": 0}
    assert campaign["arithmetic"]["name"] == "exact"
    with (faults / "faults.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == 20

    few = ("--images", 20, "--steps", 2, "--queries", 10, "--epsilon", "4,8", "--workers", 1)
    done("attackcamp", file, *data, *few, "--surrogate", train / "fault.pt", "--out", attacks)
    attacked = read(attacks / "summary.json")
    assert set(attacked["robust"]) == {"square", "twin-pgd", "transfer-pgd"}
    for folder in (faults, attacks):
        assert read(folder / "manifest.json")["sha256"]["model"] == sidecar["model"]["sha256"]

    done("report", train, faults, attacks, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f">{topic}<" in page for topic in ("Stage by stage", "Attacks"))


def test_a_study_of_one_cell(done, tmp_path):
    recipe, out = tmp_path / "small.toml", tmp_path / "out"
    recipe.write_text(STUDY, encoding="utf-8")
    printed = done("study", recipe, "--out", out)
    assert [cell["status"] for cell in read(out / "summary.json")["cells"]] == ["done"]
    cell = out / "resnet8" / "digits" / "seed-0" / "baseline"
    with (out / "study.csv").open(encoding="utf-8") as stream:
        rows = {row["metric"]: float(row["value"]) for row in csv.DictReader(stream)}
    assert rows["clean"] == read(cell / "net.int8.json")["accuracy"]["int8"]["value"]
    assert rows["fault"] == read(cell / "faultcamp-chips" / "summary.json")["curve"][0]["accuracy"]["value"]
    assert (out / "study.md").read_text() in printed
    assert "<table" in (out / "study.html").read_text()


def test_the_demo_ends_with_a_table_and_a_page(done, tmp_path, monkeypatch):
    small = demo.DemoOptions(
        training=TRAIN, epsilons=(4.0,), attack_steps=1, ber=(1e-2,), chips=2, samples=4, fault_images=10
    )
    monkeypatch.setattr(demo, "DemoOptions", lambda **given: dataclasses.replace(small, **given))
    out = tmp_path / "demo"
    printed = done("demo", "--out", out, "--seed", 1)
    assert read(out / "manifest.json")["options"]["seed"] == 1
    assert set(read(out / "summary.json")["files"]) == {"baseline", "resq", "protected"}
    assert str(out / "report.html") in printed.replace("\n", "")
    assert "<svg" in (out / "report.html").read_text(encoding="utf-8")
