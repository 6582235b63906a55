"""Failures in time with scrubs: which words and values count, and what a campaign and its page say of them."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.scrubbing import Units, scrubbing, units_of
from resq_deploy.codes.known import known_code
from resq_deploy.deployed.coded import coded_weights
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import OptionError
from resq_deploy.protection.guards import guard
from resq_deploy.protection.protect import protect


def protected(code):
    """300 weights under a code, and a voted bias of 60 floats."""
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "scale"], ["weights"]),
            helper.make_node("MatMul", ["x", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 60])],
        [
            numpy_helper.from_array(np.arange(300, dtype=np.int8).reshape(5, 60) % 32, "w"),
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.linspace(-1, 1, 60, dtype=np.float32), "bias"),
        ],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return protect(onnx.ModelProto.FromString(guard(plain.SerializeToString(), ["bias"])), ["w"], code)


@pytest.mark.parametrize(
    ("kind", "words", "bits", "corrects"),
    [(("secded", 7), 40, 64, 1), (("dected", 7), 24, 127, 2), (("dected", 6), 40, 61, 2)],
    ids=["secded", "dected", "dected-6"],
)
def test_words_and_values_of_a_file(kind, words, bits, corrects):
    code = known_code(*kind)
    model = protected(code)
    (weight,) = coded_weights(model)
    copies = [f"{name}" for node in model.graph.node if "bias" in node.output for name in node.input]
    equal = next(node for node in model.graph.node if copies[0] in node.output)
    everything = {*weight.stored, *copies[1:], *equal.input}
    found = units_of(model, everything)
    assert found == [
        Units(protection=code.name, count=words, bits=bits, corrects=corrects),
        Units(protection="votes", count=60, bits=32, corrects=1),
    ]
    assert units_of(model, weight.stored) == found[:1]
    assert units_of(model, {*equal.input}) == []  # a value is taken whole: of two copies alone nothing is said


def test_failures_in_time():
    words = Units(protection="secded", count=1000, bits=64, corrects=1)
    found = scrubbing([words], 1000.0, hours=24.0, lifetime=87_600.0)
    flips = 64 * 1000.0 / 1e6 / 1e9  # an hour and word
    assert found["fit"] == pytest.approx(1000 * flips**2 * 24.0 / 2 * 1e9, rel=1e-6)
    assert found["fit_never"] == pytest.approx(1000 * flips**2 * 87_600.0 / 2 * 1e9, rel=1e-4)
    values = Units(protection="votes", count=10, bits=32, corrects=1)
    both = scrubbing([words, values], 1000.0, hours=24.0, lifetime=87_600.0)
    assert both["fit"] == pytest.approx(found["fit"] + values.fit(1e-12, 24.0))
    assert scrubbing([], 1000.0, 24.0, 48.0)["fit"] == 0.0


def test_more_flips_corrected_gain_more_from_scrubs():
    one, two = (Units(protection="code", count=1, bits=64, corrects=corrects) for corrects in (1, 2))
    assert one.fit(1e-9, 10.0) / one.fit(1e-9, 1.0) == pytest.approx(10.0, rel=1e-5)
    assert two.fit(1e-9, 10.0) / two.fit(1e-9, 1.0) == pytest.approx(100.0, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scrub_hours": 24.0}, "give --fit-per-mbit"),
        ({"scrub_hours": 0.0, "fit_per_mbit": 1.0}, "--scrub-hours 0"),
        ({"scrub_hours": 25.0, "lifetime_hours": 24.0, "fit_per_mbit": 1.0}, "up to --lifetime-hours 24"),
        ({"scrub_hours": float("nan"), "fit_per_mbit": 1.0}, "--scrub-hours nan"),
        ({"lifetime_hours": -1.0}, "--lifetime-hours -1"),
        ({"scrub_hours": 24.0, "fit_per_mbit": 1.0, "ecc": "secded"}, "leave --ecc out"),
        ({"scrub_hours": 24.0, "faults": FaultModel.BER}, "give --fit-per-mbit"),
    ],
)
def test_options_that_make_no_sense(values, words):
    with pytest.raises(OptionError, match=words):
        CampaignOptions(**values)


def test_scrubs_decide_no_record():
    plain = CampaignOptions(fit_per_mbit=1.0)
    assert CampaignOptions(fit_per_mbit=1.0, scrub_hours=24.0, lifetime_hours=99.0).identity() == plain.identity()


@pytest.fixture(scope="module")
def guarded(digits_int8, tmp_path_factory):
    """The digits file with its biases voted."""
    names = [found.tensor for found in DeployedModel.load(digits_int8).surfaces if found.role == "bias"]
    path = tmp_path_factory.mktemp("guarded") / "net.onnx"
    path.write_bytes(guard(digits_int8.read_bytes(), names))
    return path


def test_a_campaign_and_its_page_tell_of_scrubs(resq, guarded, digits_int8, tmp_path):
    given = ("--dataset", "digits", "--images", 10, "--samples", 12, "--workers", 1, "--fit-per-mbit", 1000)
    status, printed, _ = resq("faultcamp", guarded, *given, "--scrub-hours", 24, "--out", tmp_path / "run")
    assert status == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = summary["exposure"]["fit"]["scrubbing"]
    (part,) = found["parts"]
    assert (found["hours"], found["lifetime_hours"], part["protection"], part["bits"]) == (24.0, 87_600.0, "votes", 32)
    assert 0.0 < found["fit"] < found["fit_never"]
    assert f"{found['fit']:.3g}" in printed
    assert "every value of which two copies were hit, counts as a failure" in " ".join(printed.split())
    status, _, complaints = resq("report", tmp_path / "run", "--out", tmp_path / "page.md", "--format", "md")
    assert (status, complaints) == (0, "")
    page = (tmp_path / "page.md").read_text()
    assert "FIT, scrubbed every 24 hours" in page
    assert "FIT, never scrubbed in 87600 hours" in page
    # Of a file without codes and votes it says so; and asked later, of the same records.
    status, printed, _ = resq("faultcamp", digits_int8, *given, "--out", tmp_path / "plain")
    assert "scrub" not in printed
    again = ("--scrub-hours", 24, "--out", tmp_path / "plain", "--resume")
    status, printed, complaints = resq("faultcamp", digits_int8, *given, *again)
    assert status == 0, complaints
    assert "scrubbing changes no figure" in printed
