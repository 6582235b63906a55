"""The command line as a user meets it: help, results, and one line for each wrong input."""

import json
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import onnx
import pytest
from PIL import Image

from resq_deploy import __version__

COMMANDS = [
    "demo",
    "train",
    "export-int8",
    "protect",
    "inspect",
    "scrub",
    "faultcamp",
    "selftest",
    "attackcamp",
    "report",
    "study",
]


@pytest.fixture
def refused(resq):
    """Run a command that must be refused: status 2, one line on standard error, nothing on standard output."""

    def run(*arguments):
        status, out, err = resq(*arguments)
        assert status == 2, err
        assert out == ""
        lines = [
            line
            for line in err.splitlines()
            if not line.startswith(("exporting", "preparing", "calibrating", "note: judged as"))
        ]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        return lines[0]

    return run


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_shows_examples_and_is_quick(command):
    call = [sys.executable, "-X", "importtime", "-m", "resq_deploy", *([command] if command else []), "--help"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert re.search(rf"^ +resq-deploy {command or 'faultcamp'} \S", done.stdout, re.MULTILINE)
    assert "\\b" not in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    slow = {"torch", "onnx", "onnxruntime", "numpy", "scipy", "sklearn", "rich", "PIL", "matplotlib", "jsonschema"}
    assert not imported & slow  # what would take it past 0.3 s


def test_version(resq):
    assert resq("--version") == (0, f"resq-deploy, version {__version__}\n", "")


def test_inspect_prints_surfaces_as_json(resq, digits_int8):
    status, out, _ = resq("inspect", digits_int8, "--json")
    report = json.loads(out)
    assert status == 0
    assert {"tensor", "role", "layer", "dtype", "shape", "bits", "protection"} == report["surfaces"][0].keys()
    bits = {(s["role"], s["dtype"]): s["bits"] for s in report["surfaces"] if s["layer"] == "conv"}
    assert bits[("weight", "int8")] == 12 * 27 * 8
    assert bits[("bias", "int32")] == 12 * 32
    assert any("-128" in warning for warning in report["notes"])
    assert not any("never use" in warning for warning in report["warnings"])


def test_inspect_prints_tables(resq, digits_int8):
    status, out, _ = resq("inspect", digits_int8)
    assert status == 0
    assert "Stored bits by role" in out
    assert "weight-scale" in out


def test_faultcamp_writes_the_run_folder_of_the_design(resq, digits_int8, tmp_path):
    out = tmp_path / "run"
    status, printed, _ = resq(
        "faultcamp", digits_int8, "--dataset", "digits", "--samples", 20, "--images", 50, "--out", out
    )
    assert status == 0
    assert "SDC-1 by role" in printed
    assert {path.name for path in out.iterdir()} >= {"manifest.json", "summary.json", "faults.csv", "campaign.sqlite"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary.keys() >= {"golden", "population", "faults", "rates", "accuracy", "by_role", "by_layer", "by_bit"}
    assert summary["accuracy"].keys() == {"value", "low", "high", "n", "confidence"}
    header = (out / "faults.csv").read_text().splitlines()[0]
    assert header == (
        "fault,op,tensor,role,layer,index,bit,value,outcome,images,masked,benign,sdc1,sdc5,sdc10,sdc20,sdc10_abs,"
        "sdc20_abs,nonfinite,corrected,corrupted,accuracy,share,parts"
    )


def test_export_of_a_float_file(resq, digits_float, tmp_path):
    out = tmp_path / "net.int8.onnx"
    status, printed, _ = resq(
        "export-int8", digits_float, "--out", out, "--dataset", "digits", "--calibration-images", 50
    )
    assert status == 0
    assert "gate clean: passed" in printed
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert sidecar["model"]["bytes"] == out.stat().st_size
    assert abs(sidecar["accuracy"]["int8"]["value"] - sidecar["accuracy"]["float"]["value"]) < 0.01


def test_an_export_with_uint8_weights_passes_its_gates_and_verifies(resq, digits_float, tmp_path):
    out = tmp_path / "net.int8.onnx"
    given = ("export-int8", digits_float, "--out", out, "--dataset", "digits", "--calibration-images", 50)
    status, printed, err = resq(*given, "--ranges", "fault-aware", "--weight-type", "uint8", "--gate", "clean=2")
    assert status == 0, err
    assert "gate faults: passed" in printed
    assert json.loads(out.with_suffix(".json").read_text())["quantization"]["weights"] == "uint8"
    status, printed, _ = resq("inspect", out, "--verify", "--json")
    report = json.loads(printed)
    assert status == 0
    assert report["verification"]["verdict"] == "identical"
    kinds = {(surface["role"], surface["dtype"]) for surface in report["surfaces"]}
    assert {("weight", "uint8"), ("weight-zero-point", "uint8")} <= kinds
    assert any("never use the code 0:" in warning for warning in report["notes"])
    assert not any("never use" in warning for warning in report["warnings"])
    status, _, _ = resq(
        "faultcamp", out, "--dataset", "digits", "--samples", 20, "--images", 30, "--out", tmp_path / "run"
    )
    assert status == 0


def test_seven_bits_and_uint8_are_one_line(refused, digits_float, tmp_path):
    given = ("export-int8", digits_float, "--out", tmp_path / "net.onnx", "--dataset", "digits")
    assert "--reduce-range is for int8 weights" in refused(*given, "--weight-type", "uint8", "--reduce-range")
    assert not (tmp_path / "net.onnx").exists()


def test_a_failed_gate_exits_1_names_it_and_writes_nothing(resq, digits_float, tmp_path):
    out = tmp_path / "net.int8.onnx"
    arguments = ("export-int8", digits_float, "--out", out, "--dataset", "digits", "--gate", "clean=-100")
    status, _, err = resq(*arguments)
    assert status == 1
    assert "gate 'clean' failed" in err.splitlines()[-1]
    assert not out.exists()
    status, printed, _ = resq(*arguments, "--no-gate")
    assert status == 0
    assert "gate clean: FAILED" in printed
    assert json.loads(out.with_suffix(".json").read_text())["gates"][0]["passed"] is False


@pytest.fixture
def images(tmp_path):
    """Write an `.npz`; return its path."""

    def write(labels, shape=(10, 32, 32, 3), **more):
        path = tmp_path / "images.npz"
        np.savez(path, images=np.zeros(shape, np.uint8), labels=np.asarray(labels), **more)
        return path

    return write


def test_no_such_file(refused, tmp_path):
    line = refused("faultcamp", "nowhere.onnx", "--dataset", "digits", "--out", tmp_path / "run")
    assert "cannot read nowhere.onnx" in line


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 20, b"hello world"], ids=["empty", "png", "text"])
@pytest.mark.parametrize("command", ["inspect", "faultcamp", "export-int8"])
def test_not_onnx(refused, tmp_path, command, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    more = {"inspect": (), "faultcamp": ("--dataset", "digits", "--out", tmp_path / "run")}.get(
        command, ("--dataset", "digits", "--out", tmp_path / "out.onnx")
    )
    assert "not an ONNX model" in refused(command, path, *more)


def test_a_float_model_has_no_scales(refused, digits_float, tmp_path):
    arguments = ("--dataset", "digits", "--out", tmp_path / "run", "--roles", "weight-scale")
    line = refused("faultcamp", digits_float, *arguments)
    assert "stores nothing in that role; it stores bias, weight" in line
    assert not (tmp_path / "run").exists()


def test_labels_out_of_range(refused, digits_int8, images, tmp_path):
    path = images(np.arange(10) + 3, classes=np.array([str(i) for i in range(10)]))
    assert "label" in refused("faultcamp", digits_int8, "--dataset", path, "--out", tmp_path / "run")


def test_more_classes_than_the_model_has(refused, digits_int8, images, tmp_path):
    line = refused("faultcamp", digits_int8, "--dataset", images(np.arange(10) + 3), "--out", tmp_path / "run")
    assert "the model has 10 classes and data set images 13" in line


def test_another_number_of_classes(refused, digits_int8, images, tmp_path):
    path = images(np.zeros(10, int), classes=np.array(["a", "b"]))
    line = refused("faultcamp", digits_int8, "--dataset", path, "--out", tmp_path / "run")
    assert "the model has 10 classes and data set images 2" in line


def test_wrong_image_shape(refused, digits_int8, images, tmp_path):
    path = images(np.arange(10), (10, 28, 28, 3))
    line = refused("faultcamp", digits_int8, "--dataset", path, "--out", tmp_path / "run")
    assert "3x32x32" in line
    assert "3x28x28" in line


def test_unreadable_image(refused, digits_int8, tmp_path):
    for label in "ab":
        folder = tmp_path / "tree" / "test" / label
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "0.png")
    (tmp_path / "tree" / "test" / "a" / "1.png").write_bytes(b"no image")
    line = refused("faultcamp", digits_int8, "--dataset", tmp_path / "tree", "--out", tmp_path / "run")
    assert "1.png" in line


def test_output_folder_not_empty(refused, digits_int8, tmp_path):
    (tmp_path / "notes.txt").touch()
    line = refused("faultcamp", digits_int8, "--dataset", "digits", "--samples", 5, "--out", tmp_path)
    assert "not empty" in line
    assert "--resume" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("faultcamp",), "Missing argument"),
        (("faultcamp", "{model}", "--out", "{run}"), "--dataset"),
        (("faultcamp", "{model}", "--dataset", "digit", "--out", "{run}"), "did you mean digits"),
        (("faultcamp", "{model}", "--dataset", "digits", "--out", "{run}", "--roles", "weights"), "unknown role"),
        (("faultcamp", "{model}", "--dataset", "digits", "--out", "{run}", "--margin", "2"), "--margin"),
        (("faultcamp", "{model}", "--dataset", "digits", "--out", "{run}", "--faults", "flip"), "'flip' is not one of"),
        (("inspect", "--verbose"), "No such option"),
        (("export-int8", "{model}", "--dataset", "digits", "--out", "{run}.onnx"), "quantized already"),
        (("export-int8", "{model}", "--dataset", "digits", "--out", "{run}"), "must end in .onnx"),
        (("export-int8", "{run}", "--dataset", "digits", "--out", "{run}.onnx"), "no such file or folder"),
        (("export-int8", ".", "--dataset", "digits", "--out", "{run}.onnx"), "holds none of"),
        (("unknown",), "No such command"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_wrong_usage(refused, digits_int8, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    names = {"model": digits_int8, "run": tmp_path / "run"}
    assert message in refused(*(argument.format(**names) for argument in arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ranges", "max"), "'max' is not one of"),
        (("--granularity", "layer"), "'layer' is not one of"),
        (("--format", "qlinear"), "'qlinear' is not one of"),
        (("--design-ber", "1e-3"), "is for --ranges fault-aware, not minmax"),
        (("--ranges", "fault-aware", "--design-ber", "nan"), "give a bit error rate from 0 to 0.5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_ranges(refused, digits_float, tmp_path, options, message):
    out = tmp_path / "net.onnx"
    assert message in refused("export-int8", digits_float, "--out", out, "--dataset", "digits", *options)
    assert not out.exists()


def with_two_inputs(source, folder):
    model = onnx.load(source)
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["batch", 10]))
    model.graph.node.append(onnx.helper.make_node("Mul", ["logits", "mask"], ["masked"]))
    model.graph.output[0].name = "masked"
    onnx.save(model, folder / "two.onnx")
    return folder / "two.onnx"


def test_a_model_with_two_inputs(refused, digits_float, tmp_path):
    model = with_two_inputs(digits_float, tmp_path)
    line = refused("faultcamp", model, "--dataset", "digits", "--out", tmp_path / "run")
    assert "takes 2 inputs, and digits gives images alone: give --dataset an .npz with one array an input" in line
    assert "'mask' (float32 [batch, 10])" in line
    assert "--dataset synthetic" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--dataset", "digits", "--feed", "mask=1,2"),
            "--feed mask is float32 [2], and the model's input takes float32 [batch, 10]",
        ),
        (("--dataset", "digits", "--feed", "mask"), "give NAME=VALUE"),
        (("--dataset", "digits", "--feed", "none=1"), "the model has no input 'none'; it takes 'input'"),
        (("--dataset", "synthetic", "--state", "none=mask"), "the model has no output 'none'; it gives 'masked'"),
        (("--dataset", "synthetic", "--state", "mask"), "give OUT=IN"),
        (("--dataset", "synthetic", "--scale", "255"), "--scale 255: synthetic gives no images but arrays"),
        (("--dataset", "digits", "--size", "batch=3"), "--size says how large made-up samples are"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_inputs(refused, digits_float, tmp_path, options, message):
    line = refused("faultcamp", with_two_inputs(digits_float, tmp_path), *options, "--out", tmp_path / "run")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_campaign_on_made_up_inputs_says_so(resq, digits_float, tmp_path):
    model, out = with_two_inputs(digits_float, tmp_path), tmp_path / "run"
    options = ("--dataset", "synthetic", "--images", 3, "--samples", 2, "--workers", 1, "--out", out)
    status, _, err = resq("faultcamp", model, *options)
    assert status == 0, err
    assert "note: made-up inputs, so that accuracy means nothing: of a sample 'input' [3, 32, 32]" in err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["data"]["synthetic"] is True
    assert summary["golden"]["images"] == 3


def test_ctrl_c_leaves_a_resumable_campaign_and_status_130(halted, digits_int8, tmp_path):
    out = tmp_path / "run"
    call = ("faultcamp", digits_int8, "--dataset", "digits", "--images", 50, "--samples", 1000, "--out", out)
    process = halted("resq_deploy.campaign.store:Store.add", 1, *call)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "resq-deploy: interrupted; a run folder goes on with --resume"
    assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"


def test_dry_run_plans_and_writes_nothing(resq, digits_int8, tmp_path):
    arguments = ("faultcamp", digits_int8, "--dataset", "digits", "--images", 30, "--dry-run")
    status, out, _ = resq(*arguments, "--samples", 500)
    assert status == 0
    assert "planned: 500 faults, about" in out
    status, out, _ = resq(*arguments, "--out", tmp_path / "run")
    assert "planned: a pilot of " in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("bound", "status"), [("sdc1=1", 0), ("masked=0.1", 1), ("due=0.2", 0)])
def test_fail_above_is_a_gate_for_ci(resq, digits_int8, tmp_path, bound, status):
    arguments = ("--dataset", "digits", "--images", 30, "--samples", 50, "--out", tmp_path / "run")
    junit = tmp_path / "gates.xml"
    ended, printed, err = resq("faultcamp", digits_int8, *arguments, "--fail-above", bound, "--junit", junit)
    assert ended == status
    case, audit = ElementTree.parse(junit).getroot().find("testsuite")
    assert (case.get("name"), case.find("failure") is not None) == (bound, bool(status))
    assert audit.findtext("system-out").startswith("audit: 24 faults run again (20 drawn evenly")
    assert f"gate {bound}: {'FAILED' if status else 'passed'}" in printed
    assert ("the upper end is above the bound" in err) == bool(status)
    (gate,) = json.loads((tmp_path / "run" / "summary.json").read_text())["gates"]
    assert gate["passed"] is not bool(status)


def test_bit_error_rates_are_not_pooled_into_one_that_passes(resq, digits_int8, tmp_path):
    arguments = (
        "faultcamp",
        digits_int8,
        "--dataset",
        "digits",
        "--images",
        30,
        "--faults",
        "ber",
        "--ber",
        "1e-6,5e-2",
    )
    arguments = (*arguments, "--chips", 20, "--out", tmp_path / "run", "--fail-above")
    status, printed, err = resq(*arguments, "sdc1=0.5")
    points = json.loads((tmp_path / "run" / "summary.json").read_text())["curve"]
    low, high = (point["rates"]["sdc1"] for point in points)
    assert low["high"] < 0.3 < 0.5 < high["low"]
    assert (low["value"] + high["value"]) / 2 < 0.5  # which a pooled figure would have let pass
    assert status == 1
    assert "gate sdc1@1e-06=0.5: passed" in printed
    assert "gate sdc1@0.05=0.5: FAILED" in printed
    assert err.splitlines()[-1].startswith("resq-deploy: --fail-above sdc1@0.05=0.5: ")
    assert "accuracy under fault" not in printed
    assert resq(*arguments, "sdc1@1e-6=0.5", "--resume")[0] == 0


def test_dry_run_says_what_a_gate_needs(resq, digits_int8):
    arguments = ("faultcamp", digits_int8, "--dataset", "digits", "--images", 30, "--dry-run", "--fail-above")
    status, out, _ = resq(*arguments, "sdc1@1e-3=0.01", "--faults", "ber", "--ber", "1e-3", "--chips", 4)
    assert status == 0
    assert re.search(r"sdc1@0.001=0.01: needs 3\d\d chips or more, .*; 4 are planned: it cannot pass", out)
    status, out, _ = resq(*arguments, "sdc1=0.01")
    assert re.search(r"sdc1=0.01: needs 3\d\d faults or more, .* until a margin of 0.01 is reached", out)


def test_exposure_names_its_kinds_of_failure(resq, digits_int8, tmp_path):
    arguments = ("--dataset", "digits", "--images", 30, "--samples", 50, "--fit-per-mbit", 100, "--bits", 7)
    status, printed, _ = resq("faultcamp", digits_int8, *arguments, "--out", tmp_path / "run")
    assert status == 0
    exposure = json.loads((tmp_path / "run" / "summary.json").read_text())["exposure"]
    assert f"Exposure of {exposure['bits']:,} bits" in printed
    for kind, name in (
        ("wrong_answers", "wrong answers"),
        ("failing_faults", "failing faults"),
        ("failing_faults_over_share", "failing faults, over 1 %"),
        ("due", "due"),
    ):
        (line,) = [line for line in printed.splitlines() if re.match(rf"\W+{name} +\W", line)]
        assert f"{exposure['fit'][kind]['total']['value']:.3g} [" in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--fail-above", "sdc2=1"), "metrics are"),
        (("--fail-above", "sdc1=low"), "METRIC=BOUND"),
        (("--fail-above", "sdc1=nan"), "give a bound from 0 to 1"),
        (("--fail-above", "sdc1=-1"), "give a bound from 0 to 1"),
        (("--fail-above", "sdc1@1e-3=0.1"), "only --faults ber has bit error rates"),
        (("--fail-above", "sdc1=0.01", "--samples", "10"), "10 are planned, so that it cannot pass: give --samples"),
        (("--fail-above", "sdc1=0.01", "--faults", "ber"), "20 are planned, so that it cannot pass: give --chips"),
        (("--failing-share", "1"), "--failing-share 1.0: give a fraction"),
        (("--fault-list", "nowhere.csv"), "cannot read fault list"),
        (("--fault-list", "nowhere.csv", "--faults", "single"), "leave --faults out"),
        (("--faults", "ber", "--samples", "3"), "do not apply to ber"),
        (("--provider", "NoSuchProvider"), "no provider 'NoSuchProvider'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_campaign_options(refused, digits_int8, tmp_path, more, message):
    assert message in refused("faultcamp", digits_int8, "--dataset", "digits", "--out", tmp_path / "run", *more)


def test_out_is_needed(refused, digits_int8):
    assert "Missing option '--out'" in refused("faultcamp", digits_int8, "--dataset", "digits")
