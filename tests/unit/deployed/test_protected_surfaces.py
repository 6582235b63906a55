"""What faults can hit in a protected file: code words as weights, and all that decodes them."""

import collections

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from resq_deploy.deployed.coded import DOMAIN, HEALTH
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import open_model
from resq_deploy.deployed.health import Health, read_health
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.deployed.votes import repeated
from resq_deploy.errors import ModelError

FORMS = ["cnn-qdq-channel-s8", "cnn-qoperator-channel-s8", "attention-qdq-channel-s8", "cnn-qdq-tensor-u8"]


@pytest.fixture(params=FORMS)
def pair(request, protected_file):
    return tuple(map(DeployedModel.load, protected_file(request.param)))


def test_nothing_that_protection_stores_is_left_out(pair):
    protected, plain = pair
    stored = sum(8 * len(tensor.raw_data) for tensor in protected.proto.graph.initializer)
    left_out = {left.tensor: left.bits for left in protected.left_out}
    assert left_out == {left.tensor: left.bits for left in plain.left_out}
    attributes = {surface.tensor for surface in plain.surfaces}
    attributes -= {tensor.name for tensor in plain.proto.graph.initializer}
    found = sum(surface.bits for surface in protected.surfaces if surface.tensor not in attributes)
    left = sum(left_out.get(tensor.name, 0) for tensor in protected.proto.graph.initializer)
    assert found + left == stored


def test_code_words_are_weights_of_the_layer_they_store_and_all_else_keeps_its_role(pair):
    protected, plain = pair
    codes = protected.codes()
    surfaces = {surface.tensor: surface for surface in protected.surfaces}
    layers = {surface.layer for surface in plain.surfaces if surface.role is Role.WEIGHT}
    for name in codes.words:
        assert surfaces[name].role is Role.WEIGHT
        assert surfaces[name].layer in layers
    roles = {vote.output: {surfaces[copy].role for copy in vote.copies} for vote in protected.votes()}
    for surface in plain.surfaces:
        if surface.tensor in roles:
            assert roles[surface.tensor] == {surface.role}
    counts = collections.Counter(surface.role for surface in protected.surfaces)
    assert counts[Role.CODE] > 3
    codes_own = {surface.tensor for surface in protected.surfaces if surface.role is Role.CODE}
    assert codes_own <= repeated(protected.proto)


def test_a_decoder_that_stores_something_is_written_out_so_that_faults_can_hit_it(protected_file, tmp_path):
    path, _ = protected_file("cnn-qdq-channel-s8")
    proto = onnx.load(path)
    (function,) = (made for made in proto.functions if made.domain == DOMAIN)
    hidden = numpy_helper.from_array(np.zeros(1, np.uint8), "hidden")
    function.node.insert(0, helper.make_node("Constant", [], ["hidden"], value=hidden))
    (tmp_path / "odd.onnx").write_bytes(proto.SerializeToString())
    opened = open_model(tmp_path / "odd.onnx")
    assert not opened.model.functions
    assert not any(left.reason.startswith("stored in a function") for left in opened.left_out)
    assert not DeployedModel.load(tmp_path / "odd.onnx").codes().words


@pytest.mark.parametrize("first", [True, False])
def test_the_report_on_health_is_never_taken_for_scores(first, protected_file, models):
    path, plain = protected_file("cnn-qdq-channel-s8")
    proto = onnx.load(path)
    if first:
        outputs = list(reversed(proto.graph.output))
        del proto.graph.output[:]
        proto.graph.output.extend(outputs)
    session = Session(proto.SerializeToString(), Deployment())
    images = models.images(3)
    assert session.output != HEALTH
    assert session.run(images).tobytes() == Session(plain.read_bytes(), Deployment()).run(images).tobytes()
    assert session.health(images) == Health(0, 0)
    assert Session(plain.read_bytes(), Deployment()).health(images) is None


def test_a_report_that_is_none_is_refused():
    assert read_health(np.array([2, 1])) == (2, 1)
    for said in (np.array([1, 2, 3]), np.array([0.5, 1.0]), np.array(3)):
        with pytest.raises(ModelError, match="no count"):
            read_health(said)
