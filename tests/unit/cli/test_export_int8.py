"""export-int8 on the command line: options under headings, what it says of protection, and clear refusals."""

import json
import re
import xml.etree.ElementTree as ElementTree

import onnx
import pytest

from resq_deploy.protection.code_bytes import CodeBytes


def test_help_shows_what_protects_under_one_heading(resq):
    _, out, _ = resq("export-int8", "--help")
    protection = out[out.index("Protection against its own faults:") : out.index("Accuracy and gates:")]
    assert [word for word in protection.split() if word.startswith("--")] == [
        "--guard",
        "--weight-code",
        "--health",
        "--guard-budget",
        "--guard-campaign",
    ]
    assert "SOURCE" not in out[out.index("Other options:") :]


@pytest.fixture
def export(resq, digits_float, tmp_path):
    """Return a function that exports the digits model with some options."""

    def run(*options):
        out = tmp_path / "net.onnx"
        sizes = ("--calibration-images", 60, "--test-images", 50)
        gates = [word for name in ("clean", "faults", "transfer-pgd", "square") for word in ("--gate", f"{name}=off")]
        result = resq("export-int8", digits_float, "--out", out, "--dataset", "digits", *sizes, *gates, *options)
        return *result, out

    return run


def test_what_protects_what_is_said(export, monkeypatch):
    monkeypatch.setattr("resq_deploy.protection.plan.code_bytes", lambda *_, **__: CodeBytes(decoder=1, tensor=1))
    status, out, _, file = export("--guard", "all", "--weight-code", "dected", "--weight-bits", "6")
    assert status == 0
    sidecar = json.loads(file.with_suffix(".json").read_text())
    guards = sidecar["guards"]
    assert (guards["code"]["name"], sidecar["quantization"]["weight_bits"]) == ("dected-6", 6)
    for role in {entry["role"] for entry in guards["tensors"]}:
        assert f" {role} " in out
    assert f"protection adds {guards['bytes_added']:,} bytes" in out
    assert f"weights of fewer than 8 bits cost {sidecar['bit_cost']['points']:.2f} points on" in out
    assert "could saturate" not in out


@pytest.mark.parametrize(("bound", "status"), [("clean=100", 0), ("clean=-100", 1)])
def test_gates_are_tests_of_a_ci_server(export, tmp_path, bound, status):
    ended, _, err, file = export("--gate", bound, "--junit", tmp_path / "gates.xml")
    assert ended == status, err
    clean, *others = ElementTree.parse(tmp_path / "gates.xml").getroot().find("testsuite")
    told = clean.findtext("system-out") or clean.find("failure").get("message")
    assert re.fullmatch(r"drop \S+ points \[\S+, \S+\], bound -?100.00; on test images", told)
    assert (clean.find("failure") is not None) == bool(status) != file.exists()
    assert [case.find("skipped").get("message") for case in others] == ([] if status else ["it was not asked for"] * 3)


def test_what_cannot_be_protected_is_said(resq, digits_float, tmp_path):
    model = onnx.load(digits_float)
    (relu,) = (node for node in model.graph.node if node.op_type == "Relu")
    relu.CopyFrom(onnx.helper.make_node("Elu", relu.input, relu.output, "elu", alpha=0.5))
    onnx.save(model, tmp_path / "elu.onnx")
    out = tmp_path / "net.onnx"
    options = ("--dataset", "digits", "--guard", "all", "--no-gate", "--test-images", 50, "--gate", "square=off")
    status, said, _ = resq("export-int8", tmp_path / "elu.onnx", "--out", out, *options, "--gate", "faults=off")
    assert status == 0
    left = json.loads(out.with_suffix(".json").read_text())["guards"]["left_out"]
    assert left == {"elu.alpha": "the file stores no tensor of that name; a number in an attribute cannot be voted"}
    assert f"not protected: elu.alpha ({left['elu.alpha']})" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guard", "all", "--weight-bits", 6, "--weight-code", "secded"), "is not for weights of 6 bits"),
        (("--weight-code", "secded"), "--weight-code is for protected weights, not --guard none"),
        (("--guard", "weights", "--weight-bits", 8), "leaves no bit of a byte for the code"),
        (("--guard", "parameters", "--health"), "--health counts words of a code, and --guard parameters has none"),
        (("--guard", "all", "--opset", 12), "--opset 12: give one from 13"),
    ],
    ids=str,
)
def test_refusals_are_one_line(export, options, message):
    status, out, error, file = export(*options)
    assert (status, out) == (2, "")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not file.exists()
