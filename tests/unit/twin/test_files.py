"""A twin computes what the session computes, on files of every kind: ours, the quantizer's, saved graphs."""

import pathlib

import numpy as np
import pytest
import torch

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError
from resq_deploy.quantization.export import ExportOptions, export_int8
from resq_deploy.twin import agreement, read_twin

REFERENCES = sorted((pathlib.Path(__file__).parents[3] / "models").glob("*.onnx"))
UNKNOWN = {  # operator and node that the message names
    "subgraphs": ("If", "outer"),
    "indices": ("Resize", "big_node"),
    "matmul_nbits": ("com.microsoft.MatMulNBits", "m_in_node_Q4"),
}
FLOAT_PRODUCTS = {  # products of floats, whose sums may round differently
    "cnn",
    "attention",
    "typed_storage",
    "shared",
    "constants",
    "passed_on",
    "four_bits",
    "uint4",
    "guarded",
    "sparse",
    "functions",
    "overridable",
    "fixed_batch",
    "nhwc_uint8",
    "attention-dynamic-channel-u8-saved",
}


def test_every_kind_of_file(file_kind, model_file, models, pair, logits):
    if file_kind in UNKNOWN:
        operator, node = UNKNOWN[file_kind]
        with pytest.raises(ModelError, match=rf"no operator {operator} \(node '{node}'\): [^\n]+$"):
            pair(model_file(file_kind))
        return
    twin, session = pair(model_file(file_kind))
    images = models.images(8, file_kind)
    ours, theirs = logits(twin, images), session.run(images)
    assert ours.dtype == np.float32
    if file_kind in FLOAT_PRODUCTS:
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(calibration_images=20),
        ExportOptions(calibration_images=20, granularity="tensor", format="qoperator"),
        ExportOptions(calibration_images=20, guard="parameters"),
        ExportOptions(calibration_images=20, guard="parameters", weight_type="uint8"),
        ExportOptions(calibration_images=20, granularity="tensor", format="qoperator", weight_type="uint8"),
    ],
    ids=["qdq", "qoperator", "guarded", "guarded uint8 weights", "qoperator, uint8 weights"],
)
def test_our_exports(options, digits_float, tmp_path, pair, logits):
    data = load_dataset("digits")
    path = tmp_path / "model.onnx"
    path.write_bytes(export_int8(digits_float, data, options, described="test").int8_file)
    twin, session = pair(path)
    images = session.input.prepare(data.evaluation(40).images)
    np.testing.assert_array_equal(logits(twin, images), session.run(images))


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_the_reference_models_agree_on_every_logit(path):
    model = DeployedModel.load(path)
    session = Session(model.proto.SerializeToString(), Deployment())
    found = agreement(read_twin(model), session, session.input.prepare(load_dataset("digits").evaluation(150).images))
    assert found.max_logit_difference == 0.0
    assert (found.top1_agreement.value, found.top1_agreement.n) == (1.0, 150)
    assert found.top1_agreement.low < 1.0


def test_agreement_sees_a_twin_of_another_file(models, model_file, pair):
    twin, _ = pair(model_file("cnn-qdq-channel-s8"))
    _, session = pair(model_file("cnn-qoperator-tensor-u8"))
    found = agreement(twin, session, models.images(20))
    assert found.max_logit_difference > 0.0
    assert found.top1_agreement.n == 20


@pytest.mark.parametrize("optimization", ["none", "basic"])
def test_without_fused_kernels_the_twin_computes_in_float_as_well(optimization, models, model_file, pair):
    path = model_file("cnn-qdq-channel-s8")
    twin, _ = pair(path, deployment=Deployment(optimization=optimization))
    model = DeployedModel.load(path)
    session = Session(model.proto.SerializeToString(), Deployment(optimization=optimization))
    assert agreement(twin, session, models.images(8)).max_logit_difference < 0.05  # a code at a tie may move


def test_a_uint8_input_takes_levels_or_pixels(models, model_file, pair, logits):
    twin, session = pair(model_file("nhwc_uint8"))
    levels = models.images(4, "nhwc_uint8")
    pixels = (levels / np.float32(255)).astype(np.float32)
    np.testing.assert_array_equal(logits(twin, levels), logits(twin, pixels))
    images = torch.from_numpy(pixels).requires_grad_()
    twin(images).sum().backward()
    assert images.grad.abs().min() > 0
    assert session.input.channels_last


def test_a_fixed_batch_is_filled_up(models, model_file, pair, logits):
    twin, session = pair(model_file("fixed_batch"))  # two images at a time
    images = models.images(5)
    np.testing.assert_allclose(logits(twin, images), session.run(images), rtol=2e-6, atol=2e-6)


def test_a_twin_moves_with_its_tensors(model_file, pair):
    twin, _ = pair(model_file("cnn-qdq-channel-s8"))
    twin.to("meta")
    assert {tensor.device.type for tensor in twin.stored.values()} == {"meta"}


def test_images_of_another_size_are_one_line(model_file, pair):
    twin, _ = pair(model_file("cnn-qdq-channel-s8"))
    with pytest.raises(ModelError, match=r"^the twin cannot compute the QLinearConv node '[^']+': [^\n]+$"):
        twin(torch.zeros(2, 4, 8, 8))
