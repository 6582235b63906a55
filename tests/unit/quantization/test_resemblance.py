"""A file that computes something else than its float model is an error that names the first layer that strays."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError
from resq_deploy.quantization.adjust import adjust
from resq_deploy.quantization.export import ExportOptions, export_int8
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.resemblance import resemblance
from resq_deploy.quantization.scheme import Scheme


@pytest.fixture(scope="module")
def compared(digits_float):
    """Export the digits classifier, spoil stored tensors by name, and compare."""
    model = prepare_float_model(digits_float)
    given = model.SerializeToString()
    spec = Session(given, Deployment()).input
    images = load_dataset("digits").calibration(100, 0)

    def run(spoil=None, **scheme):
        made = adjust(model, images, spec, Scheme(**scheme))
        int8 = onnx.ModelProto.FromString(made.int8)
        for tensor in int8.graph.initializer:
            if tensor.name in (spoil or {}):
                values = spoil[tensor.name](numpy_helper.to_array(tensor))
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return resemblance(given, made.model, int8.SerializeToString(), images.images, spec)

    return run


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("ranges", ["minmax", "fault-aware"])
def test_an_export_resembles_its_float_model(compared, ranges, granularity, form):
    found = compared(ranges=ranges, granularity=granularity, format=form, equalize=True, bias_correction=True)
    assert list(found.layers) == ["conv", "fc"]
    assert min(found.layers.values()) > 15
    assert found.output > 15
    assert found.kappa > 0.9
    said = found.as_dict()
    assert said["warnings"] == []
    assert said["images"] == 100
    assert [entry["layer"] for entry in said["layers"]] == ["conv", "fc"]


def tenth(values):
    return (values / 10).astype(values.dtype)


@pytest.mark.parametrize(
    ("form", "spoil", "layer"),
    [
        ("qdq", {"conv.weight_scale": tenth}, "conv"),
        ("qdq", {"input_scale": lambda scale: scale * np.float32(3000)}, "conv"),
        ("qdq", {"fc.weight_quantized": lambda codes: codes[:, ::-1].copy()}, "fc"),
        ("qoperator", {"fc.weight_quantized": lambda codes: codes[:, ::-1].copy()}, "fc"),
        ("qoperator", {"conv.weight_quantized": lambda codes: -codes}, "conv"),
    ],
    ids=["a small scale", "a large scale", "codes", "codes of an integer operator", "signs"],
)
def test_a_wrong_file_names_the_first_layer_that_strays(compared, form, spoil, layer):
    with pytest.raises(ModelError, match="does not compute what the float model computes") as caught:
        compared(spoil, format=form)
    assert f"the first layer that strays is '{layer}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_value_that_is_no_number_is_wrong(compared):
    with pytest.raises(ModelError, match="they are not finite"):
        compared({"logits_scale": lambda scale: np.full_like(scale, np.nan)})


def test_a_layer_that_strays_while_the_answers_stay_is_a_warning(compared):
    """The read-out of digits does not mind the size of its inputs, as long as their biases go along."""
    found = compared({"conv.weight_scale": lambda scale: scale * np.float32(2.5), "conv.bias_quantized": tenth})
    assert found.strays == ["conv", "fc"] or found.strays == ["conv"]
    assert any("layer conv strays" in line for line in found.as_dict()["warnings"])


def test_an_export_keeps_the_comparison(digits_float):
    options = ExportOptions(calibration_images=50, test_images=20)
    sidecar = export_int8(digits_float, load_dataset("digits"), options, described="test").sidecar
    assert sidecar["resemblance"]["output"]["sqnr_db"] > 15
    assert sidecar["resemblance"]["images"] == 50


def test_a_float_model_that_says_the_same_of_all_images_has_nothing_to_resemble(tmp_path, digits_float):
    model = prepare_float_model(digits_float)
    for tensor in model.graph.initializer:
        if tensor.name == "fc.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.eye(10, dtype=np.float32)[3] * 1e4, tensor.name))
    spec = Session(model.SerializeToString(), Deployment()).input
    images = load_dataset("digits").calibration(50, 0)
    made = adjust(model, images, spec, Scheme())
    found = resemblance(model.SerializeToString(), made.model, made.int8, images.images, spec)
    assert found.kappa is None
    assert found.agreement == 1.0
