"""export-int8 of other tasks on the command line: what it finds out, says and writes, and clear refusals."""

import importlib.resources
import importlib.util
import json
import pathlib

import jsonschema
import numpy as np
import onnx
import pytest

import resq_deploy as rd
from resq_deploy.pipeline.task_export import TaskWish

_SPEC = importlib.util.spec_from_file_location("task_files", pathlib.Path(__file__).parents[1] / "task_files.py")
_FILES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FILES)
SCHEMA = json.loads((importlib.resources.files("resq_deploy") / "schemas" / "export-int8.json").read_text())


@pytest.fixture
def made(tmp_path):
    """Write the float files and their data, some labelled; return the folder."""
    rng = np.random.default_rng(0)
    onnx.save(_FILES.detector(), tmp_path / "detector.onnx")
    onnx.save(_FILES.words(), tmp_path / "words.onnx")
    images = rng.random((60, 1, 16, 16), np.float32)
    boxes = np.tile(np.float32([[1, 4, 4, 30, 30]]), (60, 1, 1))
    np.savez(tmp_path / "detector.npz", images=images[:40], labels=boxes[:40], images_train=images[40:])
    tokens, more = rng.integers(0, 20, 200), rng.normal(size=(200, 4)).astype(np.float32)
    np.savez(tmp_path / "words.npz", words=tokens, more=more)
    np.savez(tmp_path / "tokens.npz", words=tokens)
    return tmp_path


@pytest.fixture
def export(resq, made):
    def run(name, *options, data=None):
        out = made / "int8.onnx"
        arguments = (made / f"{name}.onnx", "--out", out, "--dataset", made / (data or f"{name}.npz"), *options)
        status, said, told = resq("export-int8", *arguments)
        sidecar = out.with_suffix(".json")
        return status, said, told, json.loads(sidecar.read_text()) if sidecar.exists() else None

    return run


def test_a_detector_is_told_by_its_outputs(export):
    status, said, told, sidecar = export("detector", "--gate", "clean=100")
    assert status == 0
    assert "judge boxes: output 'found' [N, 7, 64] has a box and 3 scores at each of 64 places" in told
    assert "mAP@50 float" in said
    assert "output found is" in said
    assert "gate outputs: passed" in said
    assert "gate square: not run (it is for classifiers of images)" in said
    jsonschema.Draft202012Validator(SCHEMA).validate(sidecar)
    assert sidecar["accuracy"] is None
    assert (sidecar["task"]["figure"], sidecar["task"]["samples"]) == ("map50", 40)
    assert sidecar["quantization"]["calibration_images"] == 20
    assert "concat" in sidecar["quantization"]["in_float"]


def test_several_inputs_without_labels_are_judged_by_their_outputs(export):
    status, said, _, sidecar = export("words", "--guard", "parameters", "--calibration-images", "30")
    assert status == 0
    assert "no task is told" in said
    assert "output pair is" in said
    assert "output total is" in said
    assert "gate clean: not run (nothing is labelled" in said
    jsonschema.Draft202012Validator(SCHEMA).validate(sidecar)
    assert "40 of its 200 are kept for calibration" in sidecar["notes"][0]
    assert sidecar["quantization"]["calibration_images"] == 30
    assert sidecar["task"]["samples"] == 160
    assert sidecar["guards"]["mode"] == "parameters"


@pytest.mark.parametrize(
    "options",
    [("--format", "dynamic"), ("--judge", "values:bound=0.5", "--outputs", "total,pair"), ("--keep-float", "out")],
    ids=["dynamic", "judge", "float"],
)
def test_what_is_asked_for_is_in_the_sidecar(export, options):
    status, _, _, sidecar = export("words", *options)
    assert status == 0
    jsonschema.Draft202012Validator(SCHEMA).validate(sidecar)
    if "dynamic" in options:
        assert sidecar["quantization"]["format"] == "dynamic"
    elif "--judge" in options:
        judge = sidecar["task"]["judge"]
        assert (judge["name"], judge["bound"], judge["outputs"]) == ("values", 0.5, ["total", "pair"])
        assert sidecar["task"]["reason"] == "asked for with --judge"
    else:
        assert "out" in sidecar["quantization"]["in_float"]


def test_what_is_the_same_for_all_samples_is_fed(export):
    status, _, _, sidecar = export("words", "--feed", "more=0.5,0.1,0,1", data="tokens.npz")
    assert status == 0
    assert sidecar["task"]["samples"] == 160


@pytest.mark.parametrize(
    ("name", "options", "data", "told"),
    [
        ("words", (), "tokens.npz", "holds no array for the model's input 'more'"),
        ("words", ("--judge", "walrus"), None, "no judge 'walrus'"),
        ("words", ("--outputs", "absent"), None, "the model's output 'absent' is not there"),
        ("words", ("--keep-float", "head*"), None, "--keep-float head*: no node has such a name or operator"),
        ("words", ("--gate", "outputs=0"), None, "gate 'outputs' failed: an output of the int8 file is"),
        ("detector", ("--gate", "clean=-200"), None, "gate 'clean' failed: the int8 file loses"),
        ("detector", ("--judge", "boxes:decode=ssd"), None, "decoder ssd takes"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(export, name, options, data, told):
    status, said, error, sidecar = export(name, *options, data=data)
    assert status == (1 if "gate" in told else 2)
    assert said == ""
    assert told in error.splitlines()[-1]
    assert sidecar is None


def test_a_checkpoint_has_no_judge(resq, tmp_path):
    (tmp_path / "net.pt").touch()
    status, _, error = resq(
        "export-int8", tmp_path / "net.pt", "--out", tmp_path / "a.onnx", "--dataset", "digits", "--judge", "boxes"
    )
    assert status == 2
    assert "are for float ONNX files" in error


def test_from_python_it_is_the_same(export, made):
    _, _, _, sidecar = export("words")
    wish = TaskWish(judge="values:bound=0.5")
    ours = [
        rd.export_int8(made / "words.onnx", made / "words.npz", made / "own.onnx", task=task) for task in (None, wish)
    ]
    assert ours[0]["model"]["sha256"] == sidecar["model"]["sha256"]
    assert ours[0]["task"] == sidecar["task"]
    assert ours[1]["task"]["judge"]["bound"] == 0.5
