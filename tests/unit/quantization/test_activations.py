"""Percentile ranges are those of the data, in bounded memory; the choice between them is measured under bit errors."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.faults.outcomes import top1
from resq_deploy.quantization import calibrate
from resq_deploy.quantization.activations import (
    CHIPS,
    Distribution,
    choose_percentile,
    distributions,
    percentile_ranges,
    right_under_faults,
)
from resq_deploy.quantization.calibrate import activation_ranges
from resq_deploy.quantization.fidelity import logits
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.weight_ranges import write_with_ranges

RNG = np.random.default_rng(4)
NORMAL = RNG.normal(size=100_000).astype(np.float32)
SAMPLES = {
    "two-sided": NORMAL,
    "rectified": np.maximum(NORMAL, 0),
    "heavy-tailed": RNG.standard_cauchy(size=100_000).astype(np.float32),
    "tiny": NORMAL * np.float32(1e-30),
    "pixels": (RNG.integers(0, 256, size=100_000) / 255).astype(np.float32),
    "negative": -np.abs(NORMAL),
}


def right_of(split):
    """Return what says which of some images a file answers right."""

    def right(file):
        scores = logits(file, split.images)
        return (top1(scores) == split.labels) & np.isfinite(scores).all(axis=1)

    return right


def distribution(*batches):
    found = Distribution()
    for batch in batches:
        found.add(batch)
    return found


@pytest.mark.parametrize("percentile", [51, 90, 99, 99.9, 99.99])
@pytest.mark.parametrize("name", SAMPLES)
def test_ranges_are_the_percentiles_of_the_data(name, percentile):
    values = SAMPLES[name]
    low, high = distribution(*np.array_split(values, 7)).range(percentile)
    ordered, tail = np.sort(values), (100 - percentile) / 200
    for end, rank, side in ((low, tail * len(values), (None, 0)), (high, (1 - tail) * len(values), (0, None))):
        nearest = ordered[[max(int(rank) - 1, 0), min(int(rank) + 1, len(values) - 1)]]
        # The values on both sides of the percentile, and the width of a bin; zero always inside.
        bounds = np.clip(np.outer(nearest, [1 - 1 / 128, 1 + 1 / 128]), *side)
        assert end.shape == (1,)
        assert end.dtype == np.float32
        assert bounds.min() <= end <= bounds.max()


@pytest.mark.parametrize("name", SAMPLES)
def test_at_100_the_range_is_that_of_all_values(name):
    values = SAMPLES[name]
    low, high = distribution(values[:10], values[10:]).range(100)
    assert (low[0], high[0]) == (values.min(), values.max())


def test_batches_add_up_in_any_order():
    parts = np.array_split(SAMPLES["heavy-tailed"], 5)
    whole, shuffled = distribution(SAMPLES["heavy-tailed"]), distribution(*parts[::-1])
    np.testing.assert_array_equal(whole.counts, shuffled.counts)
    assert whole.counts.sum() == 100_000
    assert whole.range(99) == shuffled.range(99)


@pytest.mark.parametrize("values", [[0, 0, 0, 3], [0] * 1000 + [-2, 2], [0, 0], [-0.0, 1e-42]], ids=str)
def test_a_range_that_collapses_keeps_all_values(values):
    values = np.asarray(values, np.float32)
    low, high = distribution(values).range(60)
    assert (low[0], high[0]) == (values.min(), values.max())


def test_values_that_are_not_finite_are_not_counted():
    values = np.append(NORMAL, np.float32([np.nan, np.inf, -np.inf]).repeat(5000))
    low, high = distribution(values).range(99)
    assert (low, high) == distribution(NORMAL).range(99)


def test_an_empty_activation_has_no_range():
    found = distribution(np.zeros((0, 3), np.float32))
    assert np.isnan(found.range(99)).all()


@pytest.fixture(scope="module")
def digits(digits_float):
    """The prepared model, what it takes, and calibration images."""
    model = prepare_float_model(digits_float)
    return model, Session(model.SerializeToString(), Deployment()).input, load_dataset("digits").calibration(130, 0)


@pytest.mark.parametrize("held", [1, 2**20, 2**30], ids=["image by image", "some", "all"])
def test_both_ends_are_those_of_calibration(digits, held, monkeypatch, capsys):
    model, spec, calibration = digits
    monkeypatch.setattr(calibrate, "_HELD", held)
    found = distributions(model, calibration.images, spec)
    expected = activation_ranges(model, calibration.images, spec)
    assert found.keys() == expected.keys()
    for name, (low, high) in percentile_ranges(found, 100.0).items():
        assert (low.tobytes(), high.tobytes()) == (expected[name][0].tobytes(), expected[name][1].tobytes())
        assert (low.dtype, low.shape) == (expected[name][0].dtype, expected[name][0].shape)
    assert found["c"].counts.sum() == 130 * 12 * 8 * 8
    assert capsys.readouterr() == ("", "")


def test_copies_that_fill_up_a_fixed_batch_are_not_counted(digits):
    model, _, calibration = digits
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_value = 16
    spec = Session(fixed.SerializeToString(), Deployment()).input
    found, free = (
        distributions(part, calibration.images[:20], digits[1] if part is model else spec) for part in (fixed, model)
    )
    assert spec.shape[0] == 16
    for name, values in found.items():
        np.testing.assert_array_equal(values.counts, free[name].counts)


def test_outputs_keep_all_values(digits):
    model, spec, calibration = digits
    found = distributions(model, calibration.images, spec)
    ranges = percentile_ranges(found, 90.0, {"logits"})
    assert ranges["logits"] == found["logits"].range(100)
    assert ranges["c"] == found["c"].range(90)
    assert ranges["c"][1] < found["c"].highest


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_the_file_holds_the_ranges(digits, form):
    model, spec, calibration = digits
    ranges = percentile_ranges(distributions(model, calibration.images, spec), 99.0, {"logits"})
    int8 = write_with_ranges(model, ranges, Scheme(format=form, activation_percentile=99.0)).int8
    written = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(int8).graph.initializer}
    for name, source in (("input", "input"), ("r" if form == "qdq" else "c", "r"), ("logits", "logits")):
        low, high = (float(end[0]) for end in ranges[source])
        assert written[f"{name}_scale"] == pytest.approx((max(high, 0) - min(low, 0)) / 255, rel=1e-6)


@pytest.fixture(scope="module")
def candidates(digits):
    """Files by percentile."""
    model, spec, calibration = digits
    found = distributions(model, calibration.images, spec)
    return {
        percentile: write_with_ranges(model, percentile_ranges(found, percentile, {"logits"}), Scheme()).int8
        for percentile in (60.0, 99.9, 100.0)
    }


def test_without_bit_errors_every_chip_is_the_file(digits, candidates):
    _, spec, calibration = digits
    scores = Session(candidates[100.0], Deployment()).run(spec.prepare(calibration.images))
    right = int((top1(scores) == calibration.labels).sum())
    assert right_under_faults(candidates[100.0], right_of(calibration), 0.0).sum(axis=1).tolist() == [right] * len(
        CHIPS
    )


def test_bit_errors_differ_between_chips_and_cost_accuracy(digits, candidates):
    few, many = (right_under_faults(candidates[100.0], right_of(digits[2]), ber) for ber in (1e-4, 5e-2))
    assert few.shape == many.shape == (len(CHIPS), 130)
    assert len(set(many.sum(axis=1).tolist())) > 1
    assert many.mean() < few.mean() - 0.05
    np.testing.assert_array_equal(many, right_under_faults(candidates[100.0], right_of(digits[2]), 5e-2))


def test_the_choice_is_told_with_its_figures(digits, candidates):
    told = []
    best, said = choose_percentile(candidates, right_of(digits[2]), 5e-2, told.append)
    entries = {entry["percentile"]: entry for entry in said["candidates"]}
    assert best == 100.0
    assert entries.keys() == candidates.keys()
    assert entries[100.0]["gain"] == {"value": 0.0, "margin": 0.0}
    for entry in entries.values():
        assert entry["accuracy"]["n"] == len(CHIPS)
        gain = entry["accuracy"]["value"] - entries[100.0]["accuracy"]["value"]
        assert entry["gain"]["value"] == pytest.approx(gain, abs=1e-12)
    assert entries[60.0]["gain"]["value"] < -entries[60.0]["gain"]["margin"]  # it cuts off too much
    assert (said["images"], said["bit_error_rate"]) == (130, 5e-2)
    assert len(told) == 3


def test_a_lower_percentile_is_chosen_where_it_is_ahead(digits, candidates):
    """The file of the right name, whatever is in it: 100 is given the ranges that cut off too much."""
    best, said = choose_percentile(
        {99.9: candidates[100.0], 100.0: candidates[60.0]}, right_of(digits[2]), 5e-2, lambda _: None
    )
    assert best == 99.9
    assert said["candidates"][0]["gain"]["value"] > said["candidates"][0]["gain"]["margin"] > 0


def test_what_may_be_chance_is_not_chosen(digits, candidates):
    """With one image nothing is certain, however large the difference."""
    files = {99.9: candidates[100.0], 100.0: candidates[60.0]}
    best, said = choose_percentile(files, right_of(digits[2].head(1)), 5e-2, lambda _: None)
    assert best == 100.0
    assert said["candidates"][0]["gain"]["margin"] >= 1


def test_of_equals_the_higher_percentile_is_chosen(digits, candidates):
    same = dict.fromkeys((99.9, 100.0, 99.99), candidates[100.0])
    best, _ = choose_percentile(same, right_of(digits[2].head(20)), 1e-3, lambda _: None)
    assert best == 100.0


def test_an_activation_of_many_shapes_is_counted_whole():
    """Values whose first axis is no multiple of the batch: nothing to leave out."""
    node = helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0)
    add = helper.make_node("Add", ["x", "s"], ["y"])
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 3])
    graph = helper.make_graph(
        [node, add], "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])]
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    )
    spec = Session(model.SerializeToString(), Deployment()).input
    found = distributions(model, np.ones((6, 3), np.float32), spec)
    assert found["s"].counts.sum() == 2
    assert found["x"].counts.sum() == 6 * 3
