"""Protected files from the exporter: what they answer, what is said of them, and the gates that they pass."""

import importlib.resources
import json

import jsonschema
import numpy as np
import onnx
import pytest

from resq_deploy.data import load_dataset
from resq_deploy.deployed.coded import HEALTH, coded_weights
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.votes import find_votes
from resq_deploy.errors import ModelError
from resq_deploy.faults.outcomes import top1
from resq_deploy.pipeline.export import export_source
from resq_deploy.pipeline.float_source import FloatSource
from resq_deploy.pipeline.gates import GateOptions
from resq_deploy.protection.code_bytes import CodeBytes
from resq_deploy.quantization.opset import convert_opset
from resq_deploy.quantization.options import ExportOptions

GATES = GateOptions(gates=("clean",), enforce=False)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def export(digits_float, dataset, tmp_path_factory):
    """Return a function that exports the digits model and gives the file and its sidecar."""
    folder = tmp_path_factory.mktemp("exports")
    made = {}

    def write(source=digits_float, gates=GATES, **given):
        key = str((source, gates.gates, given))
        if key not in made:
            out = folder / f"{len(made)}.onnx"
            options = ExportOptions(calibration_images=60, test_images=100, **given)
            sidecar = export_source(FloatSource(source=source), dataset, out, options, gates)
            assert sidecar == json.loads(out.with_suffix(".json").read_text())
            made[key] = onnx.load(out), sidecar
        return made[key]

    return write


def answers(model, dataset):
    session = Session(model.SerializeToString(), Deployment())
    return session.run(session.input.prepare(dataset.evaluation(100).images))


@pytest.mark.parametrize(
    "given",
    [
        {"guard": "weights"},
        {"guard": "all", "weight_code": "dected", "health": True},
        {"guard": "all", "weight_bits": 6, "format": "qoperator"},
        {"guard": "weights", "weight_type": "uint8", "ranges": "fault-aware"},
        {"guard": "auto", "guard_budget": 3.0, "granularity": "tensor"},
        {"guard": "parameters"},
    ],
    ids=str,
)
def test_a_protected_file_answers_as_the_same_export_without(export, dataset, given, monkeypatch):
    """Codes are made out to cost nothing: in a file as small as this one votes would take fewer bytes."""
    monkeypatch.setattr("resq_deploy.protection.plan.code_bytes", lambda *_, **__: CodeBytes(decoder=1, tensor=1))
    protected, sidecar = export(**given)
    bits = sidecar["quantization"]["weight_bits"]
    unknown_to_it = ("guard", "weight_code", "health", "guard_budget")
    plain = {name: value for name, value in given.items() if name not in unknown_to_it} | {"weight_bits": bits}
    if given.get("ranges") != "fault-aware":  # which reckon with the code
        bare, _ = export(**plain)
        assert answers(protected, dataset).tobytes() == answers(bare, dataset).tobytes()
    guards = sidecar["guards"]
    coded = {entry["tensor"] for entry in guards["tensors"] if entry["by"] != "vote"}
    assert {each.weight for each in coded_weights(protected)} == coded
    assert bool(coded) == (given["guard"] != "parameters")
    voted = {entry["tensor"] for entry in guards["tensors"] if entry["by"] == "vote"}
    assert voted <= {vote.output for vote in find_votes(protected)}
    assert (HEALTH in [value.name for value in protected.graph.output]) == bool(given.get("health"))
    assert guards["health"] == bool(given.get("health"))
    assert sidecar["model"]["bytes"] == len(protected.SerializeToString())


@pytest.mark.parametrize("given", [{}, {"guard": "parameters"}, {"guard": "weights"}, {"weight_bits": 7}], ids=str)
def test_sidecars_fit_their_schema(export, given):
    text = (importlib.resources.files("resq_deploy") / "schemas" / "export-int8.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(export(**given)[1])


def test_the_same_export_gives_the_same_file(digits_float, dataset, tmp_path):
    files = []
    for name in ("a", "b"):
        options = ExportOptions(calibration_images=60, test_images=20, guard="all")
        export_source(FloatSource(source=digits_float), dataset, tmp_path / f"{name}.onnx", options, GATES)
        files.append((tmp_path / f"{name}.onnx").read_bytes())
    assert files[0] == files[1]


def test_what_the_seventh_bit_costs_is_what_two_exports_differ_by(export, dataset):
    _, sidecar = export(guard="weights", weight_bits=6, weight_code="dected")
    cost, images = sidecar["bit_cost"], dataset.validation
    right = []
    for given in ({}, {"weight_bits": 6}):
        model, _ = export(**given)
        session = Session(model.SerializeToString(), Deployment())
        right.append(np.mean(top1(session.run(session.input.prepare(images.images))) == images.labels))
    assert (cost["images"], cost["images_from"], cost["apart"]) == (len(images), "validation", True)
    assert [cost[name]["value"] for name in ("eight_bits", "fewer_bits")] == pytest.approx(right)
    assert cost["points"] == pytest.approx(100 * (right[0] - right[1]))
    assert export()[1]["bit_cost"] is None


def test_where_auto_finds_no_use_for_a_code_weights_keep_their_eighth_bit(export):
    small, sidecar = export(guard="auto", guard_budget=0.1)
    assert sidecar["quantization"]["weights"] == "int8"
    assert sidecar["guards"]["code"] is None
    assert sidecar["bit_cost"] is None
    assert small.SerializeToString() == export(guard="auto", guard_budget=0.1, weight_bits=8)[0].SerializeToString()
    kept, sidecar = export(guard="auto", guard_budget=0.1, weight_bits=7)
    assert sidecar["quantization"]["weight_bits"] == 7
    assert coded_weights(kept) == ()


@pytest.fixture
def old_file(digits_float, tmp_path):
    """The float model in opset 13."""
    onnx.save(convert_opset(onnx.load(digits_float), 13), tmp_path / "old.onnx")
    return tmp_path / "old.onnx"


def test_a_decoder_gets_the_opset_that_it_is_smaller_in(export, old_file):
    opsets = {
        name: export(source=old_file, **given)[1]["quantization"]["opset"]
        for name, given in {
            "plain": {},
            "coded": {"guard": "weights"},
            "asked for": {"guard": "weights", "opset": 13},
        }.items()
    }
    assert opsets == {"plain": 13, "coded": 18, "asked for": 13}


def test_weights_of_fewer_bits_cannot_saturate(export):
    assert export()[1]["native"]["layers"]
    assert export(guard="weights")[1]["native"]["layers"] == []


def test_a_file_that_onnx_cannot_raise_keeps_its_opset(export, old_file, monkeypatch):
    def refused(model, target):
        raise RuntimeError("No Adapter From Version $13 for Gemm")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refused)
    protected, sidecar = export(source=old_file, guard="weights", seed=1)
    assert sidecar["quantization"]["opset"] == 13
    assert coded_weights(protected)
    with pytest.raises(ModelError, match="cannot be converted to opset 18"):
        export(source=old_file, guard="weights", opset=18)
