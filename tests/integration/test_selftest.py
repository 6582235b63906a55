"""Self-tests from the command line to the device: a real file, both kinds of x86 CPU, intervals held against truth."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest

from resq_deploy.campaign.finished import Finished
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.faults.cover import covered, greedy_cover
from resq_deploy.faults.gaps import least
from resq_deploy.pipeline.selftest import LEAST_TOLERANCE, Evidence, share_of
from resq_deploy.quantization.unsigned import store_as_uint8

TOP = pathlib.Path(__file__).parents[2]
TOOL = TOP / "tools" / "without_vnni.py"
MODEL = TOP / "models" / "resnet8-digits-baseline.int8.onnx"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """The file with a bit of eight weights of the first layer flipped."""
    proto = onnx.load(MODEL)
    surface = next(one for one in DeployedModel.load(MODEL).surfaces if one.role == "weight")
    stored = next(one for one in proto.graph.initializer if one.name == surface.tensor)
    values = bytearray(stored.raw_data)
    for place in range(8):
        values[place] ^= 0x40
    stored.raw_data = bytes(values)
    path = tmp_path_factory.mktemp("flipped") / "flipped.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture
def made(resq, tmp_path):
    """Two campaigns and a bundle, made by the commands; return the bundle and what was printed."""
    for seed in ("1", "2"):
        asked = ("--roles", "weight", "--samples", "1200", "--images", "200", "--seed", seed)
        status, _, err = resq("faultcamp", MODEL, "--dataset", "digits", *asked, "--out", tmp_path / seed)
        assert status == 0, err
    bundle = tmp_path / "selftest.npz"
    asked = ("--campaign", tmp_path / "1", "--held-out", tmp_path / "2", "--out", bundle)
    status, out, err = resq("selftest", MODEL, "--dataset", "digits", *asked)
    assert status == 0, err
    return bundle, out


def test_eight_images_reveal_nine_of_ten_harmful_faults_of_another_campaign(resq, made, flipped):
    bundle, out = made
    said = json.loads(np.load(bundle)["bundle.json"])["self_test"]
    assert said["held_out"]["harmful"] > 50
    assert said["coverage"]["low"] >= 0.9
    assert [point["images"] for point in said["curve"]] == list(range(1, 9))
    assert f"{100 * said['coverage']['value']:.2f} %" in out
    status, out, err = resq("selftest", MODEL, "--check", bundle)
    assert (status, err) == (0, "")
    assert "the known answers in 8 runs, in exact arithmetic; the file is the bundle's" in out
    status, out, err = resq("selftest", flipped, "--check", bundle)
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    status, out, _ = resq("selftest", flipped, "--check", bundle, "--json")
    assert (status, json.loads(out)["passed"]) == (1, False)
    status, out, _ = resq("inspect", MODEL, "--verify", "--selftest", bundle)
    assert status == 0
    assert "self-test: the known answers in 8 runs" in out
    assert resq("inspect", flipped, "--verify", "--selftest", bundle)[0] == 1


@pytest.mark.usefixtures("made")
def test_json_holds_what_the_bundle_does(resq, tmp_path):
    asked = ("--campaign", tmp_path / "1", "--out", tmp_path / "b.npz", "--images", "3", "--json")
    status, out, _ = resq("selftest", MODEL, "--dataset", "digits", *asked)
    kept = json.loads(np.load(tmp_path / "b.npz")["bundle.json"])["self_test"]
    said = json.loads(out)
    assert status == 0
    assert said.pop("passed") == ["all", "extended", "basic", "none"]
    assert said == kept


@pytest.fixture(scope="module")
def hidden():
    """Return a function that runs Python with VNNI hidden; skip where that cannot be done."""
    probe = subprocess.run([sys.executable, TOOL, sys.executable, "-c", ""], capture_output=True, check=False)
    if probe.returncode == 3 or Deployment().saturates:
        pytest.skip("there are no two kinds of CPU here")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, TOOL, sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def bundle_of(model, folder, arithmetic="exact", run=None):
    """Make a bundle, here or by `run`."""
    call = run or (lambda *words: subprocess.run([sys.executable, *map(str, words)], check=False))
    asked = ("--samples", "300", "--images", "100", "--arithmetic", arithmetic, "--dataset", "digits")
    call("-m", "resq_deploy", "faultcamp", model, *asked, "--out", folder / "run")
    made = ("--dataset", "digits", "--campaign", folder / "run", "--out", folder / "b.npz")
    call("-m", "resq_deploy", "selftest", model, *made)
    return folder / "b.npz"


def test_answers_of_exact_sums_are_no_false_alarm_on_a_cpu_that_saturates(hidden, tmp_path):
    path = bundle_of(MODEL, tmp_path)
    assert subprocess.run([sys.executable, path, MODEL], check=False).returncode == 0
    done = hidden(path, MODEL)
    assert done.returncode == 2
    assert "this CPU (x86 without VNNI) saturates sums of 8-bit products" in done.stderr
    assert hidden("-m", "resq_deploy", "selftest", MODEL, "--check", path).returncode == 0
    native = hidden("-m", "resq_deploy", "selftest", MODEL, "--check", path, "--arithmetic", "native")
    assert native.returncode == 2


def test_answers_of_a_cpu_that_saturates_are_held_there_and_told_apart_here(hidden, flipped, tmp_path):
    path = bundle_of(MODEL, tmp_path, "native", hidden)
    assert hidden(path, MODEL).returncode == 0
    assert hidden(path, flipped).returncode == 1
    assert hidden("-m", "resq_deploy", "selftest", MODEL, "--check", path).returncode == 0
    done = subprocess.run([sys.executable, path, MODEL], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "and this one does not" in done.stderr


def test_a_file_whose_sums_are_exact_everywhere_is_checked_on_either(hidden, tmp_path):
    proto, model = onnx.load(MODEL), tmp_path / "uint8.onnx"
    store_as_uint8(proto)
    onnx.save(proto, model)
    path = bundle_of(model, tmp_path)
    assert json.loads(np.load(path)["bundle.json"])["sums"] == "any"
    assert subprocess.run([sys.executable, path, model], check=False).returncode == 0
    assert hidden(path, model).returncode == 0


def test_intervals_hold_the_coverage_of_all_faults_there_are(resq, digits_int8, tmp_path):
    """Every fault of two bits of the weights is known: the truth is counted, not estimated."""
    asked = ("--dataset", "digits", "--roles", "weight", "--bits", "6,7", "--images", "60", "--exhaustive")
    assert resq("faultcamp", digits_int8, *asked, "--out", tmp_path / "run")[0] == 0
    evidence = Evidence.read(Finished.read(tmp_path / "run"), DeployedModel.load(digits_int8), load_dataset("digits"))
    harmful, seen = evidence.harm > 0, least(evidence.codes) >= 2 * LEAST_TOLERANCE
    population, held = np.flatnonzero(harmful), 0
    assert len(population) > 500
    for seed in range(100):
        drawn = np.random.default_rng(seed).permutation(population)
        training, test = drawn[:40], drawn[40:100]
        chosen = greedy_cover(seen[training], np.ones(40), 2, np.ones(60, bool))
        revealed = covered(seen, chosen)[-1]
        domain = np.zeros(len(harmful), bool)
        domain[test] = True
        found, truth = share_of(evidence, revealed, domain, 0.95), revealed[drawn[40:]].mean()
        held += found.low <= truth <= found.high
    assert held >= 92
