"""Weights of 7 and 6 bits: the grid that is written, in every form, and ranges that reckon with the code."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.saturation import saturating_layers
from resq_deploy.deployed.session import Session
from resq_deploy.errors import OptionError
from resq_deploy.faults.outcomes import top1
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.quantization.ranges import best_clip, rate_left
from resq_deploy.quantization.scheme import GRANULARITIES, RANGES, STATIC_FORMATS, Scheme
from resq_deploy.quantization.weights import weight_tensors

LARGEST = {8: 127, 7: 63, 6: 31}
BER = {"mse": 0.0, "fault-aware": 1e-3}


@pytest.fixture(scope="module")
def prepared(digits_float):
    model = prepare_float_model(digits_float)
    return model, Session(model.SerializeToString(), Deployment()).input


@pytest.fixture(scope="module")
def write(prepared):
    """Return a function that writes the digits model in a scheme, and gives the file and its tensors."""
    model, spec = prepared

    def made(**scheme):
        calibration = load_dataset("digits").calibration(60, 0)
        int8, record = write_adjusted(model, calibration, spec, Scheme(**scheme))
        graph = onnx.load_from_string(int8).graph
        return int8, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}, record

    return made


@pytest.mark.parametrize("bits", [7, 6])
@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("form", "granularity", "ranges"), list(itertools.product(STATIC_FORMATS, GRANULARITIES, RANGES))
)
def test_codes_and_scales_are_those_of_the_grid(prepared, write, form, granularity, ranges, weight_type, bits):
    _, written, record = write(
        format=form,
        granularity=granularity,
        ranges=ranges,
        weight_type=weight_type,
        weight_bits=bits,
        reconstruct=False,
    )
    weights, _ = weight_tensors(prepared[0], granularity)
    zero, largest = (1 << bits - 1 if weight_type == "uint8" else 0), LARGEST[bits]
    assert len(record["ranges"]["tensors"]) == len(weights) == 2
    for weight in weights:
        clip = weight.largest
        if ranges != "minmax":
            clip = best_clip(weight.values, axis=weight.axis, ber=BER[ranges], code_max=largest)
        scale, codes = written[f"{weight.name}_scale"], written[f"{weight.name}_quantized"]
        assert scale.tobytes() == (clip / np.float32(largest)).astype(np.float32).tobytes()
        assert codes.dtype == weight_type
        assert (written[f"{weight.name}_zero_point"] == zero).all()
        signed = codes.astype(np.int64) - zero
        assert np.abs(signed).max() == largest
        steps = scale if weight.axis is None else np.expand_dims(scale, tuple(range(1, codes.ndim - weight.axis)))
        np.testing.assert_array_equal(signed, np.clip(np.rint(weight.values / steps), -largest, largest))


@pytest.mark.parametrize("form", STATIC_FORMATS)
@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
def test_every_adjustment_works_with_fewer_bits(write, form, weight_type):
    given = {"equalize": True, "bias_correction": True, "ranges": "fault-aware", "reconstruct": True}
    int8, written, record = write(format=form, weight_type=weight_type, weight_bits=7, **given)
    assert {"ranges", "equalization", "reconstruction", "bias_correction"} <= record.keys()
    codes = written["fc.weight_quantized"].astype(np.int64) - (64 if weight_type == "uint8" else 0)
    assert -64 < codes.min() <= codes.max() < 64
    assert codes.max() - codes.min() > 60
    test = load_dataset("digits").evaluation(200)
    session = Session(int8, Deployment())
    plain = Session(write()[0], Deployment())
    right, before = (np.mean(top1(one.run(one.input.prepare(test.images))) == test.labels) for one in (session, plain))
    assert right > before - 0.05


@pytest.mark.parametrize("form", STATIC_FORMATS)
def test_sums_of_few_bits_saturate_on_no_cpu(write, form):
    assert saturating_layers(write(format=form)[0], Deployment())
    for bits in (7, 6):
        assert saturating_layers(write(format=form, weight_bits=bits)[0], Deployment()) == []


def test_a_reduced_range_is_implied(write):
    assert write(weight_bits=7, reduce_range=True)[0] == write(weight_bits=7)[0]


def test_ranges_under_a_code_reckon_with_the_flips_that_it_leaves(prepared, write):
    weights, _ = weight_tensors(prepared[0], "channel")
    plain, coded = (
        write(ranges="fault-aware", design_ber=3e-3, weight_bits=7, weight_code=code, reconstruct=False)
        for code in (None, "secded")
    )
    assert coded[2]["ranges"]["design_ber"] == 3e-3
    assert coded[2]["ranges"]["expected_ber"] == rate_left(known_code("secded"), 3e-3) < 3e-3
    for weight in weights:
        clip = best_clip(
            weight.values, axis=weight.axis, ber=rate_left(known_code("secded"), 3e-3), code_max=63, bits=7
        )
        np.testing.assert_array_equal(coded[1][f"{weight.name}_scale"], clip / np.float32(63))
        assert (coded[1][f"{weight.name}_scale"] > plain[1][f"{weight.name}_scale"]).all()


@pytest.mark.parametrize(
    ("given", "bits", "code"),
    [
        ({}, 8, None),
        ({"guard": "parameters"}, 8, None),
        ({"weight_bits": 7}, 7, None),
        ({"guard": "weights"}, 7, "secded"),
        ({"guard": "all", "weight_code": "dected"}, 7, "dected"),
        ({"guard": "all", "weight_bits": 6}, 6, "dected-6"),
        ({"guard": "auto"}, 7, "secded"),
        ({"guard": "auto", "weight_bits": 8}, 8, None),
    ],
    ids=str,
)
def test_bits_and_code_by_default(given, bits, code):
    options = ExportOptions(**given)
    assert options.bits == bits
    assert (options.code.name if options.code else None) == code
    assert options.code_max == LARGEST[bits]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"guard": "all", "weight_code": "secded", "weight_bits": 6},
            "--weight-code secded is not for weights of 6 bits: give --weight-bits 7, or --weight-code dected",
        ),
        ({"weight_code": "secded"}, "--weight-code is for protected weights, not --guard none: leave it out, or ask"),
        ({"guard": "parameters", "weight_code": "dected"}, "--weight-code is for protected weights"),
        (
            {"guard": "weights", "weight_bits": 8},
            "--weight-bits 8 leaves no bit of a byte for the code of --guard weig",
        ),
        (
            {"guard": "auto", "weight_bits": 8, "weight_code": "dected"},
            "--weight-code dected is not for weights of 8 b",
        ),
        ({"weight_bits": 5}, "--weight-bits 5: give one of 8, 7, 6"),
        ({"guard": "parameters", "health": True}, "--health counts words of a code, and --guard parameters has none"),
        ({"guard": "auto", "health": True}, "--health counts words of a code"),
        ({"guard": "most"}, "--guard most: give one of none, parameters, weights, all, auto"),
        ({"guard": "all", "opset": 12}, "--opset 12: give one from 13 to"),
        ({"guard": "weights", "guard_budget": 0.1}, "--guard-budget is for --guard auto, not weights"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(given, message):
    with pytest.raises(OptionError) as caught:
        ExportOptions(**given)
    assert str(caught.value).startswith(message)
