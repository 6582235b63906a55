"""The optimised graph: cutting parts out of it, telling equal nodes, finding what depends on the images."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.campaign.engines.cuts import changed_nodes, cut, with_cheap_readers
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph, optimise
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError

DEPLOYMENT = Deployment(batch=4)


def graph_of(model):
    session = Session(model, DEPLOYMENT)
    graph = RuntimeGraph(optimise(model, DEPLOYMENT), [session.output])
    graph.learn_types(DEPLOYMENT)
    return graph


@pytest.fixture
def quantised(model_file, models):
    """The patcher, the optimised graph and the outputs of a small QDQ network."""
    patcher = DeployedModel.load(model_file("cnn-qdq-channel-s8")).patcher()
    images = models.images(4)
    return patcher, graph_of(patcher.golden), images, Session(patcher.golden, DEPLOYMENT).run(images)


def run(graph, places, outputs, values):
    model, inputs = graph.part(places, outputs)
    return Part(model, inputs, outputs, DEPLOYMENT).run_named(values)


def test_two_parts_in_a_row_are_the_whole(quantised):
    _, graph, images, logits = quantised
    for place in range(len(graph.nodes) - 1):
        where = cut(graph, {place}, graph)
        before = graph.between({graph.inputs[0]}, [*where.inputs, *where.clean])
        known = {graph.inputs[0]: images}
        wanted = [name for name in (*where.inputs, *where.clean) if name != graph.inputs[0]]
        if wanted:
            known |= run(graph, before, wanted, known)
        known |= run(graph, where.head, where.dirty, known)
        assert run(graph, where.rest, graph.outputs, known)[graph.outputs[0]].tobytes() == logits.tobytes()


def test_only_the_nodes_that_read_a_changed_tensor_differ(quantised):
    patcher, graph, *_ = quantised
    golden = frozenset(graph.signatures())
    assert changed_nodes(graph_of(patcher.golden).signatures(graph), golden) == set()
    name = next(name for name in graph.parameters if name.endswith("_quantized") and len(patcher.stored(name)) > 4)
    mask = np.zeros_like(patcher.stored(name))
    mask[0] = 1
    faulty = graph_of(patcher.apply({name: mask}))
    assert changed_nodes(faulty.signatures(graph), golden) == set(graph.readers(name))


def test_cheap_nodes_are_taken_along_and_costly_ones_are_not(quantised):
    _, graph, *_ = quantised
    kinds = [node.op_type for node in graph.nodes]
    convolution = kinds.index("QLinearConv")
    head = with_cheap_readers(graph, {convolution})
    assert sum(kinds[place] in ("QLinearConv", "QGemm") for place in head) == 1
    where = cut(graph, head, graph)
    assert len(where.dirty) == 1
    assert not head & where.rest


def test_what_follows_from_the_shape_alone_does_not_vary():
    """Positions computed from the batch size are no rows of images, even where they have as many entries."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
        helper.make_node("Squeeze", ["shape"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["places"]),
        helper.make_node("Gather", ["x", "places"], ["gathered"]),
        helper.make_node("Flatten", ["gathered"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    stored = {"zero": np.int64(0), "one": np.int64(1), "w": rng.normal(size=(192, 5)).astype(np.float32)}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "positions",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    graph = graph_of(model.SerializeToString())
    assert {"x", "gathered", "y"} <= graph.varying
    assert "count" in graph.makers
    assert not {"shape", "count", "places"} & graph.varying


def test_a_model_that_does_not_load_is_one_error():
    with pytest.raises(ModelError, match="onnxruntime refuses the model"):
        optimise(onnx.ModelProto().SerializeToString(), DEPLOYMENT)
