"""7-bit weights: the grid onnxruntime writes, ranges chosen for it, and nothing left that saturates 16 bits."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.grid import CODE_MAX, REDUCED_CODE_MAX, quantize, weight_scale
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.ranges import best_clip, expected_error
from resq_deploy.quantization.scheme import GRANULARITIES, RANGES, STATIC_FORMATS, Scheme
from resq_deploy.quantization.weights import weight_tensors

FORMS = list(itertools.product(STATIC_FORMATS, GRANULARITIES, RANGES))
BER = {"mse": 0.0, "fault-aware": 1e-3}


def test_two_products_fit_into_16_bits_and_no_more_would():
    assert 2 * 255 * REDUCED_CODE_MAX <= np.iinfo(np.int16).max < 2 * 255 * (REDUCED_CODE_MAX + 1)


@pytest.mark.parametrize(("form", "granularity", "ranges"), FORMS)
def test_scales_and_codes_are_those_of_the_reduced_grid(digits_float, form, granularity, ranges):
    model = prepare_float_model(digits_float)
    spec = Session(model.SerializeToString(), Deployment()).input
    calibration = load_dataset("digits").calibration(40, 0)
    scheme = Scheme(format=form, granularity=granularity, ranges=ranges, reduce_range=True, reconstruct=False)
    int8, said = write_adjusted(model, calibration, spec, scheme)
    written = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(int8).graph.initializer}
    weights, _ = weight_tensors(model, granularity)
    assert len(weights) == len(said["ranges"]["tensors"]) == 2
    for weight in weights:
        clip = weight.largest
        if ranges != "minmax":
            clip = best_clip(weight.values, axis=weight.axis, ber=BER[ranges], code_max=REDUCED_CODE_MAX)
        scale, codes = written[f"{weight.name}_scale"], written[f"{weight.name}_quantized"]
        assert scale.tobytes() == (clip / np.float32(REDUCED_CODE_MAX)).astype(np.float32).tobytes()
        np.testing.assert_array_equal(codes, quantize(weight.values, scale, axis=weight.axis, code_max=64))
        assert np.abs(codes.astype(np.int16)).max() == REDUCED_CODE_MAX


def test_a_coarser_grid_is_clipped_harder():
    weights = np.random.default_rng(0).normal(size=(4, 200)).astype(np.float32)
    for ber in BER.values():
        wide, narrow = (best_clip(weights, axis=0, ber=ber, code_max=code_max) for code_max in (CODE_MAX, 64))
        assert (narrow < wide).all()
        reached = expected_error(weights, narrow, axis=0, ber=ber, code_max=64)
        for factor in (0.98, 1.02):
            other = expected_error(weights, narrow * np.float32(factor), axis=0, ber=ber, code_max=64)
            assert (other >= reached).all()


def test_the_grid_of_64_is_exact():
    weights = np.array([[1.0, -2.0, 0.5]], np.float32)
    scale = weight_scale(weights, code_max=REDUCED_CODE_MAX)
    assert scale.tolist() == [2 / 64]
    assert quantize(weights, scale, code_max=REDUCED_CODE_MAX).tolist() == [[32, -64, 16]]
    assert quantize(weights * 2, scale, code_max=REDUCED_CODE_MAX).tolist() == [[64, -64, 32]]
