import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed import verify as verify_module
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Deployment
from resq_deploy.deployed.synthetic import reference
from resq_deploy.deployed.verify import Verdict, sidecar_of, source_checkpoint, verify
from resq_deploy.errors import InputError
from resq_deploy.records import sha256_file

PLAIN = Deployment()
IMAGE = np.zeros((1, 32, 32, 3), np.uint8)


@pytest.fixture
def exported(digits_int8, tmp_path):
    """The digits file with a sidecar of its own; return a function that changes the sidecar, and opens the file."""
    path = tmp_path / "net.onnx"
    path.write_bytes(digits_int8.read_bytes())

    def opened(change=None, deployment=PLAIN):
        sidecar = {
            "model": {"sha256": sha256_file(path)},
            "verification": reference(path.read_bytes(), IMAGE, deployment),
        }
        if change is not None:
            change(sidecar)
        sidecar_of(path).write_text(json.dumps(sidecar))
        return DeployedModel.load(path)

    return opened


def test_the_same_file_on_the_same_machine_is_identical(exported):
    found = verify(exported())
    assert found.verdict is Verdict.IDENTICAL
    assert (found.inputs, found.bit_equal, found.same_top1, found.max_difference) == (16, 16, 16, 0.0)
    assert found.line == "identical: logits bit-equal on 16 and top-1 equal on 16 of 16 inputs"
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["verdict"] == "identical"


def test_the_deployment_of_the_sidecar_is_used(exported):
    emulated = Deployment(optimization="none", batch=7)
    assert verify(exported(deployment=emulated)).verdict is Verdict.IDENTICAL


def test_a_flipped_bit_is_found_without_running_the_file(exported):
    model = exported()
    data = bytearray(model.path.read_bytes())
    data[len(data) // 2] ^= 1
    model.path.write_bytes(data)
    found = verify(model)
    assert (found.verdict, found.inputs, found.max_difference) == (Verdict.DIFFERS, 0, None)
    assert "net.onnx is not the file its sidecar belongs to, or was changed" in found.line
    json.dumps(found.as_dict(), allow_nan=False)


def shift(amount, column=None):
    """Add to the first logit of the first input, or to the last column of all."""

    def change(sidecar):
        for row in sidecar["verification"]["logits"][: 1 if column is None else None]:
            row[column or 0] += amount

    return change


def test_logits_that_differ_a_little(exported):
    found = verify(exported(shift(-(2.0**-10))))
    assert found.verdict is Verdict.SAME_CLASSES
    assert (found.bit_equal, found.same_top1) == (15, 16)
    assert found.max_difference == pytest.approx(2.0**-10, rel=1e-3)
    assert "logits differ by up to 0.000977, though processor and runtime are the same" in found.reason


def test_another_top1_is_a_difference(exported):
    found = verify(exported(shift(1000.0, column=9)))
    assert found.verdict is Verdict.DIFFERS
    assert (found.bit_equal, found.same_top1) == (0, found.same_top1)
    assert found.same_top1 < 16
    assert found.max_difference == pytest.approx(1000)


def on(**machine):
    return {"onnxruntime": "1.0", "machine": "x86_64", "cpu_flags": ["avx2"], **machine}


@pytest.mark.parametrize(
    ("there", "here", "reason"),
    [
        (
            on(cpu_flags=["avx512_vnni"]),
            on(),
            "since this CPU has no VNNI and may saturate in 16 bits: export with --red",
        ),
        (on(), on(cpu_flags=["avx_vnni"]), "since the CPU it was exported on has no VNNI and may saturate"),
        (
            on(machine="aarch64", cpu_flags=["i8mm"]),
            on(),
            "with machine aarch64 there and x86_64 here; CPU features av",
        ),
        (on(onnxruntime="0.9"), on(), "with onnxruntime 0.9 there and 1.0 here"),
        (on(), on(), "though processor and runtime are the same"),
    ],
    ids=["no VNNI here", "no VNNI there", "another machine", "another runtime", "nothing known"],
)
def test_what_may_make_the_difference_is_named(exported, monkeypatch, there, here, reason):
    monkeypatch.setattr(verify_module, "this_machine", lambda: here)

    def change(sidecar):
        shift(1.0)(sidecar)
        sidecar["verification"]["machine"] = there

    found = verify(exported(change))
    assert reason in found.reason
    assert (found.exported, found.here) == (there, here)


def drop(*keys):
    def change(sidecar):
        place = sidecar
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


def put(value, *keys):
    def change(sidecar):
        place = sidecar
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


DAMAGE = {
    "no model": drop("model"),
    "no file digest": drop("model", "sha256"),
    "no seed": drop("verification", "seed"),
    "another seed": put(1, "verification", "seed"),
    "another shape": put([16, 3, 32, 31], "verification", "shape"),
    "a huge shape": put([16, 3, 10**9, 10**9], "verification", "shape"),
    "no shape": put([], "verification", "shape"),
    "an unknown type": put("float16", "verification", "dtype"),
    "a list for a table": put([1.0] * 16, "verification", "logits"),
    "ragged logits": put([[1.0]] * 15 + [[1.0, 2.0]], "verification", "logits"),
    "too few logits": put([[1.0]], "verification", "logits"),
    "words for logits": put([["a"]] * 16, "verification", "logits"),
    "an unknown level": put("fast", "verification", "deployment", "optimization"),
    "no batch": put(0, "verification", "deployment", "batch"),
    "no machine": put(None, "verification", "machine"),
    "a list": put([], "verification"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_sidecar_is_one_line(exported, damage):
    with pytest.raises(InputError, match=r"sidecar .*net.json is damaged") as refused:
        verify(exported(DAMAGE[damage]))
    assert "\n" not in str(refused.value)


def test_logits_of_another_width_are_refused(exported):
    with pytest.raises(InputError, match="keeps 9 logits an input, the file gives 10"):
        verify(exported(lambda sidecar: [row.pop() for row in sidecar["verification"]["logits"]]))


def test_a_provider_that_is_not_here_is_refused(exported):
    with pytest.raises(InputError, match="no provider 'NoSuch'"):
        verify(exported(put(["NoSuch"], "verification", "deployment", "providers")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no sidecar .*net.json: --verify needs it"),
        ("{", "net.json is not valid JSON"),
        ("[]", "net.json is damaged"),
        ('{"model": {"sha256": "a"}}', "holds no logits to verify against: export the model anew"),
    ],
    ids=["missing", "broken", "a list", "older"],
)
def test_a_sidecar_that_cannot_be_used_is_one_line(exported, text, message):
    model = exported()
    sidecar_of(model.path).unlink() if text is None else sidecar_of(model.path).write_text(text)
    with pytest.raises(InputError, match=message):
        verify(model)


def test_logits_that_are_not_finite(tmp_path):
    """Log of values of both signs: minus infinity and NaN among the logits, which JSON has no numbers for."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["m"]),
            helper.make_node("Log", ["m"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([[1, -1, 0]] * 4, np.float32), "w")],
    )
    path = tmp_path / "log.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    said = reference(path.read_bytes(), np.zeros((1, 1, 2, 2), np.float32), Deployment(), count=2)
    assert [type(value) for value in said["logits"][0]] == [float, str, str]
    sidecar_of(path).write_text(json.dumps({"model": {"sha256": sha256_file(path)}, "verification": said}))
    assert verify(DeployedModel.load(path)).verdict is Verdict.IDENTICAL
    said["logits"][0][2] = 0.0
    sidecar_of(path).write_text(json.dumps({"model": {"sha256": sha256_file(path)}, "verification": said}))
    found = verify(DeployedModel.load(path))
    assert found.max_difference == math.inf
    assert found.as_dict()["max_difference"] is None
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_checkpoint_is_the_one_its_own_sidecar_names(exported):
    assert source_checkpoint(exported(lambda sidecar: sidecar.update(checkpoint="abc"))) == "abc"
    assert source_checkpoint(exported()) is None
    other = {"checkpoint": "abc", "model": {"sha256": "0"}}
    assert source_checkpoint(exported(lambda sidecar: sidecar.update(other))) is None
    assert source_checkpoint(exported(lambda sidecar: sidecar.update(model="?"))) is None
