import dataclasses
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from resq_deploy.campaign.executors import Threads
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, GateError, OptionError
from resq_deploy.faults.outcomes import top1
from resq_deploy.pipeline.gates import Candidate, GateOptions, enforce, run_gates
from resq_deploy.pipeline.transfer import transfer_pgd
from resq_deploy.quantization.export import ExportOptions, export_int8

RADII = (1 / 255, 4 / 255)
OPTIONS = GateOptions(
    enforce=False,
    pgd_images=100,
    pgd_epsilons=RADII,
    steps=3,
    square_images=100,
    square_epsilons=RADII,
    queries=10,
    ber=0.02,
    chips=50,
    fault_images=150,
)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def network(digits_float):
    """The float file in torch."""
    values = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in onnx.load(digits_float).graph.initializer}
    convolution, linear = torch.nn.Conv2d(3, 12, 3, stride=4), torch.nn.Linear(768, 10)
    convolution.load_state_dict({"weight": values["conv.weight"], "bias": values["conv.bias"]})
    linear.load_state_dict({"weight": values["fc.weight"].T, "bias": values["fc.bias"]})
    return torch.nn.Sequential(convolution, torch.nn.ReLU(), torch.nn.Flatten(), linear).eval()


@pytest.fixture(scope="module")
def broken(digits_int8):
    """The int8 file, half the features of its last layer read for other classes: still some accuracy."""
    model = onnx.load(digits_int8)
    (tensor,) = (t for t in model.graph.initializer if t.name == "fc.weight_quantized")
    codes = numpy_helper.to_array(tensor).copy()
    swapped = np.random.default_rng(0).random(codes.shape[0]) < 0.5
    codes[swapped] = codes[swapped][:, ::-1]
    tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))
    return model.SerializeToString()


def right(file, dataset):
    session = Session(file, Deployment())
    test = dataset.evaluation(None)
    return top1(session.run(session.input.prepare(test.images))) == test.labels


@pytest.fixture(scope="module")
def candidate(digits_float, digits_int8, network, dataset):
    """Return a function that makes an int8 file a candidate; its MinMax export is `digits_int8`."""
    float_file = digits_float.read_bytes()

    def make(int8_file=None, **given):
        int8_file = int8_file or digits_int8.read_bytes()
        parts = {
            "int8_file": int8_file,
            "float_file": float_file,
            "int8_right": right(int8_file, dataset),
            "float_right": right(float_file, dataset),
            "network": network,
            "minmax_file": digits_int8.read_bytes,
        }
        return Candidate(**{**parts, **given})

    return make


def by_name(gates):
    return {gate["gate"]: gate for gate in gates}


@pytest.fixture(scope="module")
def passed(candidate, dataset):
    steps = []
    gates = run_gates(candidate(), dataset, OPTIONS, report=steps.append)
    assert steps == [f"gate {name}" for name in GateOptions.DEFAULTS]
    return gates


@pytest.fixture(scope="module")
def failed(candidate, broken, dataset):
    return run_gates(candidate(broken), dataset, OPTIONS)


def test_a_sound_file_passes_every_gate(passed):
    assert [gate["gate"] for gate in passed] == list(GateOptions.DEFAULTS)
    assert all(gate["passed"] and gate["bound"] == GateOptions.DEFAULTS[gate["gate"]] for gate in passed)
    enforce(passed)


def test_a_broken_file_fails_every_gate(failed):
    assert [gate["gate"] for gate in failed] == list(GateOptions.DEFAULTS)
    assert not any(gate["passed"] for gate in failed)
    assert all(gate["figure"] > 3.0 for gate in failed)


@pytest.mark.parametrize(
    ("name", "under"),
    [
        ("clean", ""),
        ("transfer-pgd", " under transfer PGD"),
        ("square", " under the Square attack"),
        ("faults", " under bit errors, against MinMax ranges"),
    ],
    ids=GateOptions.DEFAULTS,
)
def test_the_error_names_gate_figure_bound_and_what_to_do(failed, name, under):
    gate = by_name(failed)[name]
    with pytest.raises(GateError) as raised:
        enforce([gate])
    assert str(raised.value) == (
        f"gate '{name}' failed: the int8 file loses {gate['figure']:.2f} points{under}, the bound is "
        f"{GateOptions.DEFAULTS[name]:.2f}; raise it with --gate {name}=POINTS or export with --no-gate"
    )


def test_enforced_gates_stop_at_the_first_that_fails(candidate, broken, dataset):
    steps = []
    options = dataclasses.replace(OPTIONS, enforce=True, bounds={"clean": 100.0})
    with pytest.raises(GateError, match="faults"):
        run_gates(candidate(broken), dataset, options, report=steps.append)
    assert steps == ["gate clean", "gate faults"]  # before those that take their time


@pytest.mark.parametrize("bound", [3.0, 3.5])
def test_the_bound_itself_is_allowed(candidate, dataset, bound):
    """7 of 200 images are 3.5 points exactly, though 0.835 and 0.8 are not 3.5 apart in floating point."""
    float_right = np.arange(200) < 167
    int8_right = np.arange(200) < 160
    options = GateOptions(bounds={"clean": bound}, gates=("clean",), enforce=False)
    gate = run_gates(candidate(float_right=float_right, int8_right=int8_right), dataset, options)[0]
    assert gate["figure"] == 3.5
    assert gate["passed"] == (bound == 3.5)


def test_clean_is_the_paired_drop(failed, candidate, broken, dataset):
    judged = candidate(broken)
    gate = by_name(failed)["clean"]
    assert gate["lost"] == (judged.float_right & ~judged.int8_right).sum()
    assert gate["gained"] == (~judged.float_right & judged.int8_right).sum()
    assert gate["drop"]["value"] == pytest.approx(gate["float"]["value"] - gate["int8"]["value"])
    assert gate["figure"] == pytest.approx(100 * gate["drop"]["value"])
    assert gate["drop"]["low"] < gate["drop"]["value"] < gate["drop"]["high"]
    assert gate["images"] == len(dataset.test)


def test_the_paired_interval_is_that_of_agresti_and_min(candidate, dataset):
    """Their example: 794 and 86, 150 and 570 of 1,600 approvals; the interval for 880 against 944 is (0.021, 0.059)."""
    cells = {(True, True): 794, (False, True): 86, (True, False): 150, (False, False): 570}
    flags = np.repeat(np.array(list(cells)), list(cells.values()), axis=0)
    options = GateOptions(gates=("clean",), enforce=False)
    judged = candidate(float_right=flags[:, 0], int8_right=flags[:, 1])
    drop = run_gates(judged, dataset, options)[0]["drop"]
    assert drop["value"] == pytest.approx(64 / 1600)
    assert drop["low"] == pytest.approx(0.021, abs=5e-4)
    assert drop["high"] == pytest.approx(0.059, abs=5e-4)


def test_transfer_pgd_judges_the_images_of_transfer_pgd(passed, candidate, network, dataset, digits_int8):
    session = Session(digits_int8.read_bytes(), Deployment())
    gate = by_name(passed)["transfer-pgd"]
    for radius in gate["radii"]:
        expected = transfer_pgd(
            network, session, dataset.validation.head(100), epsilon=radius["epsilon"], steps=3, seed=OPTIONS.seed
        )
        assert radius["float"] == expected.float_accuracy.as_dict()
        assert radius["int8"] == expected.int8_accuracy.as_dict()
    assert [radius["epsilon"] for radius in gate["radii"]] == list(RADII)
    assert gate["figure"] == max(100 * radius["drop"]["value"] for radius in gate["radii"])


def test_attacks_hurt_both_sides_and_more_at_a_larger_radius(passed):
    gates = by_name(passed)
    for name in ("transfer-pgd", "square"):
        small, large = gates[name]["radii"]
        for side in ("float", "int8"):
            assert large[side]["value"] < small[side]["value"] <= gates["clean"][side]["value"] + 0.05


def test_square_says_what_it_spent(passed):
    for radius in by_name(passed)["square"]["radii"]:
        assert all(1.0 < spent <= OPTIONS.queries for spent in radius["queries"].values())


def test_faults_against_itself_is_no_drop_at_all(passed):
    gate = by_name(passed)["faults"]
    assert gate["figure"] == 0.0
    assert gate["drop"]["value"] == 0.0
    assert gate["drop"]["low"] == -gate["drop"]["high"] < 0.0  # chips that agree prove nothing of further ones
    assert gate["int8"] == gate["minmax"]
    assert (gate["chips"], gate["images"], gate["roles"]) == (50, 150, ["weight", "code"])
    assert gate["int8"]["value"] < by_name(passed)["clean"]["int8"]["value"] - 0.02  # faults did arrive


def test_fault_aware_ranges_pass_where_minmax_ranges_would_not(digits_float, candidate, dataset):
    options = ExportOptions(calibration_images=100, ranges="fault-aware", design_ber=0.001)
    export = export_int8(digits_float, dataset, options, described="test")
    few = dataclasses.replace(OPTIONS, gates=("faults",), fault_images=300)
    aware = candidate(export.int8_file, minmax_file=export.minmax_file)
    gate = by_name(run_gates(aware, dataset, few))["faults"]
    assert gate["figure"] < 0
    assert gate["passed"]
    back = candidate(export.minmax_file(), minmax_file=lambda: export.int8_file)
    other = by_name(run_gates(back, dataset, few))["faults"]
    assert other["figure"] == -gate["figure"]
    assert not other["passed"]


def test_what_is_missing_is_recorded_with_the_reason(candidate, dataset):
    gates = by_name(run_gates(candidate(network=None, minmax_file=None), dataset, OPTIONS))
    assert gates["transfer-pgd"] == {
        "gate": "transfer-pgd",
        "not_run": "it takes gradients of the torch checkpoint, and the source is a float ONNX file",
    }
    assert set(gates["faults"]) == {"gate", "not_run"}
    assert "MinMax" in gates["faults"]["not_run"]
    assert gates["clean"]["passed"]
    assert gates["square"]["passed"]
    enforce(list(gates.values()))


def test_a_gate_not_asked_for_is_recorded_as_such(candidate, dataset):
    steps = []
    options = dataclasses.replace(OPTIONS, gates=("clean", "faults"))
    gates = by_name(run_gates(candidate(), dataset, options, report=steps.append))
    assert list(gates) == list(GateOptions.DEFAULTS)
    assert gates["square"] == {"gate": "square", "not_run": "it was not asked for"}
    assert steps == ["gate clean", "gate faults"]


def test_pixels_out_of_range_leave_the_attacks_out(candidate, dataset):

    def unscaled(split):
        return Split(images=split.images.transpose(0, 3, 1, 2).astype(np.float32), labels=split.labels)  # 0 ... 255

    scaled = Dataset(
        name="scaled",
        classes=dataset.classes,
        augmentation="none",
        load_training=lambda: unscaled(dataset.train),
        load_test=lambda: unscaled(dataset.test),
    )
    gates = by_name(run_gates(candidate(minmax_file=None), scaled, OPTIONS))
    assert "[0, 1]" in gates["transfer-pgd"]["not_run"]
    assert gates["square"]["not_run"] == gates["transfer-pgd"]["not_run"]


def test_gates_take_images_and_chips_that_no_reported_figure_uses(passed, dataset, candidate, monkeypatch):
    gates = by_name(passed)
    origin = {name: (gate["images_from"], gate["apart"]) for name, gate in gates.items()}
    assert len(dataset.validation) == 120
    assert origin == {
        "clean": ("test", False),  # the very images of the accuracies that are reported
        "faults": ("test", False),  # 150 are more than there are to validate on
        "transfer-pgd": ("validation", True),
        "square": ("validation", True),
    }
    few = dataclasses.replace(OPTIONS, gates=("faults",), fault_images=100)
    drawn = []
    run = Threads.run

    def recording(threads, plan, portions):
        drawn.append(plan.masks)
        return run(threads, plan, portions)

    monkeypatch.setattr(Threads, "run", recording)
    gate = by_name(run_gates(candidate(), dataset, few))["faults"]
    assert (gate["images_from"], gate["apart"], gate["images"]) == ("validation", True, 100)
    assert drawn[0] == drawn[1]  # paired
    assert len({chip for _, chip in drawn[0]} - set(range(10_000))) == 50


def test_without_training_images_gates_say_that_they_share_those_of_the_figures(candidate, dataset):
    def none():
        raise DataError("no training images")

    tested = Dataset(
        name="tested",
        classes=dataset.classes,
        augmentation="none",
        load_training=none,
        load_test=lambda: dataset.test,
    )
    gate = by_name(run_gates(candidate(), tested, dataclasses.replace(OPTIONS, gates=("square",))))["square"]
    assert (gate["images_from"], gate["apart"]) == ("test", False)


def test_same_seed_same_gates(candidate, broken, failed, dataset):
    assert run_gates(candidate(broken), dataset, OPTIONS) == failed


BARE = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ("art", "torch") else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]

import pathlib
import numpy as np
from resq_deploy.data import load_dataset
from resq_deploy.pipeline.gates import Candidate, GateOptions, run_gates
float_file, int8_file = (pathlib.Path(name).read_bytes() for name in sys.argv[1:])
right = np.ones(5, dtype=bool)
candidate = Candidate(int8_file=int8_file, float_file=float_file, int8_right=right, float_right=right)
for gate in run_gates(candidate, load_dataset("digits"), GateOptions(square_images=20, fault_images=20)):
    print(gate["gate"], gate.get("not_run", gate.get("passed")))
"""


def test_a_core_install_runs_what_it_can(digits_float, digits_int8):
    """Neither torch nor the extra `attacks` can be found."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(digits_float), str(digits_int8)], capture_output=True, text=True
    )
    assert done.stderr == ""
    names, reasons = zip(*(line.split(" ", 1) for line in done.stdout.splitlines()), strict=True)
    assert names == tuple(GateOptions.DEFAULTS)
    assert reasons[0] == "True"
    assert "MinMax" in reasons[1]
    assert "torch checkpoint" in reasons[2]
    assert reasons[3] == "True"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bounds": {"sqaure": 1.0}}, "unknown gate 'sqaure'; gates are clean, faults, transfer-pgd, square"),
        ({"bounds": {"clean": float("nan")}}, "--gate clean=nan"),
        ({"gates": ("clean", "cleaner")}, "unknown gate 'cleaner'"),
        ({"pgd_images": 0}, "pgd_images 0"),
        ({"fault_images": 0}, "fault_images 0"),
        ({"queries": 2}, "queries 2"),
        ({"chips": 49}, "chips 49: give a whole number from 50 up"),
        ({"pgd_epsilons": ()}, "radius"),
        ({"square_epsilons": (4.0,)}, "radii"),
    ],
    ids=str,
)
def test_bad_options_are_refused(given, words):
    with pytest.raises(OptionError, match=words):
        GateOptions(**given)
