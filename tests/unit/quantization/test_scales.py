"""Scales of a static int8 file, read back layer by layer."""

import pathlib

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.quantization.scales import channel_rms, layer_scales

MODELS = pathlib.Path(__file__).parents[3] / "models"


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_are_those_of_the_scales(axis):
    codes = np.array([[3, -4, 0], [12, 0, 5]], dtype=np.int8)
    expected = np.sqrt((codes.astype(float) ** 2).mean(axis=1 - axis))
    assert channel_rms(codes, None, axis) == pytest.approx(expected)
    assert channel_rms(codes + 9, np.array(9), None) == pytest.approx(np.sqrt((codes.astype(float) ** 2).mean()))


def test_a_layer_has_the_scales_that_its_file_stores():
    path = MODELS / "resnet8-digits-baseline.int8.onnx"
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    found = layer_scales(path)["body.fc"]
    assert found.weights == tensors["body.fc.weight_quantized"].size
    assert found.weight == pytest.approx(float(np.exp(np.log(tensors["body.fc.weight_scale"]).mean())))
    assert found.read is not None


def test_votes_and_codes_hide_nothing():
    plain, coded = (layer_scales(MODELS / f"resnet8-digits-resq{kind}.int8.onnx") for kind in ("", "-protected"))
    assert plain.keys() == coded.keys()
    assert all(found.weights == coded[name].weights for name, found in plain.items())
