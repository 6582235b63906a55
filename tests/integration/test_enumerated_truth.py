"""Stratified sampling against a truth that was enumerated: every bit of a small int8 file, by reload-and-run."""

import csv

import check_coverage
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.fault import Op
from resq_deploy.faults.stratified import estimate
from resq_deploy.faults.upsets import Pattern
from resq_deploy.quantization.export import ExportOptions, export_int8

pytestmark = pytest.mark.slow

REPLICATIONS = 300
MARGIN = 0.025


def small_reader(train):
    """Mean over 8x8 blocks, then a linear read-out fitted to digits: 160 weights."""
    blocks = to_model_input(train.images)[:, :1].reshape(-1, 4, 8, 4, 8).mean(axis=(2, 4)).reshape(-1, 16)
    features = np.hstack([blocks, np.ones((len(blocks), 1))])
    targets = np.eye(10)[train.labels]
    fitted = 5 * np.linalg.solve(features.T @ features + 0.1 * np.eye(17), features.T @ targets)
    parameters = {
        "pick": np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1),
        "weight": fitted[:16].astype(np.float32),
        "bias": fitted[16].astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "pick"], ["g"], "pick"),
        helper.make_node("AveragePool", ["g"], ["p"], "pool", kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "weight", "bias"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """The small file, and a campaign over all its bits."""
    digits = load_dataset("digits")
    folder = tmp_path_factory.mktemp("truth")
    onnx.save(small_reader(digits.train), folder / "small.onnx")
    export = export_int8(folder / "small.onnx", digits, ExportOptions(calibration_images=100), described="test")
    (folder / "small.int8.onnx").write_bytes(export.int8_file)
    model = DeployedModel.load(folder / "small.int8.onnx")
    whole = Campaign(model, digits, CampaignOptions(exhaustive=True, images=40))
    summary = whole.run(folder / "run")
    rates = np.zeros(whole.plan.population.size)
    with (folder / "run" / "faults.csv").open(encoding="utf-8") as stream:
        for place, row in zip(whole.plan.positions, csv.DictReader(stream), strict=True):
            rates[place] = int(row["sdc1"]) / 40
    return model, summary, rates


def test_an_exhaustive_campaign_has_no_uncertainty(campaign):
    model, summary, rates = campaign
    sdc1 = summary["rates"]["sdc1"]
    assert summary["population"]["faults"] == len(rates) == sum(surface.bits for surface in model.surfaces)
    assert sdc1["low"] == sdc1["value"] == sdc1["high"] == pytest.approx(rates.mean())
    assert 0.02 < rates.mean() < 0.5


def test_stratified_estimates_are_unbiased_and_their_intervals_hold(campaign):
    model, _, rates = campaign

    def begin(seed):
        return make_plan(model.surfaces, CampaignOptions(margin=MARGIN, seed=seed))

    found = check_coverage.stratified(begin, rates, REPLICATIONS)
    assert abs(found.bias) < 3 * found.error
    assert max(found.below, found.above) <= 0.027
    assert found.units < 0.5 * len(rates)


@pytest.mark.parametrize(
    "asked",
    [
        {"faults": FaultModel.CLUSTER, "cluster_shares": (Pattern(1, 2, 0.6), Pattern(1, 4, 0.4))},
        {"flip_direction": Direction.DOWN},
        {"flip_direction": Direction(0.8), "true_cells": TrueCells(share=0.5)},
        {"flip_direction": Direction.DOWN, "true_cells": TrueCells(rows=1), "memory_layout": "rows:8"},
    ],
    ids=["upsets of several cells", "flips from 1 to 0", "true and anti cells", "rows of true and of anti cells"],
)
def test_so_do_those_of_upsets_and_of_flips_that_go_one_way(campaign, tmp_path, asked):
    model, _, single = campaign
    whole = Campaign(model, load_dataset("digits"), CampaignOptions(exhaustive=True, images=40, **asked))
    whole.run(tmp_path / "run")
    rates = np.zeros(len(single))
    with (tmp_path / "run" / "faults.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            rates[whole.plan.positions[int(row["fault"])]] = int(row["sdc1"]) / 40
    assert (rates != single).any()
    if "flip_direction" in asked:  # a strike is the flip of its bit, or nothing
        stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(model.path).graph.initializer}
        edits = [whole.plan.population.edits(position)[0] for position in range(len(single))]
        held = [
            int.from_bytes(stored[edit.tensor].reshape(-1)[edit.index[0]].tobytes(), "little") >> int(edit.bit[0]) & 1
            for edit in edits
        ]
        changed = np.array([bit != (edit.op is Op.SET1) for bit, edit in zip(held, edits, strict=True)])
        assert rates.tolist() == np.where(changed, single, 0.0).tolist()
        assert 0.3 < changed.mean() < 0.7
    found = check_coverage.stratified(
        lambda seed: make_plan(model.surfaces, CampaignOptions(margin=MARGIN, seed=seed, **asked)), rates, 100
    )
    assert abs(found.bias) < 3 * found.error
    assert found.below + found.above <= 0.08


def test_a_stratified_plan_reaches_its_margin_and_draws_no_fault_twice(campaign):
    model, _, rates = campaign
    plan = make_plan(model.surfaces, CampaignOptions(margin=MARGIN))
    while (more := plan.continued(rates[plan.positions])) is not None:
        assert more.positions[: len(plan)].tolist() == plan.positions.tolist()
        plan = more
    assert len(set(plan.positions.tolist())) == len(plan)
    assert estimate(rates[plan.positions], plan.sample, 0.95).half_width <= MARGIN
    assert plan.sample.weights().sum() == pytest.approx(len(rates))
