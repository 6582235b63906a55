"""The whole line, as a user types it: images, train, export-int8, inspect, faultcamp."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from resq_deploy.hardening.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tiny image-folder tree of random images whose mean colour tells their class."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data") / "colours"
    for split, count in (("train", 10), ("test", 6)):
        for place, label in enumerate(("red", "green", "blue")):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3))
                pixels[..., place] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def resq(*arguments, **keywords):
    call = [sys.executable, "-m", "resq_deploy", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=True, **keywords)


def train_arguments(network, tree, out, *more):
    return [
        *("train", "--network", network, "--dataset", tree, "--out", out),
        *("--epochs-baseline", 1, "--epochs-attack", 1, "--epochs-fault", 1, "--batch-size", 8),
        *("--criticality-batches", 2, "--validation-images", 3, "--robust-test-images", 3, *more),
    ]


@pytest.mark.parametrize("network", ["resnet18", "swin_t"])
def test_an_architecture_goes_all_the_way(network, tree, tmp_path):
    resq(*train_arguments(network, tree, tmp_path / "train"))
    assert {"baseline.pt", "attack.pt", "fault.pt", "metrics.jsonl", "criticality.json", "summary.json"} <= {
        path.name for path in (tmp_path / "train").iterdir()
    }
    file = tmp_path / "net.int8.onnx"
    resq(
        *("export-int8", tmp_path / "train", "--out", file, "--dataset", tree),
        *("--calibration-images", 10, "--no-gate"),
    )
    surfaces = json.loads(resq("inspect", file, "--json").stdout)["surfaces"]
    bits = {role: sum(s["bits"] for s in surfaces if s["role"] == role) for role in {s["role"] for s in surfaces}}
    assert bits["weight"] > 0.9 * sum(bits.values())
    codes = sum(s["bits"] for s in surfaces if s["role"] == "weight" and s["dtype"] == "int8")
    assert codes > 0.98 * bits["weight"]
    resq("faultcamp", file, "--dataset", tree, "--samples", 6, "--audit", 0.5, "--out", tmp_path / "camp")
    summary = json.loads((tmp_path / "camp" / "summary.json").read_text())
    assert summary["golden"]["images"] == 18
    assert (summary["audit"]["mismatches"], summary["audit"]["rules_out"]) == (0, 0.0)  # of so few all are audited


def test_a_training_killed_for_real_resumes_to_the_same_weights(halted, tree, tmp_path):
    more = ("--epochs-baseline", 6)
    resq(*train_arguments("resnet8", tree, tmp_path / "whole", *more))
    call = train_arguments("resnet8", tree, tmp_path / "cut", *more)
    process = halted("resq_deploy.hardening.progress:Progress.save", 4, *call)
    process.kill()
    process.wait()
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 3
    resq(*train_arguments("resnet8", tree, tmp_path / "cut", *more), "--resume")
    for name in ("baseline.pt", "attack.pt", "fault.pt"):
        cut, whole = (load_checkpoint(tmp_path / run / name) for run in ("cut", "whole"))
        assert cut.epoch == whole.epoch
        assert all(torch.equal(tensor, whole.state[key]) for key, tensor in cut.state.items()), name
    assert (tmp_path / "cut" / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_goes_through_all_stages_as_an_eager_one_does(tree, tmp_path):
    losses = {}
    for name, more in (("eager", ()), ("compiled", ("--compile",))):
        arguments = train_arguments("resnet8", tree, tmp_path / name, "--epochs-baseline", 2, "--precision", "float32")
        resq(*arguments, *more)
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses[name] = {(record["stage"], record["epoch"]): record["loss"] for record in records}
    assert list(losses["compiled"]) == [("baseline", 1), ("baseline", 2), ("attack", 1), ("fault", 1)]
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=0.05)


@pytest.mark.parametrize(
    "asked",
    [
        ("--samples", 400),
        ("--samples", 400, "--flip-direction", "1to0:0.7", "--true-cells", 0.5),
        (
            *("--samples", 400, "--faults", "cluster", "--memory-layout", "rows:64", "--cluster-shares", "2x2=1"),
            *("--flip-direction", "1to0", "--true-cells", "rows:2"),
        ),
        ("--faults", "ber", "--ber", 1e-4, "--chips", 200, "--flip-direction", "1to0", "--true-cells", 0.5),
        ("--faults", "stuck-row-1", "--memory-layout", "rows:64"),
    ],
    ids=["single", "true and anti cells", "upsets", "bit errors", "stuck rows"],
)
def test_a_campaign_killed_for_real_resumes_to_the_same_figures(halted, digits_int8, tmp_path, asked):
    arguments = ("faultcamp", digits_int8, "--dataset", "digits", "--images", 100, *asked)
    resq(*arguments, "--out", tmp_path / "whole")
    process = halted("resq_deploy.campaign.store:Store.add", 2, *arguments, "--out", tmp_path / "cut")
    process.kill()
    process.wait()
    assert not (tmp_path / "cut" / "summary.json").exists()
    resq(*arguments, "--out", tmp_path / "cut", "--resume")
    whole, cut = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "cut"))
    assert {**cut, "throughput": 0} == {**whole, "throughput": 0}
    assert (tmp_path / "cut" / "faults.csv").read_bytes() == (tmp_path / "whole" / "faults.csv").read_bytes()
