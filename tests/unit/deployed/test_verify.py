import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data import load_dataset
from resq_deploy.deployed import kernels
from resq_deploy.deployed import verify as verify_module
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.reference import Drawn, packed, reference, unpacked
from resq_deploy.deployed.sidecar import sidecar_of, source_checkpoint
from resq_deploy.deployed.verify import Verdict, verify
from resq_deploy.errors import InputError
from resq_deploy.records import sha256_file

PLAIN = Deployment()
DRAWN = Drawn(dataset="digits", count=40, seed=5)
COUNT = 16


DIGITS = load_dataset("digits")


@pytest.fixture
def exported(digits_int8, tmp_path):
    """The digits file with a sidecar of its own; return a function that changes the sidecar, and opens the file."""
    path = tmp_path / "net.onnx"
    path.write_bytes(digits_int8.read_bytes())

    def opened(change=None, deployment=PLAIN):
        sidecar = {
            "model": {"sha256": sha256_file(path)},
            "verification": reference(
                path.read_bytes(), DIGITS.calibration(40, 5).images, deployment, drawn=DRAWN, count=COUNT
            ),
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
    assert found.line == "identical in exact arithmetic: logits bit-equal on 16 and top-1 equal on 16 of 16 inputs"
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
    """Add to the first logit of the first synthetic input, or to the last column of all."""

    def change(sidecar):
        kept = sidecar["verification"]["synthetic"]
        logits = unpacked(kept["logits"], np.float32)
        logits[: 1 if column is None else None, column or 0] += np.float32(amount)
        kept["logits"] = packed(logits)

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


def test_the_same_top1_hides_no_drop(exported):
    """Logits far from those kept, though the top-1 of the few inputs is the same: what a saturating CPU does."""

    def change(sidecar):
        kept = sidecar["verification"]["synthetic"]
        logits = unpacked(kept["logits"], np.float32)
        lead = np.sort(logits, axis=1)
        logits += np.where(logits == lead[:, -1:], 10, 0).astype(np.float32)
        kept["logits"] = packed(logits)

    found = verify(exported(change))
    assert (found.same_top1, found.verdict) == (16, Verdict.DIFFERS)
    assert found.at_risk > 0


def test_many_inputs_alike_show_by_themselves_that_answers_are_the_same():
    assert not verify_module._harmless(256, 256, at_risk=10)
    assert verify_module._harmless(512, 512, at_risk=500)
    assert verify_module._harmless(256, 256, at_risk=2)
    assert not verify_module._harmless(512, 511, at_risk=0)


def test_calibration_images_are_run_where_the_data_are_at_hand(exported):
    found = verify(exported(), dataset=DIGITS)
    assert (found.verdict, found.inputs, found.images, found.bit_equal) == (Verdict.IDENTICAL, 32, 16, 32)
    assert "of 32 inputs, 16 of them images" in found.line


def test_other_images_are_refused(exported):
    with pytest.raises(InputError, match="digits gives other calibration images than those"):
        verify(exported(put(6, "verification", "calibration", "seed")), dataset=DIGITS)
    with pytest.raises(InputError, match="keeps no answers to calibration images"):
        verify(exported(put(None, "verification", "calibration")), dataset=DIGITS)


def test_what_other_cpus_make_of_the_file_is_said(exported):
    """Where this CPU saturates by the answers that change, elsewhere by the layers that could."""
    found = verify(exported())
    assert found.native.cpu_saturates == PLAIN.saturates
    assert [layer.operator for layer in found.native.layers] == ["QLinearConv", "QGemm"]
    if PLAIN.saturates:
        assert found.native.changed.n == 16
        assert "gives" in found.native.line
    else:
        assert found.native.changed is None
        assert found.native.line.startswith("on a CPU that saturates (x86 without VNNI) 2 layers could pass 16 bits")


@pytest.mark.parametrize("forced", ["0", "1"])
def test_exact_arithmetic_answers_alike_whatever_kernels_are_used(exported, monkeypatch, forced):
    model = exported()
    monkeypatch.setenv(kernels.FORCE, forced)
    assert verify(model, dataset=DIGITS).verdict is Verdict.IDENTICAL


def on(**machine):
    return {"onnxruntime": "1.0", "machine": "x86_64", "cpu_flags": ["avx2"], "saturates": False, **machine}


@pytest.mark.parametrize(
    ("kept", "there", "asked", "here", "reason"),
    [
        ("exact", on(), "native", on(saturates=True), "since this CPU saturates sums of products in 16 bits: --arith"),
        ("native", on(saturates=True), "exact", on(), "since the CPU it was exported on saturates"),
        ("exact", on(saturates=True), "exact", on(saturates=True), "though processor and runtime are the same"),
        ("exact", on(saturates=True), "exact", on(cpu_flags=["i8mm"]), "with CPU features avx2, i8mm on one of"),
        ("exact", on(machine="aarch64"), "exact", on(), "with machine aarch64 there and x86_64 here"),
        ("exact", on(onnxruntime="0.9"), "exact", on(), "with onnxruntime 0.9 there and 1.0 here"),
        ("native", on(), "native", on(), "though processor and runtime are the same"),
    ],
    ids=["saturates here", "saturated there", "exact", "features", "another machine", "another runtime", "nothing"],
)
def test_what_may_make_the_difference_is_named(exported, monkeypatch, kept, there, asked, here, reason):
    monkeypatch.setattr(verify_module, "this_machine", lambda: here)

    def change(sidecar):
        shift(1.0)(sidecar)
        sidecar["verification"]["machine"] = there
        sidecar["verification"]["deployment"]["arithmetic"] = kept

    found = verify(exported(change), arithmetic=Arithmetic(asked))
    assert reason in found.reason
    assert (found.exported, found.here, found.arithmetic) == (there, here, asked)


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
    "no seed": drop("verification", "synthetic", "seed"),
    "another seed": put(1, "verification", "synthetic", "seed"),
    "half a seed": put(0.5, "verification", "synthetic", "seed"),
    "another shape": put([3, 32, 31], "verification", "synthetic", "shape"),
    "a huge shape": put([3, 10**9, 10**9], "verification", "synthetic", "shape"),
    "no shape": put([], "verification", "synthetic", "shape"),
    "an unknown type": put("float16", "verification", "synthetic", "dtype"),
    "no patterns": put(packed(np.zeros((0, 3, 6, 6), np.uint8)), "verification", "synthetic", "coarse"),
    "more noise": put(99, "verification", "synthetic", "noise"),
    "a list for a table": put(packed(np.zeros(16, np.float32)), "verification", "synthetic", "logits"),
    "too few logits": put(packed(np.zeros((1, 10), np.float32)), "verification", "synthetic", "logits"),
    "bytes that are none": put({"shape": [16, 10], "base64": "?"}, "verification", "synthetic", "logits"),
    "too few bytes": put({"shape": [16, 10], "base64": "AAAA"}, "verification", "synthetic", "logits"),
    "an unknown arithmetic": put("round", "verification", "deployment", "arithmetic"),
    "an unknown level": put("fast", "verification", "deployment", "optimization"),
    "other images with fewer logits": put(
        packed(np.zeros((16, 7), np.float32)), "verification", "calibration", "logits"
    ),
    "no words on the images": put({}, "verification", "calibration"),
    "no batch": put(0, "verification", "deployment", "batch"),
    "no machine": put(None, "verification", "machine"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_sidecar_is_one_line(exported, damage):
    with pytest.raises(InputError, match=r"sidecar .*net.json is damaged") as refused:
        verify(exported(DAMAGE[damage]))
    assert "\n" not in str(refused.value)


def test_logits_of_another_width_are_refused(exported):
    def narrow(sidecar):
        for kind in ("synthetic", "calibration"):
            sidecar["verification"][kind]["logits"] = packed(np.zeros((16, 9), np.float32))

    with pytest.raises(InputError, match="keeps 9 logits an input, the file gives 10"):
        verify(exported(narrow))


def test_a_provider_that_is_not_here_is_refused(exported):
    with pytest.raises(InputError, match="no provider 'NoSuch'"):
        verify(exported(put(["NoSuch"], "verification", "deployment", "providers")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no sidecar .*net.json: --verify needs it"),
        ("{", "net.json is not valid JSON"),
        ("[]", "net.json is damaged"),
        ('{"model": {"sha256": "a"}}', "holds no answers that this version reads: export the model anew"),
        ('{"model": {"sha256": "a"}, "verification": {"logits": []}}', "no answers that this version reads: export"),
    ],
    ids=["missing", "broken", "a list", "none", "older"],
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
    images = np.random.default_rng(0).random((3, 1, 2, 2)).astype(np.float32)
    said = json.loads(json.dumps(reference(path.read_bytes(), images, Deployment(), count=2), allow_nan=False))
    logits = unpacked(said["synthetic"]["logits"], np.float32)
    assert np.isnan(logits[:, 1]).all()
    assert np.isinf(logits[:, 2]).all()

    def found():
        sidecar_of(path).write_text(json.dumps({"model": {"sha256": sha256_file(path)}, "verification": said}))
        return verify(DeployedModel.load(path))

    assert found().verdict is Verdict.IDENTICAL
    logits[0, 2] = 0.0
    said["synthetic"]["logits"] = packed(logits)
    assert found().max_difference == math.inf
    assert found().as_dict()["max_difference"] is None
    json.dumps(found().as_dict(), allow_nan=False)


def test_the_checkpoint_is_the_one_its_own_sidecar_names(exported):
    assert source_checkpoint(exported(lambda sidecar: sidecar.update(checkpoint="abc"))) == "abc"
    assert source_checkpoint(exported()) is None
    other = {"checkpoint": "abc", "model": {"sha256": "0"}}
    assert source_checkpoint(exported(lambda sidecar: sidecar.update(other))) is None
    assert source_checkpoint(exported(lambda sidecar: sidecar.update(model="?"))) is None
