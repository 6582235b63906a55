"""Equalization, activation percentiles and bias correction: what they change, gain and record."""

import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.equalize import MOST, equalize
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.scheme import Scheme


def stored(int8):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(int8).graph.initializer}


@pytest.fixture(scope="module")
def adjusted(digits_float):
    """Write the digits classifier with adjustments: the file, and the sidecar's entry."""
    model = prepare_float_model(digits_float)
    spec = Session(model.SerializeToString(), Deployment(threads=1)).input
    given = model.SerializeToString(deterministic=True)

    def run(images=120, report=lambda _: None, **scheme):
        calibration = load_dataset("digits").calibration(images, 0)
        written = write_adjusted(model, calibration, spec, Scheme(**scheme), report=report)
        assert model.SerializeToString(deterministic=True) == given
        return written

    return run


ALL = {"equalize": True, "activation_percentile": "auto", "bias_correction": True}
NAMES = ["equalization", "activations", "bias_correction"]


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("ranges", ["minmax", "fault-aware"])
def test_every_adjustment_leaves_its_entry(adjusted, ranges, form):
    told = []
    int8, said = adjusted(ranges=ranges, format=form, granularity="tensor", report=told.append, **ALL)
    fitted = ["reconstruction"] if ranges == "fault-aware" else []
    assert list(said) == ["ranges", NAMES[0], *fitted, *NAMES[1:]]
    json.dumps(said)
    for name in NAMES:
        before, after = said[name]["before"], said[name]["after"]
        assert before.keys() == after.keys() == {"squared_error", "agreement", "accuracy"}
        assert before["agreement"]["n"] == after["accuracy"]["n"] == 60  # the other half is for the corrections
        assert before["squared_error"] > 0
    made = [said[name] for name in said if name != "ranges"]
    for entry, following in itertools.pairwise(made):  # what is not kept is gone
        assert following["before"] == entry["after" if entry["kept"] else "before"]
    assert said["bias_correction"]["images"] == 60
    assert [entry["layer"] for entry in said["bias_correction"]["layers"]] == ["conv", "fc"]
    assert [entry["percentile"] for entry in said["activations"]["choice"]["candidates"]] == [99.9, 99.99, 99.999, 100]
    # calibrated twice, equalized, fitted and calibrated again, four percentiles measured, biases corrected
    assert len(told) == 2 + 1 + 2 * len(fitted) + 4 + 1
    onnx.checker.check_model(onnx.load_from_string(int8))


def test_equal_inputs_give_equal_adjustments(adjusted):
    assert adjusted(ranges="mse", **ALL) == adjusted(ranges="mse", **ALL)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_percentile_makes_the_steps_of_activations_smaller(adjusted, form):
    plain, narrow = stored(adjusted(format=form)[0]), stored(adjusted(format=form, activation_percentile=99.0)[0])
    assert plain.keys() == narrow.keys()
    smaller = {name for name in plain if plain[name].tobytes() != narrow[name].tobytes()}
    hidden = "r" if form == "qdq" else "c"
    assert smaller == {f"{hidden}_scale", "fc.bias_quantized"} | (
        {"fc.bias_quantized_scale"} if form == "qdq" else set()
    )
    assert narrow[f"{hidden}_scale"] < plain[f"{hidden}_scale"]
    _, said = adjusted(format=form, activation_percentile=99.0)
    assert said["activations"]["percentile"] == 99.0
    assert said["activations"]["choice"] is None
    (entry,) = said["activations"]["tensors"]
    assert entry["scale"] == {
        "before": float(plain[f"{hidden}_scale"]),
        "after": float(narrow[f"{hidden}_scale"]),
    }


def test_where_all_values_win_the_file_is_that_without_a_choice(adjusted):
    """The digits classifier has no outliers: narrower ranges only cut off."""
    int8, said = adjusted(activation_percentile="auto")
    percentile = said["activations"]["percentile"]
    assert int8 == adjusted(activation_percentile=percentile)[0]
    if percentile == 100:
        assert int8 == adjusted()[0]
        assert said["activations"]["tensors"] == []


def changed_digits(digits_float, change):
    """The digits classifier with other weights: `change` gets them by name and returns those that differ."""
    model = prepare_float_model(digits_float)
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        values = change({name: value.copy() for name, value in given.items()}).get(tensor.name, given[tensor.name])
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return model


def uneven(weights):
    """The same function, with channels that differ in size up to 400 times."""
    factors = np.geomspace(1 / 20, 20, 12)
    return {
        "conv.weight": weights["conv.weight"] * factors[:, None, None, None],
        "conv.bias": weights["conv.bias"] * factors,
        "fc.weight": (weights["fc.weight"].reshape(12, -1) / factors[:, None]).reshape(-1, 10),
    }


def near_dead(weights):
    """A channel that hangs by its bias: its weights are next to nothing."""
    weights["conv.weight"][3] *= 1e-8
    weights["conv.bias"][3] = 5.0
    share = weights["fc.weight"].reshape(12, -1, 10)[3].sum(axis=0) * 5.0
    return weights | {"fc.bias": weights["fc.bias"] - share}


@pytest.mark.parametrize(("change", "helps"), [(uneven, True), (near_dead, False)], ids=["uneven", "near dead"])
def test_equalization_is_kept_where_it_helps_and_undone_where_it_harms(digits_float, change, helps):
    model = changed_digits(digits_float, change)
    spec = Session(model.SerializeToString(), Deployment(threads=1)).input
    calibration = load_dataset("digits").calibration(120, 0)
    int8, said = write_adjusted(model, calibration, spec, Scheme(granularity="tensor", equalize=True))
    equalized, record = equalize(model, "tensor")
    entry = said["equalization"]
    assert record.items() <= entry.items()
    assert (entry["after"]["squared_error"] <= entry["before"]["squared_error"]) == helps == entry["kept"]
    kept = write_adjusted(equalized if helps else model, calibration, spec, Scheme(granularity="tensor"))
    assert int8 == kept[0]


def test_factors_of_a_near_dead_channel_are_bounded(digits_float):
    model = changed_digits(digits_float, near_dead)
    equalized, record = equalize(model, "channel")
    assert record["largest_factor"] == pytest.approx(MOST)
    biases = {tensor.name: numpy_helper.to_array(tensor) for tensor in equalized.graph.initializer}["conv.bias"]
    assert np.abs(biases).max() == pytest.approx(5.0 * MOST)


def test_corrected_biases_are_kept_where_they_help(adjusted):
    plain = adjusted(granularity="tensor")[0]
    int8, said = adjusted(granularity="tensor", bias_correction=True)
    entry = said["bias_correction"]
    assert entry["kept"]
    assert entry["after"]["squared_error"] < entry["before"]["squared_error"]
    differ = {name for name, value in stored(int8).items() if value.tobytes() != stored(plain)[name].tobytes()}
    assert {"conv.bias_quantized", "fc.bias_quantized"} & differ
    assert all("bias" in name for name in differ)


def test_corrected_biases_are_dropped_where_they_do_not(adjusted):
    """From one image alone, the mean error is that of no other."""
    int8, said = adjusted(images=2, bias_correction=True)
    assert said["bias_correction"]["images"] == 1
    assert said["bias_correction"]["after"]["squared_error"] >= said["bias_correction"]["before"]["squared_error"]
    assert not said["bias_correction"]["kept"]
    assert int8 == adjusted(images=2)[0]


def test_a_single_calibration_image_serves_for_everything(adjusted):
    _, said = adjusted(images=1, **ALL)
    assert said["bias_correction"]["images"] == said["activations"]["choice"]["images"] == 1


def test_a_percentile_that_costs_answers_is_undone(adjusted):
    int8, said = adjusted(activation_percentile=55.0)
    entry = said["activations"]
    assert entry["percentile"] == 55.0
    assert not entry["kept"]
    assert entry["after"]["agreement"]["value"] < 0.9 < entry["before"]["agreement"]["value"]
    assert int8 == adjusted()[0]


def test_a_percentile_may_cost_a_little_of_the_logits(adjusted):
    """It is there for what faults do; answers are what it must not cost."""
    _, said = adjusted(activation_percentile=99.0)
    entry = said["activations"]
    assert entry["after"]["squared_error"] > entry["before"]["squared_error"]
    assert entry["kept"]
