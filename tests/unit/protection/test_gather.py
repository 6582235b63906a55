"""Numbers in nodes become tensors, equal scales and zero points one, and nothing is computed otherwise."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.votes import find_votes
from resq_deploy.protection.gather import gathered
from resq_deploy.protection.guards import guard


def constant(name, **value):
    return helper.make_node("Constant", [], [name], **value)


def odd():
    """Adds and multiplies with constants of every kind, and a Gemm with idle and other numbers."""
    nodes = [
        constant("one", value_float=1.5),
        constant("some", value_floats=[1.0, 2.0, 3.0]),
        constant("shape", value_ints=[-1, 3]),
        constant("three", value=numpy_helper.from_array(np.array(3.0, np.float32))),
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("Mul", ["b", "some"], ["c"]),
        helper.make_node("Add", ["c", "three"], ["d"]),
        helper.make_node("Gemm", ["d", "w"], ["y"], alpha=1.0, beta=0.5, transB=1),
    ]
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def answers(model, images):
    return Session(model.SerializeToString(), Deployment()).run(images).tobytes()


def test_constants_become_tensors_and_idle_numbers_go():
    model = odd()
    before = model.SerializeToString()
    found = gathered(model)
    assert model.SerializeToString() == before
    assert [node.op_type for node in found.graph.node] == ["Reshape", "Add", "Mul", "Add", "Gemm"]
    assert {tensor.name for tensor in found.graph.initializer} == {"w", "one", "some", "shape", "three"}
    assert {attribute.name for attribute in found.graph.node[-1].attribute} == {"beta", "transB"}
    onnx.checker.check_model(found)
    images = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    assert answers(found, images) == answers(model, images)


@pytest.mark.parametrize("kind", ["cnn-qdq-channel-s8", "cnn-qoperator-channel-s8", "subgraphs", "guarded", "sparse"])
def test_any_file_computes_as_before(kind, model_file, models):
    model, _ = read_model(model_file(kind))
    found = gathered(model)
    assert answers(found, models.images(5, kind)) == answers(model, models.images(5, kind))
    assert gathered(model).SerializeToString() == found.SerializeToString()


def test_equal_scales_and_zero_points_are_stored_once(digits_int8):
    model, _ = read_model(digits_int8)
    found = gathered(model)
    zeros = [t.name for t in model.graph.initializer if t.name.endswith("zero_point") and t.data_type == 2]
    kept = [t.name for t in found.graph.initializer if t.name.endswith("zero_point") and t.data_type == 2]
    assert len(kept) == len({numpy_helper.to_array(t).item() for t in model.graph.initializer if t.name in zeros})
    assert len(kept) < len(zeros)
    assert len(found.SerializeToString()) < len(model.SerializeToString())


def test_copies_of_a_vote_stay_three(digits_int8):
    plain = digits_int8.read_bytes()
    names = [t.name for t in onnx.ModelProto.FromString(plain).graph.initializer if t.name.endswith("zero_point")]
    guarded = onnx.ModelProto.FromString(guard(plain, names))
    assert len(find_votes(gathered(guarded))) == len(names)
