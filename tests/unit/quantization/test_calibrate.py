"""The ranges of calibration are onnxruntime's own, bit for bit, however few images are held at a time."""

import logging
import pathlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, ModelError
from resq_deploy.quantization import calibrate
from resq_deploy.quantization.calibrate import OPERATORS, StreamedImages, activation_ranges
from resq_deploy.quantization.float_model import prepare_float_model


def spec_of(model):
    return Session(model.SerializeToString(), Deployment()).input


def own_ranges(model, images, folder: pathlib.Path):
    """The ranges of onnxruntime's MinMaxCalibrater, with 50 images a batch."""
    onnx.save(model, folder / "float.onnx")
    calibrator = create_calibrator(
        folder / "float.onnx", OPERATORS, str(folder / "augmented.onnx"), CalibrationMethod.MinMax
    )
    calibrator.collect_data(StreamedImages(images, spec_of(model)))
    found = calibrator.compute_data()
    return {name: found[name].range_value for name in found}


def same_bits(left, right):
    return all(
        np.asarray(mine).dtype == np.asarray(theirs).dtype and mine.tobytes() == theirs.tobytes()
        for mine, theirs in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("held", [1, 2**20, 2**30], ids=["image by image", "some", "all"])
def test_digits(digits_float, tmp_path, monkeypatch, capsys, held):
    model = prepare_float_model(digits_float)
    images = load_dataset("digits").calibration(130, 0).images
    monkeypatch.setattr(calibrate, "_HELD", held)
    found = activation_ranges(model, images, spec_of(model))
    assert capsys.readouterr() == ("", "")
    expected = own_ranges(model, images, tmp_path)
    assert found.keys() == expected.keys() == {"input", "c", "r", "f", "logits"}
    assert all(same_bits(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["cnn", "attention"])
def test_other_networks(models, tmp_path, kind):
    model = prepare_float_model(models.save(models.FLOATS[kind](), tmp_path / "source.onnx"))
    images = models.images(60)
    found, expected = activation_ranges(model, images, spec_of(model)), own_ranges(model, images, tmp_path)
    assert found.keys() == expected.keys()
    assert all(same_bits(found[name], expected[name]) for name in expected)


def test_images_that_do_not_fit_are_refused(digits_float):
    model = prepare_float_model(digits_float)
    with pytest.raises(DataError, match="the model takes float32 images of shape 3x32x32"):
        activation_ranges(model, np.zeros((2, 28, 28, 3), np.uint8), spec_of(model))


def test_a_model_that_cannot_run_is_refused_in_one_line():
    """Shapes that only contradict each other when it is run."""
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"]), helper.make_node("Relu", ["r"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("s", TensorProto.INT64, [2], [-1, 5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(ModelError, match="onnxruntime cannot run the float model: "):
        activation_ranges(model, np.zeros((3, 3, 2, 2), np.float32), spec_of(model))


def test_the_root_logger_is_left_as_it_was(digits_float):
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    try:
        model = prepare_float_model(digits_float)
        activation_ranges(model, load_dataset("digits").calibration(2, 0).images, spec_of(model))
        assert root.level == logging.INFO
    finally:
        root.setLevel(before)
