"""`resq-deploy protect` as a user meets it: what it prints and writes, its gate, and one line for each wrong input."""

import importlib.resources
import json

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.made_up import made_up
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.votes import find_votes

SCHEMA = json.loads((importlib.resources.files("resq_deploy") / "schemas" / "protect.json").read_text())


@pytest.fixture
def refused(resq, tmp_path):
    """Run `protect` so that it is refused with a status and one line, and writes nothing; return that line."""

    def run(*arguments, status=2):
        before = sorted(tmp_path.iterdir())
        ended, out, err = resq("protect", *arguments)
        assert ended == status, err
        assert out == ""
        lines = [line for line in err.splitlines() if not line.startswith(("protecting", "checking", "measuring"))]
        assert len(lines) == 1, err
        assert sorted(tmp_path.iterdir()) == before
        return lines[0]

    return run


def scores(path, count=50):
    images = np.random.default_rng(0).random((count, 3, 32, 32), dtype=np.float32)
    return Session(path.read_bytes(), Deployment()).run(images)


def test_a_protected_file_is_measured_verified_and_recorded(resq, digits_int8, tmp_path):
    out = tmp_path / "healing.onnx"
    status, printed, err = resq("protect", digits_int8, "--out", out, "--dataset", "digits", "--images", 200)
    assert status == 0, err
    assert "gate clean: passed" in printed
    assert "weights were narrowed to 7 bits" in printed
    assert "secded" in printed
    sidecar = json.loads(out.with_suffix(".json").read_text())
    jsonschema.validate(sidecar, SCHEMA)
    assert sidecar["source"] == {
        "file": digits_int8.name,
        "sha256": read_model(digits_int8)[1],
        "bytes": digits_int8.stat().st_size,
    }
    assert sidecar["accuracy"]["before"]["n"] == sidecar["accuracy"]["after"]["n"] == 200
    assert abs(sidecar["accuracy"]["before"]["value"] - sidecar["accuracy"]["after"]["value"]) <= 0.005
    protections = {entry["tensor"]: entry["by"] for entry in sidecar["guards"]["tensors"]}
    assert set(protections.values()) == {"secded", "vote"}
    assert sidecar["guards"]["bytes_added"] > 0
    assert np.ptp(scores(digits_int8)) * 0.05 > np.abs(scores(digits_int8) - scores(out)).max() > 0
    status, printed, _ = resq("inspect", out, "--verify", "--json")
    assert status == 0
    assert json.loads(printed)["verification"]["verdict"] == "identical"


def test_without_data_the_file_is_protected_and_verified_all_the_same(resq, digits_int8, tmp_path):
    out = tmp_path / "healing.onnx"
    status, printed, err = resq("protect", digits_int8, "--out", out, "--guard", "weights", "--weight-code", "dected")
    assert status == 0, err
    assert "accuracy" not in printed
    sidecar = json.loads(out.with_suffix(".json").read_text())
    jsonschema.validate(sidecar, SCHEMA)
    assert (sidecar["accuracy"], sidecar["dataset"], sidecar["gates"]) == (None, None, [])
    assert resq("inspect", out, "--verify")[0] == 0


def test_parameters_alone_change_no_answer(resq, digits_int8, tmp_path):
    out = tmp_path / "voted.onnx"
    status, _, err = resq("protect", digits_int8, "--out", out, "--guard", "parameters", "--dataset", "digits")
    assert status == 0, err
    sidecar = json.loads(out.with_suffix(".json").read_text())
    jsonschema.validate(sidecar, SCHEMA)
    assert sidecar["agreement"]["value"] == 1
    assert sidecar["gates"][0]["figure"] == 0
    assert scores(out).tobytes() == scores(digits_int8).tobytes()


def test_a_failed_gate_leaves_nothing_behind_unless_it_is_lifted(resq, refused, digits_int8, tmp_path):
    out = tmp_path / "healing.onnx"
    given = (digits_int8, "--out", out, "--dataset", "digits", "--images", 100, "--gate", "clean=-5")
    assert "gate 'clean'" in refused(*given, status=1)
    status, printed, err = resq("protect", *given, "--no-gate")
    assert status == 0, err
    assert "gate clean: FAILED" in printed
    gate = json.loads(out.with_suffix(".json").read_text())["gates"][0]
    assert (gate["passed"], gate["enforced"], gate["bound"]) == (False, False, -5)
    status, printed, _ = resq("protect", *given[:-1], "clean=off")
    assert status == 0
    assert "gate clean" not in printed


def test_what_the_source_was_trained_from_stays_known(resq, digits_int8, tmp_path):
    source, out = tmp_path / "net.onnx", tmp_path / "healing.onnx"
    source.write_bytes(digits_int8.read_bytes())
    known = {"model": {"sha256": read_model(source)[1]}, "checkpoint": "c" * 64}
    source.with_suffix(".json").write_text(json.dumps(known))
    assert resq("protect", source, "--out", out)[0] == 0
    assert json.loads(out.with_suffix(".json").read_text())["checkpoint"] == "c" * 64


def test_external_data_are_taken_in(resq, digits_int8, tmp_path):
    folder = tmp_path / "apart"
    folder.mkdir()
    model = onnx.load(digits_int8)
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=64)
    out = tmp_path / "healing.onnx"
    assert resq("protect", folder / "net.onnx", "--out", out)[0] == 0
    alone = tmp_path / "alone.onnx"
    assert resq("protect", digits_int8, "--out", alone)[0] == 0
    assert scores(out).tobytes() == scores(alone).tobytes()
    assert not any(tensor.external_data for tensor in onnx.load(out, load_external_data=False).graph.initializer)


def test_health_is_reported(resq, digits_int8, tmp_path):
    out = tmp_path / "healing.onnx"
    assert resq("protect", digits_int8, "--out", out, "--health")[0] == 0
    assert [value.name for value in onnx.load(out).graph.output][1:] == ["resq_health"]
    assert json.loads(out.with_suffix(".json").read_text())["guards"]["health"]


def old(path, opset=11):
    """A QOperator file of an old opset: x [N, 3, 8, 8] to y [N, 5]."""
    stored = {
        "s": np.float32(1 / 255),
        "z": np.uint8(0),
        "w": np.random.default_rng(0).integers(-128, 128, (192, 5)).astype(np.int8),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "ys": np.float32(0.2),
        "yz": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("Flatten", ["q"], ["f"]),
        helper.make_node("QLinearMatMul", ["f", "s", "z", "w", "ws", "wz", "ys", "yz"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6).SerializeToString()
    )
    return path


def test_an_old_file_is_raised_where_that_is_asked_for(resq, refused, tmp_path):
    source, out = old(tmp_path / "old.onnx"), tmp_path / "new.onnx"
    line = refused(source, "--out", out)
    assert "opset 11, votes and codes need 13: give --opset 13" in line
    status, _, err = resq("protect", source, "--out", out, "--opset", 13)
    assert status == 0, err
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert sidecar["opset"] == {"source": 11, "file": 13}
    assert find_votes(onnx.load(out))


def test_a_weight_that_cannot_be_narrowed_is_told(resq, digits_int8, tmp_path):
    model = onnx.load(digits_int8)
    weight = next(tensor.name for tensor in model.graph.initializer if list(tensor.dims) == [12, 3, 3, 3])
    model.graph.node.append(helper.make_node("Cast", [weight], ["seen"], to=TensorProto.FLOAT))
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    source, out = tmp_path / "seen.onnx", tmp_path / "healing.onnx"
    onnx.save(model, source)
    status, printed, err = resq("protect", source, "--out", out)
    assert status == 0, err
    assert f"{weight} is voted in 8 bits: left as it is: Cast 'seen' reads it" in printed
    assert weight in json.loads(out.with_suffix(".json").read_text())["weights"]["not_narrowed"]


def test_no_file_is_protected_twice(resq, refused, digits_int8, tmp_path):
    once = tmp_path / "once.onnx"
    assert resq("protect", digits_int8, "--out", once)[0] == 0
    assert "carries a code already" in refused(once, "--out", tmp_path / "twice.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", 10), "--images is about measuring accuracy: give --dataset, too"),
        (("--gate", "clean=1"), "--gate is about measuring accuracy"),
        (("--dataset", "digits", "--gate", "faults=1"), "--gate 'faults=1': give clean=POINTS"),
        (("--dataset", "digits", "--gate", "clean=nan"), "--gate clean=nan"),
        (("--dataset", "digits", "--images", 0), "--images 0: give a whole number from 1 up"),
        (("--weight-bits", "6", "--weight-code", "secded"), "there is no such code"),
        (("--guard", "parameters", "--health"), "--health counts words of a code"),
        (("--opset", 9), "has opset 18 already"),
        (("--opset", 999), "--opset 999: give one from 13"),
        (("--guard-campaign", "nowhere", "--guard", "auto"), "nowhere"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_options_that_make_no_sense(options, message, refused, digits_int8, tmp_path):
    assert message in refused(digits_int8, "--out", tmp_path / "out.onnx", *options)


def test_files_that_cannot_be_used(refused, digits_int8, digits_float, tmp_path):
    out = tmp_path / "out.onnx"
    assert "float model" in refused(digits_float, "--out", out)
    assert "cannot read" in refused(tmp_path / "missing.onnx", "--out", out)
    assert "must end in .onnx" in refused(digits_int8, "--out", tmp_path / "out.bin")
    assert "is MODEL itself" in refused(digits_int8, "--out", digits_int8)


def test_data_that_do_not_fit(refused, digits_int8, tmp_path):
    images = np.zeros((4, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "small.npz", images=images, labels=np.arange(4))
    out = tmp_path / "out.onnx"
    assert "the model takes" in refused(digits_int8, "--out", out, "--dataset", tmp_path / "small.npz")


@pytest.mark.parametrize("kind", ["five_states", "tagger", "scaled_boxes", "nhwc_levels"])
def test_a_file_of_another_kind_is_protected_and_answers_as_before(kind, kinds, resq, tmp_path):
    source, out = tmp_path / f"{kind}.onnx", tmp_path / "healing.onnx"
    source.write_bytes(kinds.KINDS[kind]().SerializeToString())
    status, _, err = resq("protect", source, "--out", out)
    assert status == 0, err
    assert json.loads(out.with_suffix(".json").read_text())["verification"] is None or kind == "nhwc_levels"
    answers = []
    for path in (source, out):
        model = onnx.load(path)
        session = Session(model.SerializeToString(), Deployment())
        names = [output.name for output in session.outputs]
        answers.append(session.first_answers([bound(made_up(model, Deployment(), count=3), session.inputs, names)])[0])
    assert {name: values.tobytes() for name, values in answers[0].items()} == {
        name: values.tobytes() for name, values in answers[1].items()
    }
    assert resq("scrub", out)[0] == 0
    if kind == "tagger":
        status, _, err = resq("inspect", out, "--verify")
        assert (status, "takes other things than one image: leave --verify out" in err) == (2, True)


def test_a_file_of_several_inputs_is_not_measured_on_images(kinds, refused, tmp_path):
    source = tmp_path / "tagger.onnx"
    source.write_bytes(kinds.tagger().SerializeToString())
    line = refused(source, "--out", tmp_path / "healing.onnx", "--dataset", "digits")
    assert "takes 2 inputs" in line
    assert line.endswith("leave --dataset out, and nothing is measured")
