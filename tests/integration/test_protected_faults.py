"""A file whose every stored tensor is protected: single flips do nothing, nor do faults within a byte of a weight."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
REFERENCE = ROOT / "models" / "resnet8-digits-baseline.int8.onnx"
RESQ = pathlib.Path(sys.executable).with_name("resq-deploy")
STORED = tuple(role for role in Role if role is not Role.CONSTANT)  # attributes, which no vote can hold


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module", params=[("secded", 7), ("dected", 7)], ids=["secded", "dected"])
def protected(request, tmp_path_factory):
    spec = importlib.util.spec_from_file_location("protected_files", ROOT / "tests" / "unit" / "protected_files.py")
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    proto, _ = files.protected(REFERENCE, request.param, rescaled=True)
    path = tmp_path_factory.mktemp("protected") / "protected.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def masked(path, digits, folder, **values):
    """Run a campaign that must change no output; return its summary."""
    options = CampaignOptions(**{"images": 50, "roles": STORED, "seed": 7, **values})
    summary = Campaign(DeployedModel.load(path), digits, options).run(folder / "run")
    assert summary["faults"]["due"] == 0
    assert summary["rates"]["masked"]["value"] == 1.0
    assert summary["audit"]["mismatches"] == 0
    return summary


def test_no_single_flip_changes_an_output(protected, digits, tmp_path):
    summary = masked(protected, digits, tmp_path, samples=50_000, audit=0.0)  # 100,000 with both codes
    assert summary["engine"] == {"name": "replay", "fallback": None}
    assert summary["faults"]["evaluated"] == 50_000
    idle = {"secded": 0, "dected": 1 / 128}[DeployedModel.load(protected).codes().groups[0].code.name]
    # A flip is seen as well, unless it hits a spare bit that is not decoded.
    weights = summary["detection"]["by_role"]["weight"]["detected"]
    assert weights["low"] <= 1.0 - idle <= weights["high"]


def test_nor_by_reloading_the_file(protected, digits, tmp_path):
    masked(protected, digits, tmp_path, samples=150, engine="reload", images=20)


@pytest.mark.parametrize(
    "values",
    [
        {"faults": FaultModel.WORD},
        {"faults": FaultModel.BURST, "burst": 8, "roles": (Role.WEIGHT,)},
        {"faults": FaultModel.STUCK_AT_1},
    ],
    ids=["word", "burst", "stuck-at-1"],
)
def test_nor_does_a_fault_within_one_value(protected, digits, tmp_path, values):
    masked(protected, digits, tmp_path, samples=3_500, **values)  # 20,000 with both codes and all three


def test_two_flips_in_a_word_do(protected, digits, tmp_path):
    """The same campaign is not blind."""
    model = DeployedModel.load(protected)
    group = model.codes().groups[0]
    rows = ["fault,tensor,index,bit"]
    for number, weight in enumerate(group.weights):
        for edit in group.as_edits(group.broken(weight.start + np.arange(min(weight.count, 256)))):
            rows += [f"{number},{edit.tensor},{i},{b}" for i, b in zip(edit.index, edit.bit, strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    options = CampaignOptions(faults=FaultModel.LIST, fault_list=tmp_path / "list.csv", images=50, audit=1.0)
    summary = Campaign(model, digits, options).run(tmp_path / "run")
    assert summary["rates"]["sdc1"]["value"] > 0.02
    assert summary["rates"]["sdc1_silent"]["value"] == 0.0
    assert summary["audit"] == {**summary["audit"], "mismatches": 0, "rules_out": 0.0}


def test_a_local_cluster_gives_the_figures_of_threads(protected, tmp_path):
    found = []
    for name, more in (("threads", ()), ("dask", ("--scheduler", "local"))):
        out = tmp_path / name
        call = ["faultcamp", protected, "--dataset", "digits", "--out", out, "--images", 40]
        call += ["--faults", "ber", "--ber", "1e-4,3e-3", "--chips", 3, "--roles", "weight,bias", *more]
        done = subprocess.run([RESQ, *map(str, call)], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if " passed" not in line]  # progress, where that takes long
        assert (done.returncode, len(said)) == (0, 1), done.stderr  # what is judged, and no more
        summary = json.loads((out / "summary.json").read_text())
        found.append(((out / "faults.csv").read_bytes(), {**summary, "throughput": 0}))
    assert found[0] == found[1]
