import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.deployed import advice
from resq_deploy.deployed.advice import warnings_for
from resq_deploy.deployed.model import DeployedModel


@pytest.fixture
def warned(digits_int8, tmp_path):
    """Change one stored tensor of the digits file; return the warnings about the result."""

    def warned(change=None, suffix=""):
        model = onnx.load(digits_int8)
        for tensor in model.graph.initializer:
            if change is not None and tensor.name.endswith(suffix):
                values = numpy_helper.to_array(tensor).copy()
                change(values)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, tmp_path / "changed.onnx")
        return " ".join(warnings_for(DeployedModel.load(tmp_path / "changed.onnx")))

    return warned


def test_a_float_model_is_named_as_one(digits_float):
    (line,) = warnings_for(DeployedModel.load(digits_float))
    assert "no quantized weights" in line


def test_codes_that_never_use_the_lowest_value(warned):
    assert "2 of 2 quantized weight tensors never use the code -128" in warned()
    assert "1 of 2" in warned(lambda codes: codes.reshape(-1).__setitem__(0, -128), "conv.weight_quantized")


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_scales_that_are_not_positive_and_finite(warned, value):
    said = warned(lambda scales: scales.reshape(-1).__setitem__(0, value), "conv.weight_scale")
    assert "1 scales are not positive and finite, the first is 'conv.weight_scale'" in said


def test_scales_near_zero(warned):
    said = warned(lambda scales: scales.reshape(-1).__setitem__(0, 1e-20), "conv.weight_scale")
    assert "1 scales lie below 1e-12, the first is 'conv.weight_scale'" in said


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", ["avx2"], True),
        ("x86_64", ["avx2", "avx512f", "avx512_vnni"], False),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("aarch64", [], False),
    ],
)
def test_a_cpu_without_vnni_may_saturate(warned, monkeypatch, machine, features, expected):
    monkeypatch.setattr(advice, "cpu_features", lambda: features)
    monkeypatch.setattr(advice.platform, "machine", lambda: machine)
    assert ("may saturate in 16 bits" in warned()) == expected
