"""The int8 grid against onnxruntime's own quantizer and against its own algebra."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnxruntime.quantization.quant_utils import compute_data_quant_params, quantize_nparray

from resq_deploy.errors import ModelError
from resq_deploy.grid import dequantize, quantize, weight_scale

FINITE = st.floats(-1e6, 1e6, width=32)


def reference(values):
    zero_point, scale = compute_data_quant_params(values.ravel(), onnx.TensorProto.INT8, symmetric=True)
    codes = quantize_nparray(onnx.TensorProto.INT8, values, scale, zero_point)
    assert int(zero_point) == 0
    return codes, scale


def awkward_weights():
    """Random channels, a dead one, a denormal one, one with ties at half a step, and one of a single large value."""
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 0.1, (6, 4, 3, 3)).astype(np.float32)
    weights[1] = 0
    weights[2] = np.float32(1e-42)
    ties = (np.arange(36) - 18 + 0.5).astype(np.float32)
    ties[0] = 127
    weights[3] = ties.reshape(4, 3, 3)
    weights[4] = 0
    weights[4, 0, 0, 0] = -3e5
    return weights


def test_per_channel_integers_equal_those_of_onnxruntime():
    weights = awkward_weights()
    scale = weight_scale(weights)
    codes = quantize(weights, scale)
    for channel, values in enumerate(weights):
        expected, expected_scale = reference(values)
        assert scale[channel] == expected_scale
        np.testing.assert_array_equal(codes[channel], expected)


def test_per_tensor_integers_equal_those_of_onnxruntime():
    weights = awkward_weights()
    expected, expected_scale = reference(weights)
    scale = weight_scale(weights, axis=None)
    assert scale == expected_scale
    np.testing.assert_array_equal(quantize(weights, scale, axis=None), expected)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (3, 5), elements=FINITE))
def test_any_weights_match_onnxruntime_and_come_back_within_half_a_step(weights):
    scale = weight_scale(weights)
    codes = quantize(weights, scale)
    np.testing.assert_array_equal(codes, np.stack([reference(row)[0] for row in weights]))
    error = np.abs(dequantize(codes, scale).astype(np.float64) - weights)
    assert np.all(error <= 0.5001 * scale[:, None])


def test_ties_go_to_the_even_code():
    weights = np.float32([[0.5, 1.5, 2.5, -0.5, -1.5, 127]])
    assert quantize(weights, weight_scale(weights)).tolist() == [[0, 2, 2, 0, -2, 127]]


def test_a_narrowed_scale_saturates_symmetrically():
    weights = np.float32([[-10, 10, 0.3]])
    assert quantize(weights, np.float32([0.01])).tolist() == [[-127, 127, 30]]


def test_the_channel_axis_may_be_any():
    weights = awkward_weights()
    moved = np.moveaxis(weights, 0, 2)
    for axis in (2, -2):
        scale = weight_scale(moved, axis=axis)
        np.testing.assert_array_equal(scale, weight_scale(weights))
        np.testing.assert_array_equal(np.moveaxis(quantize(moved, scale, axis=axis), 2, 0), quantize(weights, scale))


@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 1], []], ids=["nan", "inf", "empty"])
def test_weights_without_a_grid_are_refused(values):
    with pytest.raises(ModelError, match="not finite"):
        weight_scale(np.float32([values]))
