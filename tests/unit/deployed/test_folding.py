"""Where votes are folded and where they run: proven by what onnxruntime makes of the file."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from resq_deploy.deployed.folding import LEVELS, foldings
from resq_deploy.deployed.surfaces import find_surfaces
from resq_deploy.deployed.votes import find_votes
from resq_deploy.protection.guards import guard

CPU = ("CPUExecutionProvider",)


@pytest.fixture(scope="module")
def guarded(digits_int8):
    model = onnx.load(digits_int8)
    return onnx.ModelProto.FromString(
        guard(model.SerializeToString(), [surface.tensor for surface in find_surfaces(model)])
    )


def test_votes_are_folded_at_every_level_but_none(guarded):
    votes = find_votes(guarded)
    found = {one.optimization: one for one in foldings(guarded, votes, CPU)}
    assert tuple(found) == LEVELS
    for level in ("all", "extended", "basic"):
        assert (found[level].left, found[level].same_graph, found[level].folded) == (0, True, True)
    none = found["none"]
    assert (none.left, none.same_graph, none.same_outputs, none.folded) == (len(votes), False, True, False)
    assert none.as_dict()["providers"] == list(CPU)


def test_a_vote_that_the_optimiser_leaves_is_seen(guarded):
    """The copies of one tensor have become inputs with a default: they are no longer known when the file is loaded."""
    model = onnx.ModelProto()
    model.CopyFrom(guarded)
    votes = find_votes(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for copy in votes[0].copies:
        tensor = stored[copy]
        model.graph.input.append(helper.make_tensor_value_info(copy, tensor.data_type, list(tensor.dims)))
    best = foldings(model, votes, CPU)[0]
    assert best.left == 1
    assert not best.folded


def test_a_file_that_a_vote_changes_is_seen(guarded):
    """Two copies were damaged alike, so that the vote has another outcome than the first copy alone."""
    model = onnx.ModelProto()
    model.CopyFrom(guarded)
    vote = next(vote for vote in find_votes(model) if np.issubdtype(vote.dtype, np.floating))
    for tensor in model.graph.initializer:
        if tensor.name in vote.copies[1:]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    best = foldings(model, find_votes(model), CPU)[0]
    assert (best.left, best.same_graph, best.same_outputs, best.folded) == (0, False, False, False)


def test_a_graph_that_cannot_be_seen_proves_nothing(guarded, monkeypatch):
    from resq_deploy.deployed import folding
    from resq_deploy.errors import ModelError

    def compiled(*_):
        raise ModelError("onnxruntime refuses the model: it contains compiled nodes")

    monkeypatch.setattr(folding, "optimise", compiled)
    (best, *_) = foldings(guarded, find_votes(guarded), CPU)
    assert (best.left, best.same_graph, best.folded) == (None, None, False)
    assert "compiled nodes" in best.reason
