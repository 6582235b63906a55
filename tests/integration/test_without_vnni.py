"""Both kinds of x86 CPU on one machine: the kernels that saturate, and the figures that must not know."""

import json
import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "without_vnni.py"
MODELS = TOOL.parents[1] / "models"

CODE = """
import json, pathlib, sys
import numpy as np
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
test = load_dataset("digits").test
file = pathlib.Path(sys.argv[1]).read_bytes()
found = {"saturates": Deployment().saturates}
for arithmetic in ("exact", "native"):
    session = Session(file, Deployment(arithmetic=arithmetic))
    found[arithmetic] = float((session.run(session.input.prepare(test.images)).argmax(axis=1) == test.labels).mean())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hidden():
    """Return a function that runs Python with VNNI hidden; skip where that cannot be done."""
    probe = subprocess.run([sys.executable, TOOL, sys.executable, "-c", ""], capture_output=True, check=False)
    if probe.returncode == 3:
        pytest.skip("CPUID cannot be made to fault here")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, TOOL, sys.executable, *arguments], capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize(
    ("name", "exact", "native"), [("baseline", 0.9533, 0.9182), ("resq", 0.9783, 0.8180)], ids=["baseline", "hardened"]
)
def test_exact_accuracy_is_the_cards_and_native_is_what_it_costs(hidden, name, exact, native):
    """Where the kernels saturate, a file with narrow ranges loses most; in exact arithmetic nothing."""
    found = json.loads(hidden("-c", CODE, MODELS / f"resnet8-digits-{name}.int8.onnx").stdout)
    assert found["saturates"]
    assert found["exact"] == pytest.approx(exact, abs=1e-4)
    assert found["native"] == pytest.approx(native, abs=1e-4)


def test_the_arithmetic_of_layers_and_campaigns(hidden):
    """The tests of exact sums and of re-encoded files, on the kernels that do saturate."""
    tests = ["deployed/test_int32_sums.py", "deployed/test_kernels.py", "campaign/engines/test_reencoded.py"]
    unit = TOOL.parents[1] / "tests" / "unit"
    done = hidden("-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(unit / name) for name in tests))
    assert done.returncode == 0, done.stdout[-3000:]


def test_native_figures_say_so(hidden, tmp_path):
    model = MODELS / "resnet8-digits-resq.int8.onnx"
    arguments = ["--dataset", "digits", "--samples", "30", "--images", "40", "--arithmetic", "native"]
    done = hidden("-m", "resq_deploy", "faultcamp", model, *arguments, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "native arithmetic on a CPU that saturates" in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["arithmetic"] == {"name": "native", "cpu_saturates": True}
