"""The golden graph in segments: what they give, and that values computed by them are those of the whole graph."""

import numpy as np
import pytest

from resq_deploy.campaign.engines.activations import Activations
from resq_deploy.campaign.engines.cuts import COSTLY
from resq_deploy.campaign.engines.segments import segments
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph, optimise
from resq_deploy.deployed.session import Session

KINDS = [
    "cnn-qdq-channel-s8",
    "cnn-qoperator-channel-s8",
    "attention-qdq-channel-s8",
    "attention-dynamic-channel-u8-saved",
]


@pytest.fixture
def graph(model_file):
    """Return the graph that onnxruntime runs of a file of the zoo, and its session."""

    def build(name):
        model = model_file(name).read_bytes()
        session = Session(model, Deployment(batch=4))
        found = RuntimeGraph(optimise(model, Deployment()), [session.output])
        found.learn_types(Deployment())
        return found, session

    return build


@pytest.mark.parametrize("name", KINDS)
def test_every_node_lies_in_one_segment_and_all_work_is_counted(name, graph):
    found, _ = graph(name)
    parts = segments(found)
    assert 1 < len(parts) <= 8
    made = [value for part in parts for value in part.made]
    assert sorted(made) == sorted(value for node in found.nodes for value in node.output if value)
    costly = sum(node.op_type in COSTLY for node in found.nodes)
    assert sum(part.work for part in parts) == parts[-1].before == costly
    assert all(not set(part.border) & set(part.inner) for part in parts)
    assert set(found.outputs) <= {*parts[-1].border, *parts[-1].inner}


@pytest.mark.parametrize("room", [0, 2000, 10**9], ids=["nothing held", "little held", "all held"])
@pytest.mark.parametrize("name", KINDS)
def test_values_of_segments_are_those_of_the_whole_graph(name, room, graph, models):
    found, session = graph(name)
    batches = list(session.batches(session.given(models.images(10, name))))
    activations = Activations(found, batches, Deployment(batch=4), room, 2)
    names = [value for node in found.nodes for value in node.output if value and value in found.varying]
    model, inputs = found.part(range(len(found.nodes)), names)
    whole = Part(model, inputs, names, Deployment(batch=4))
    for batch in (2, 0, 1, 0):
        expected = whole.run_named(batches[batch].feeds)
        for some in (names[::3], names[-1:], names):
            for name_, value in activations.get(batch, some).items():
                assert value.dtype == expected[name_].dtype
                assert np.array_equal(value, expected[name_], equal_nan=value.dtype.kind == "f")
    assert activations._held._bytes <= room
    assert bool(activations._held._bytes) == bool(room)
