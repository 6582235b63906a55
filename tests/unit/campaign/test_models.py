"""Fault models, lists, memory, proofs and exposure, on a real int8 file."""

import csv
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from resq_deploy.campaign import run
from resq_deploy.campaign.engines.rest import Outputs
from resq_deploy.campaign.gates import parse_gate
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import FailedError, OptionError
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.fault import Op
from resq_deploy.faults.outcomes import COUNTS
from resq_deploy.faults.stratified import estimate
from resq_deploy.faults.upsets import Pattern

IMAGES = 40
PATTERNS = (Pattern(1, 2, 0.5), Pattern(1, 3, 0.3), Pattern(1, 4, 0.2))
LINES = {"memory_layout": "rows:256", "samples": None, "layers": "*fc*"}
HALF = {"flip_direction": Direction.DOWN, "true_cells": TrueCells(share=0.5)}
BY_ROWS = {
    "faults": FaultModel.CLUSTER,
    "cluster_shares": (Pattern(2, 2, 1.0),),
    "memory_layout": "rows:16",
    "flip_direction": Direction(0.8),
    "true_cells": TrueCells(rows=1),
}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def prepare(digits_int8, digits):
    return lambda **values: Campaign(DeployedModel.load(digits_int8), digits, CampaignOptions(images=IMAGES, **values))


def rows_of(folder):
    with (folder / "faults.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def patched_by_hand(path, rows):
    """Apply rows of a fault list to the parsed file, element by element."""
    model = onnx.load(path)
    for row in rows:
        tensor = next(t for t in model.graph.initializer if t.name == row["tensor"])
        values = numpy_helper.to_array(tensor).copy()
        patterns = values.reshape(-1).view(f"u{values.dtype.itemsize}")
        kind = patterns.dtype.type
        index, bit = int(row["index"]), kind(1) << kind(int(row["bit"]))
        before = patterns[index]
        patterns[index] = {
            "flip": before ^ bit,
            "set0": before & ~bit,
            "set1": before | bit,
            "word": kind(int(row["value"] or 0)),
        }[row["op"]]
        tensor.CopyFrom(numpy_helper.from_array(patterns.view(values.dtype).reshape(values.shape), tensor.name))
    return model


CELLS_AND_ROWS = [
    pytest.param({"flip_direction": Direction(0.7)}, id="single-mostly-1to0"),
    pytest.param(HALF, id="single-true-and-anti-cells"),
    pytest.param({**HALF, "faults": FaultModel.BURST, "burst": 4}, id="burst-true-and-anti-cells"),
    pytest.param(BY_ROWS, id="cluster-rows-of-true-and-of-anti-cells"),
    pytest.param({**LINES, "faults": FaultModel.STUCK_ROW_0}, id="stuck-row-0"),
    pytest.param({**LINES, "faults": FaultModel.STUCK_ROW_1}, id="stuck-row-1"),
]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"faults": FaultModel.BURST, "burst": 3}, id="burst"),
        pytest.param({"faults": FaultModel.STUCK_AT_0}, id="stuck-at-0"),
        pytest.param({"faults": FaultModel.STUCK_AT_1}, id="stuck-at-1"),
        pytest.param({"faults": FaultModel.WORD}, id="word"),
        pytest.param({"flip_direction": Direction.UP}, id="single-0to1"),
        pytest.param({"faults": FaultModel.BURST, "burst": 4, "flip_direction": Direction.DOWN}, id="burst-1to0"),
        pytest.param({"faults": FaultModel.CLUSTER, "cluster_shares": PATTERNS}, id="cluster"),
        pytest.param(
            {"faults": FaultModel.CLUSTER, "cluster_shares": PATTERNS, "memory_layout": "interleaved:4"},
            id="cluster-interleaved",
        ),
        pytest.param({"roles": (Role.BIAS, Role.WEIGHT_SCALE)}, id="single-in-biases-and-scales"),
        *CELLS_AND_ROWS,
        pytest.param({**LINES, "faults": FaultModel.STUCK_COLUMN_0, "memory_layout": "rows:2"}, id="stuck-column-0"),
        pytest.param({**LINES, "faults": FaultModel.STUCK_COLUMN_1, "memory_layout": "rows:2"}, id="stuck-column-1"),
    ],
)
def test_every_model_does_what_its_rows_say(prepare, digits, digits_int8, tmp_path, values):
    summary = prepare(**{"samples": 15, **values}).run(tmp_path / "run")
    images = to_model_input(digits.evaluation(IMAGES).images)
    golden = _outputs(onnx.load(digits_int8), images)
    groups = {}
    for row in rows_of(tmp_path / "run"):
        groups.setdefault(row["fault"], []).append(row)
    assert len(groups) == summary["faults"]["evaluated"] >= 11
    for rows in groups.values():
        faulty = _outputs(patched_by_hand(digits_int8, rows), images)
        masked = (faulty.view(np.uint32) == golden.view(np.uint32)).all(axis=1)
        broken = ~np.isfinite(faulty).all(axis=1)
        changed = ~masked & (broken | (faulty.argmax(1) != golden.argmax(1)))
        assert [int(rows[0][name]) for name in ("masked", "sdc1", "nonfinite")] == [
            masked.sum(), changed.sum(), (broken & ~masked).sum(),
        ]  # fmt: skip


def _outputs(model, images):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on any CPU, onnxruntime's own way
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"faults": FaultModel.SINGLE}, id="single"),
        pytest.param({"faults": FaultModel.BURST}, id="burst"),
        pytest.param({"faults": FaultModel.WORD}, id="word"),
        pytest.param({"faults": FaultModel.STUCK_AT_1}, id="stuck-at-1"),
        pytest.param({"faults": FaultModel.CLUSTER}, id="cluster"),
        pytest.param({"flip_direction": Direction.UP}, id="single-0to1"),
        pytest.param({"flip_direction": Direction.DOWN}, id="single-1to0"),
        pytest.param({"faults": FaultModel.BURST, "burst": 4, "flip_direction": Direction.UP}, id="burst-0to1"),
        pytest.param(
            {
                "faults": FaultModel.CLUSTER,
                "cluster_shares": PATTERNS,
                "memory_layout": "interleaved:4",
                "flip_direction": Direction.DOWN,
            },
            id="cluster-interleaved-1to0",
        ),
        *CELLS_AND_ROWS,
        pytest.param(
            {**LINES, "faults": FaultModel.STUCK_COLUMN_0, "memory_layout": "rows:2"},
            id="stuck-column-0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {**LINES, "faults": FaultModel.STUCK_COLUMN_1, "memory_layout": "rows:2"},
            id="stuck-column-1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_table_of_faults_is_a_fault_list_with_the_same_outcomes(prepare, tmp_path, values):
    drawn = prepare(**{"samples": 12, **values}).run(tmp_path / "drawn")
    listed = prepare(faults=FaultModel.LIST, fault_list=tmp_path / "drawn" / "faults.csv").run(tmp_path / "listed")
    assert rows_of(tmp_path / "listed") == rows_of(tmp_path / "drawn")
    assert listed["population"]["faults"] == drawn["faults"]["evaluated"] >= 11
    sdc1 = listed["rates"]["sdc1"]
    assert sdc1["low"] == sdc1["value"] == sdc1["high"]  # a list is its own population


def test_a_stuck_at_on_a_bit_that_has_that_value_is_masked_without_a_run(prepare, tmp_path):
    values = {"samples": 40, "faults": FaultModel.STUCK_AT_0, "roles": (Role.WEIGHT,)}
    summary = prepare(**values, engine="reload").run(tmp_path / "run")
    with Store(tmp_path / "run" / FILE) as store:
        untouched = [record for record in store.records() if record.changed == 0]
    assert 5 < len(untouched) < 35
    assert all(str(record.outcome) == "masked" for record in untouched)
    assert summary["faults"]["reloaded"] == 40 - len(untouched)


def test_the_store_keeps_which_images_were_right(prepare, tmp_path):
    campaign = prepare(samples=10)
    campaign.run(tmp_path / "run")
    with Store(tmp_path / "run" / FILE) as store:
        for record in store.records():
            right = np.unpackbits(np.frombuffer(record.right, np.uint8), count=IMAGES)
            assert right.mean() == record.quality


def test_secded_corrects_single_flips_and_detects_double_ones(prepare, tmp_path):
    single = prepare(samples=20, ecc="secded").run(tmp_path / "single")
    assert single["rates"]["masked"]["value"] == 1.0
    assert single["faults"]["reloaded"] == 0
    double = prepare(samples=20, ecc="secded", faults=FaultModel.BURST, burst=2).run(tmp_path / "double")
    assert double["faults"]["due"] == 20
    assert double["accuracy"]["value"] == 0.0
    values = {"samples": 20, "ecc": "secded", "faults": FaultModel.BURST, "burst": 3}
    triple = prepare(**values, engine="reload").run(tmp_path / "triple")
    assert triple["faults"]["reloaded"] == 20


def test_secded_lowers_the_damage_of_bit_errors(prepare, tmp_path):
    values = {"faults": FaultModel.BER, "ber": (5e-3,), "chips": 4}
    plain = prepare(**values).run(tmp_path / "plain")
    corrected = prepare(**values, ecc="secded", roles=()).run(tmp_path / "ecc")
    assert corrected["faults"]["due"] > 0 == plain["faults"]["due"]


def test_an_engine_that_misses_changes_is_caught_by_the_audit(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "canary", lambda *_: {})
    monkeypatch.setattr(Outputs, "add_rows", lambda *_: None)
    monkeypatch.setattr(Outputs, "add", lambda *_: None)
    with pytest.raises(FailedError, match="of 30 faults differ from reload-and-run"):
        prepare(samples=30, roles=(Role.WEIGHT,), audit=1.0).run(tmp_path / "run")


def test_replay_and_reload_write_the_same_table(prepare, tmp_path):
    for engine in ("replay", "reload"):
        summary = prepare(samples=60, engine=engine).run(tmp_path / engine)
        assert summary["engine"] == {"name": engine, "fallback": None}
        assert (summary["faults"]["reloaded"] == 60) == (engine == "reload")
    assert (tmp_path / "replay" / "faults.csv").read_bytes() == (tmp_path / "reload" / "faults.csv").read_bytes()


KINDS = ("wrong_answers", "failing_faults", "failing_faults_over_share", "due")


def test_exposure_scales_the_rates_of_the_roles_and_adds_up(prepare, tmp_path):
    summary = prepare(samples=300, ber=(1e-7, 1e-6), fit_per_mbit=500.0).run(tmp_path / "run")
    exposure = summary["exposure"]
    bits = {role: entry["bits"] for role, entry in exposure["roles"].items()}
    total = sum(bits.values())
    assert total == exposure["bits"] == summary["population"]["bits"]
    weight = summary["by_role"]["weight"]["sdc1"]
    at = exposure["at"][1]
    assert at["ber"] == 1e-6
    for end in ("value", "low", "high"):
        assert at["wrong_answers"]["by_role"]["weight"][end] == pytest.approx(bits["weight"] * 1e-6 * weight[end])
        assert exposure["fit"]["wrong_answers"]["by_role"]["weight"][end] == pytest.approx(
            bits["weight"] / 1e6 * 500.0 * weight[end]
        )
    for figures in (exposure, at, exposure["fit"]):
        for kind in KINDS:
            parts = [part["value"] for part in figures[kind]["by_role"].values()]
            assert figures[kind]["total"]["value"] == pytest.approx(sum(parts), rel=1e-12)
            if figures is not at:
                layers = [part["value"] for part in figures[kind]["by_layer"].values()]
                assert figures[kind]["total"]["value"] == pytest.approx(sum(layers), rel=1e-12)
    shares = [entry["share_of_risk"] for entry in exposure["roles"].values()]
    assert exposure["complete"] == (None not in shares)
    unseen = exposure["wrong_answers"]["by_role"]
    known = sum(
        share or unseen[role]["value"] / exposure["wrong_answers"]["total"]["value"]
        for role, share in zip(unseen, shares, strict=True)
    )
    assert known == pytest.approx(1.0)


@pytest.mark.parametrize(
    "narrowed",
    [{"bits": (7,)}, {"roles": (Role.BIAS,)}, {"layers": "conv"}, {"bits": (0, 1), "roles": (Role.WEIGHT,)}],
    ids=lambda narrowed: ", ".join(narrowed),
)
def test_only_the_bits_that_the_filters_leave_are_exposed(prepare, tmp_path, digits_int8, narrowed):
    exposure = prepare(samples=30, fit_per_mbit=100.0, **narrowed).run(tmp_path / "run")["exposure"]
    left = [
        surface
        for surface in DeployedModel.load(digits_int8).surfaces
        if surface.role in narrowed.get("roles", Role) and surface.layer == narrowed.get("layers", surface.layer)
    ]
    wanted = narrowed.get("bits", range(64))
    bits = sum(surface.elements * sum(bit in wanted for bit in range(surface.width)) for surface in left)
    assert exposure["bits"] == sum(role["bits"] for role in exposure["roles"].values()) == bits
    for kind in KINDS:
        share, fit = (figures[kind]["total"] for figures in (exposure, exposure["fit"]))
        for end in ("value", "low", "high"):
            assert fit[end] == pytest.approx(share[end] * bits / 1e6 * 100.0)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"faults": FaultModel.BURST, "samples": 5}, "a burst flips several"),
        ({"faults": FaultModel.WORD, "samples": 5}, "a replaced word changes several"),
        ({"faults": FaultModel.BER, "ber": (1e-5,), "chips": 2}, "the curve over bit error rates"),
    ],
    ids=["burst", "word", "ber"],
)
def test_faults_of_several_bits_have_no_exposure_and_say_why(prepare, tmp_path, values, reason):
    summary = prepare(**values).run(tmp_path / "run")
    assert summary["exposure"] is None
    assert reason in summary["exposure_reason"]


def test_another_failing_share_is_asked_of_the_same_faults(prepare, tmp_path):
    values = {"samples": 100, "bits": (6, 7)}
    exposures = [
        prepare(**values, failing_share=share).run(tmp_path / "run", resume=True)["exposure"] for share in (0.0, 0.2)
    ]
    rows = [int(row["sdc1"]) / IMAGES for row in rows_of(tmp_path / "run")]
    for exposure, share in zip(exposures, (0.0, 0.2), strict=True):
        assert exposure["failing_share"] == share
        found = exposure["roles"]["weight"]
        harm = [rate for rate, row in zip(rows, rows_of(tmp_path / "run"), strict=True) if row["role"] == "weight"]
        assert found["failing_faults"]["value"] == pytest.approx(np.mean([rate > 0 for rate in harm]))
        assert found["failing_faults_over_share"]["value"] == pytest.approx(np.mean([rate > share for rate in harm]))
    assert exposures[0]["failing_faults"] == exposures[1]["failing_faults"]
    values = [exposure["failing_faults_over_share"]["total"]["value"] for exposure in exposures]
    assert values[0] > values[1]


def test_no_figure_is_pooled_over_bit_error_rates(prepare, tmp_path):
    summary = prepare(faults=FaultModel.BER, ber=(1e-5, 3e-2), chips=5).run(tmp_path / "run")
    assert not {"rates", "accuracy", "due"} & summary.keys()
    rows = rows_of(tmp_path / "run")
    for point in summary["curve"]:
        chips = [row for row in rows if float(row["ber"]) == point["ber"]]
        assert point["chips"] == len(chips) == 5
        for name in COUNTS:
            assert point["rates"][name]["value"] == pytest.approx(np.mean([int(row[name]) / IMAGES for row in chips]))
            assert point["rates"][name]["n"] == 5
        accuracy = [float(row["accuracy"]) for row in chips]
        assert list(point["spread"]["accuracy"].values()) == pytest.approx(
            np.quantile(accuracy, (0, 0.25, 0.5, 0.75, 1))
        )
        assert point["worst"] == pytest.approx(min(accuracy))
    low, high = (point["rates"]["sdc1"] for point in summary["curve"])
    assert low["value"] < high["low"]


def test_chips_that_agree_leave_an_interval(prepare, tmp_path):
    (point,) = prepare(faults=FaultModel.BER, ber=(1e-9,), chips=6).run(tmp_path / "run")["curve"]
    assert point["rates"]["sdc1"]["value"] == point["due"]["value"] == 0.0
    for found in (point["rates"]["sdc1"], point["due"], point["accuracy"]):
        assert found["high"] - found["low"] > 0.3  # of six chips, whatever they do


def test_a_gate_that_cannot_pass_is_refused_before_the_golden_run(digits_int8, digits, monkeypatch):
    monkeypatch.setattr(run, "golden_run", lambda *_: pytest.fail("the golden run was begun"))
    options = CampaignOptions(images=IMAGES, faults=FaultModel.BER, ber=(1e-4,), chips=20)
    gates = [parse_gate("sdc1@1e-4=0.01")]
    with pytest.raises(
        OptionError, match=r"needs 3\d\d chips or more, .* 20 are planned.*: give --chips 3\d\d or more"
    ):
        Campaign(DeployedModel.load(digits_int8), digits, options, gates=gates)


def test_gates_stand_in_the_summary_and_decide_no_figure(digits_int8, digits, prepare, tmp_path):
    options = CampaignOptions(images=IMAGES, samples=200)
    gates = [parse_gate(text) for text in ("sdc1=1", "sdc1=0.02", "due=0.05")]
    model = DeployedModel.load(digits_int8)
    summary = Campaign(model, digits, options, gates=gates).run(tmp_path / "run")
    assert [gate["bound"] for gate in summary["gates"]] == [1.0, 0.02, 0.05]
    for gate in summary["gates"]:
        figure = summary["due"] if gate["metric"] == "due" else summary["rates"]["sdc1"]
        assert gate["estimate"] == figure
        assert gate["passed"] == (figure["high"] <= gate["bound"])
    again = prepare(samples=200).run(tmp_path / "run", resume=True)
    assert again["gates"] == []
    assert again["rates"] == summary["rates"]


def test_a_margin_is_reached_with_strata_and_survives_an_interruption(prepare, tmp_path):
    whole = prepare(margin=0.05).run(tmp_path / "whole")
    sdc1 = whole["rates"]["sdc1"]
    assert whole["design"] == "stratified"
    assert max(sdc1["high"] - sdc1["value"], sdc1["value"] - sdc1["low"]) <= 0.05

    def stop(progress):
        if progress.done >= whole["faults"]["evaluated"] - 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(margin=0.05).run(tmp_path / "broken", report=stop)
    resumed = prepare(margin=0.05).run(tmp_path / "broken", resume=True)
    assert {**resumed, "throughput": 0} == {**whole, "throughput": 0}
    assert rows_of(tmp_path / "broken") == rows_of(tmp_path / "whole")


def test_domains_of_a_margin_rest_on_their_own_strata(prepare, tmp_path):
    campaign = prepare(margin=0.05)
    summary = campaign.run(tmp_path / "run")
    with Store(tmp_path / "run" / FILE) as store:
        rates = np.array([record.counts["sdc1"] / record.images for record in store.records()])
    plan = campaign.plan
    assert summary["due"]["value"] == 0.0
    for role, figures in summary["by_role"].items():
        own = np.array([plan.group(number, "role") == role for number in range(len(plan))])
        alone = estimate(rates[own], plan.sample.inside(own, plan.part("role", role)), 0.95)
        assert figures["sdc1"] == alone.as_dict()
        assert figures["sdc1"]["n"] == own.sum()


def test_bit_errors_with_a_margin_have_it_at_every_rate_and_resume(prepare, tmp_path):
    values = {"faults": FaultModel.BER, "ber": (1e-6, 1e-5), "margin": 0.15}
    whole = prepare(**values).run(tmp_path / "whole")
    for point in whole["curve"]:
        assert point["chips"] > 20
        sdc1 = point["rates"]["sdc1"]
        assert max(sdc1["high"] - sdc1["value"], sdc1["value"] - sdc1["low"]) <= 0.15

    def stop(progress):
        if progress.done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(**values).run(tmp_path / "broken", report=stop)
    resumed = prepare(**values).run(tmp_path / "broken", resume=True)
    assert {**resumed, "throughput": 0} == {**whole, "throughput": 0}


def test_the_share_of_due_faults_is_bounded_exactly(prepare, tmp_path):
    due = prepare(samples=40).run(tmp_path / "run")["due"]
    assert due["high"] == pytest.approx(1 - 0.025 ** (1 / 40), rel=0.01)


def test_the_summary_is_plain_json(prepare, tmp_path):
    summary = prepare(samples=5).run(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary))


def test_word_faults_keep_their_values_in_the_table(prepare, tmp_path):
    prepare(samples=5, faults=FaultModel.WORD).run(tmp_path / "run")
    assert all(row["op"] == Op.WORD and row["value"] != "" for row in rows_of(tmp_path / "run"))
