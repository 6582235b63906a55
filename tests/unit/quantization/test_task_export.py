"""Files of other tasks become int8: what judges them, what stays in float, and what is said of it."""

import dataclasses
import importlib.util
import pathlib

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.inputs import Inputs
from resq_deploy.errors import GateError, ModelError, OptionError
from resq_deploy.pipeline.gates import GateOptions
from resq_deploy.pipeline.task_gates import run_task_gates
from resq_deploy.quantization import task_export
from resq_deploy.quantization.answers import Examiner, Labelled, find_task
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.quantization.tail import float_tail, matching
from resq_deploy.quantization.task_export import TaskData, export_task

_SPEC = importlib.util.spec_from_file_location("task_files", pathlib.Path(__file__).parents[1] / "task_files.py")
_FILES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FILES)
detector, words = _FILES.detector, _FILES.words


def pictures(count, labels=True):
    rng = np.random.default_rng(2)
    images = rng.random((count, 1, 16, 16), np.float32)
    boxes = np.tile(np.float32([[1, 4, 4, 30, 30], [-1, 0, 0, 0, 0]]), (count, 1, 1))
    return Labelled(images=Inputs(arrays={"images": images}), labels=boxes if labels else None)


def sentences(count):
    rng = np.random.default_rng(3)
    arrays = {"words": rng.integers(0, 20, count), "more": rng.normal(size=(count, 4)).astype(np.float32)}
    return Labelled(images=Inputs(arrays=arrays), labels=None)


def labelled(count):
    """Sentences whose first output in float is what is right."""
    plain = sentences(count)
    return dataclasses.replace(plain, labels=answers(words().SerializeToString(), plain)[0])


def answers(file, samples):
    return create(file, Deployment()).run(None, dict(samples.images.arrays))


@pytest.fixture
def exported(tmp_path):
    def run(model, samples, outputs=(), judge=None, **options):
        path = tmp_path / "float.onnx"
        onnx.save(model, path)
        prepared = prepare_float_model(path)
        half = len(samples) // 2
        data = TaskData(name="made", calibration=samples[:half], test=samples[half:], digest="0" * 64)
        task = find_task(prepared.SerializeToString(), data.calibration, judge, outputs)
        return export_task(prepared, path, data, task, ExportOptions(**options)), data

    return run


class TestTask:
    def test_it_is_guessed_from_what_the_float_model_gives(self):
        task = find_task(detector().SerializeToString(), pictures(20))
        assert (task.judge.name, task.judge.decode, task.judge.figure) == ("boxes", "yolov8", "map50")
        assert "YOLOv8" in task.reason
        assert not task.classifies

    def test_or_asked_for_on_some_outputs(self):
        task = find_task(words().SerializeToString(), sentences(20), "values:bound=0.2", ("total",))
        assert (task.judge.name, task.judge.bound, task.judge.outputs) == ("values", 0.2, ("total",))
        assert [*task.forms] == ["total"]

    @pytest.mark.parametrize(
        ("judge", "outputs", "error", "told"),
        [
            ("walrus", (), OptionError, "no judge 'walrus'"),
            (None, ("absent",), ModelError, "'absent' is not there"),
            ("boxes:decode=yolov8", ("total",), ModelError, "decoder yolov8 takes"),
        ],
    )
    def test_what_cannot_judge_is_told(self, judge, outputs, error, told):
        with pytest.raises(error, match=told):
            find_task(words().SerializeToString(), sentences(20), judge, outputs)


class TestTail:
    def test_it_begins_behind_the_last_layer(self, tmp_path):
        onnx.save(detector(), tmp_path / "float.onnx")
        model = prepare_float_model(tmp_path / "float.onnx")
        assert set(float_tail(model)) == {"reshape", "sigmoid", "split", "mul", "concat"}
        assert set(matching(model, ["conv*", "Relu"])) == {"conv1", "conv2", "relu"}
        with pytest.raises(OptionError, match=r"--keep-float head\*: no node .* 'conv1', 'conv2'"):
            matching(model, ["head*"])

    def test_scores_beside_boxes_in_pixels_survive_only_in_float(self, exported, monkeypatch):
        kept, data = exported(detector(), pictures(60))
        monkeypatch.setattr("resq_deploy.quantization.task_export.float_tail", lambda _: ())
        lost, _ = exported(detector(), pictures(60))
        golden, near, far = (answers(file, data.test)[0] for file in (kept.float_file, kept.int8_file, lost.int8_file))
        assert np.abs(near[:, 4:] - golden[:, 4:]).max() < 0.03
        assert len(np.unique(far[:, 4:])) <= 5
        assert kept.compared.same.all()
        assert not lost.compared.same.all()

    def test_a_layer_is_kept_where_it_is_asked_for(self, exported):
        made, _ = exported(detector(), pictures(40), keep_float=("conv2",))
        stored = {tensor.name for tensor in onnx.load_from_string(made.int8_file).graph.initializer}
        assert "w2" in stored
        assert "w1" not in stored
        assert made.sidecar["adjustments"]["ranges"]["not_adjusted"] == ["w2"]
        assert {"conv2", "concat"} <= set(made.sidecar["quantization"]["in_float"])


class TestExport:
    @pytest.mark.parametrize("form", ["qdq", "qoperator"])
    def test_a_detector(self, exported, form):
        made, data = exported(detector(), pictures(60), format=form)
        said = made.sidecar
        assert said["task"]["judge"]["name"] == "boxes"
        assert said["task"]["outputs"][0]["relative_error"] < 0.05
        assert said["task"]["outputs"][0]["cosine"] > 0.99
        quality = said["task"]["quality"]
        assert quality["figure"] == "map50"
        assert quality["drop"]["low"] <= quality["float"] - quality["int8"] <= quality["drop"]["high"]
        assert said["integer_share"]["share"] > 0.5
        assert [entry["layer"] for entry in said["resemblance"]["layers"]] == ["conv1", "conv2"]
        assert said["resemblance"]["warnings"] == []
        assert made.compared.agreement.value == said["agreement"]["value"] > 0.6
        assert len(made.compared.same) == len(data.test) == 30

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"format": "dynamic"},
            {"bias_correction": True, "equalize": True},
            {"ranges": "fault-aware", "design_ber": 1e-3},
            {"activation_percentile": "auto"},
        ],
        ids=["plain", "dynamic", "corrected", "fault-aware", "percentile"],
    )
    def test_several_inputs_and_outputs(self, exported, options):
        made, data = exported(words(), sentences(200), **options)
        said = made.sidecar["task"]
        assert said["judge"]["name"] == "values"
        assert [entry["output"] for entry in said["outputs"]] == ["pair", "total"]
        for entry, golden, found in zip(
            said["outputs"], answers(made.float_file, data.test), answers(made.int8_file, data.test), strict=True
        ):
            error = np.linalg.norm(found - golden) / np.linalg.norm(golden)
            assert 0 < error < 0.15
            assert entry["relative_error"] == pytest.approx(error, rel=1e-5)
        assert said["quality"] is None
        assert sum(made.sidecar["stored_bits"].values()) > 0

    def test_a_protected_file_answers_as_the_plain_one(self, exported):
        plain, data = exported(detector(), pictures(40), weight_bits=7)
        healing, _ = exported(detector(), pictures(40), guard="all")
        assert answers(healing.int8_file, data.test)[0].tobytes() == answers(plain.int8_file, data.test)[0].tobytes()
        assert healing.sidecar["guards"]["bytes_added"] > 0
        assert onnx.load_from_string(healing.eight_bit_file()).ByteSize() < len(healing.int8_file)

    def test_a_file_that_computes_something_else_is_refused(self, exported, monkeypatch):
        right = task_export.adjust

        def spoilt(*arguments, **options):
            made = right(*arguments, **options)
            model = onnx.load_from_string(made.int8)
            for tensor in model.graph.initializer:
                if tensor.name in ("u_scale", "pair_scale"):
                    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 9, tensor.name))
            return dataclasses.replace(made, int8=model.SerializeToString())

        monkeypatch.setattr(task_export, "adjust", spoilt)
        told = "does not compute what the float model computes: its output 'pair' .* first layer that strays is 'out'"
        with pytest.raises(ModelError, match=told):
            exported(words(), sentences(100), ("pair",), "values")

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"format": "dynamic", "ranges": "mse"}, "--ranges mse is for static files"),
            ({"format": "dynamic", "activation_percentile": 99.0}, "--activation-percentile is for static files"),
            ({"format": "dynamic", "guard": "all"}, "then protect the file with resq-deploy protect"),
        ],
    )
    def test_a_dynamic_file_takes_no_option_of_static_ones(self, options, told):
        with pytest.raises(OptionError, match=told):
            ExportOptions(**options)


class TestExaminer:
    def test_it_does_not_matter_how_many_samples_are_held_at_a_time(self, monkeypatch):
        model, samples = detector().SerializeToString(), pictures(30)
        task = find_task(model, samples)
        other = onnx.load_from_string(model)
        other.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(8, np.float32), "b1"))
        whole = Examiner(model, samples, task).compare(other.SerializeToString())
        monkeypatch.setattr("resq_deploy.quantization.answers._PART", 1)
        monkeypatch.setattr("resq_deploy.quantization.answers._HELD", 1)
        parts = Examiner(model, samples, task).compare(other.SerializeToString())
        np.testing.assert_array_equal(whole.same, parts.same)
        assert whole.quality == parts.quality
        assert whole.relative_error["found"] == pytest.approx(parts.relative_error["found"], rel=1e-9)

    def test_a_file_is_its_own_equal(self):
        model, samples = detector().SerializeToString(), pictures(20)
        found = Examiner(model, samples, find_task(model, samples)).compare(model)
        assert found.same.all()
        assert found.relative_error == {"found": 0.0}
        assert found.drop.value == found.drop.low == found.drop.high == 0.0


class TestGates:
    def gates(self, export, data, **options):
        return {gate["gate"]: gate for gate in run_task_gates(export, data.test, GateOptions(chips=50, **options))}

    def test_with_labels(self, exported):
        export, data = exported(words(), labelled(60), ("pair",), ranges="mse")
        gates = self.gates(export, data, enforce=False)
        compared = export.compared
        assert (compared.figure, compared.float_quality) == ("within", 1.0)
        assert gates["outputs"]["figure"] == pytest.approx(100 * compared.relative_error["pair"])
        assert gates["answers"]["figure"] == pytest.approx(100 * (1 - compared.agreement.value))
        assert gates["clean"]["figure"] == pytest.approx(100 * (1.0 - compared.quality))
        assert (gates["faults"]["chips"], gates["faults"]["figure_of"]) == (50, "within")
        drop = gates["faults"]["minmax"]["value"] - gates["faults"]["int8"]["value"]
        assert gates["faults"]["figure"] == pytest.approx(100 * drop, abs=1e-9)
        assert "classifiers" in gates["square"]["not_run"]

    def test_without_labels(self, exported):
        export, data = exported(words(), sentences(100))
        gates = self.gates(export, data)
        assert gates["outputs"]["passed"]
        assert gates["answers"]["passed"]
        assert "labelled" in gates["clean"]["not_run"]
        assert "itself the MinMax export" in gates["faults"]["not_run"]

    @pytest.mark.parametrize("gate", ["outputs", "answers"])
    def test_a_bound_that_is_passed_is_an_error(self, exported, gate):
        export, data = exported(detector(), pictures(60))
        with pytest.raises(
            GateError, match=f"gate '{gate}' failed: .* the bound is -1.00; raise it with --gate {gate}="
        ):
            self.gates(export, data, bounds={gate: -1.0}, gates=(gate,))
