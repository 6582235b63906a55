"""Votes are told by their structure alone, and their outcome is what ONNX says."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from resq_deploy.deployed.votes import Vote, find_votes

RANDOM = np.random.default_rng(0)


def voted(nodes=None, tensors=None, outputs=("y",), extra=()):
    """`x + t`, with `t` voted from the copies p, q, r, unless told otherwise."""
    nodes = nodes or [
        helper.make_node("Equal", ["p", "q"], ["same"]),
        helper.make_node("Where", ["same", "p", "r"], ["t"]),
    ]
    tensors = tensors or {name: np.arange(4, dtype=np.float32) for name in "pqr"}
    graph = helper.make_graph(
        [*nodes, *extra, helper.make_node("Add", ["x", "t"], ["y"])],
        "voted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def constant(name, value):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


@pytest.mark.parametrize(
    ("equal", "where", "copies"),
    [("pq", "pr", "pqr"), ("qp", "pr", "pqr"), ("pq", "qr", "qpr"), ("rp", "pq", "prq")],
    ids=["usual", "compared the other way round", "takes the second", "other names"],
)
def test_a_vote_is_found_whichever_copies_it_compares(equal, where, copies):
    nodes = [helper.make_node("Equal", list(equal), ["same"]), helper.make_node("Where", ["same", *where], ["t"])]
    (vote,) = find_votes(voted(nodes))
    assert (vote.output, vote.copies, vote.dtype) == ("t", tuple(copies), np.float32)


def test_copies_may_be_constants():
    values = [constant(name, np.arange(4, dtype=np.float32)) for name in "qr"]
    (vote,) = find_votes(voted(tensors={"p": np.arange(4, dtype=np.float32)}, extra=values))
    assert vote.copies == ("p", "q", "r")


def test_all_votes_of_a_file(model_file):
    votes = find_votes(onnx.load(model_file("guarded")))
    assert [(vote.output, vote.copies) for vote in votes] == [
        (name, (f"{name}1", f"{name}2", f"{name}3")) for name in ("w", "w_s", "b", "b_s")
    ]


def shaped(*shapes, dtypes=(np.float32,) * 3):
    return {name: np.zeros(shape, dtype=dtype) for name, shape, dtype in zip("pqr", shapes, dtypes, strict=True)}


WHERE = helper.make_node("Where", ["same", "p", "r"], ["t"])


@pytest.mark.parametrize(
    "changes",
    [
        {
            "nodes": [
                helper.make_node("Equal", ["p", "q"], ["same"]),
                helper.make_node("Where", ["same", "r", "p"], ["t"]),
            ]
        },
        {
            "nodes": [
                helper.make_node("Equal", ["p", "q"], ["same"]),
                helper.make_node("Where", ["same", "p", "q"], ["t"]),
            ]
        },
        {"nodes": [helper.make_node("Equal", ["p", "p"], ["same"]), WHERE]},
        {"nodes": [helper.make_node("Less", ["p", "q"], ["same"]), WHERE]},
        {"nodes": [helper.make_node("Equal", ["p", "q"], ["same"], domain="other"), WHERE]},
        {"nodes": [helper.make_node("Equal", ["p", "x"], ["same"]), WHERE]},
        {"extra": [helper.make_node("Neg", ["q"], ["negative"])]},
        {"extra": [helper.make_node("Not", ["same"], ["alarm"])]},
        {"outputs": ("y", "same")},
        {"outputs": ("y", "r")},
        {"tensors": shaped((4,), (4,), (1,))},
        {"tensors": shaped((4,), (4,), (4,), dtypes=(np.float32, np.float32, np.float64))},
    ],
    ids=[
        "takes what was not compared",
        "third is the second",
        "compares a copy with itself",
        "no comparison for equality",
        "operator of another domain",
        "compares with an input",
        "a copy is read elsewhere",
        "the comparison is read elsewhere",
        "the comparison is an output",
        "a copy is an output",
        "shapes differ",
        "types differ",
    ],
)
def test_what_only_looks_like_a_vote(changes):
    assert find_votes(voted(**changes)) == ()


def test_values_of_less_than_a_byte_are_no_votes():
    model = voted()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.INT4, [4], [0, 1, 2, 3]))
    assert find_votes(model) == ()


def test_bytes_added_are_those_of_the_file():
    single = voted([helper.make_node("Relu", ["u"], ["unused"])], {"t": np.arange(400, dtype=np.float32)})
    triple = voted(tensors={name: np.arange(400, dtype=np.float32) for name in "pqr"})
    del single.graph.node[0]
    (vote,) = find_votes(triple)
    assert vote.bytes_added == triple.graph.ByteSize() - single.graph.ByteSize()


SPECIAL = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1.0, 1e-45], dtype=np.float32)


def reference(vote, values):
    """The vote as onnx's own reference implementation takes it."""
    graph = helper.make_graph(
        [helper.make_node("Equal", ["a", "b"], ["same"]), helper.make_node("Where", ["same", "a", "c"], ["t"])],
        "vote",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(vote.dtype), [None]) for name in "abc"],
        [helper.make_tensor_value_info("t", helper.np_dtype_to_tensor_dtype(vote.dtype), [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    feeds = {name: np.frombuffer(values[copy], vote.dtype) for name, copy in zip("abc", vote.copies, strict=True)}
    return ReferenceEvaluator(model).run(None, feeds)[0].tobytes()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([np.int8, np.uint8, np.int32, np.float32]), st.integers(0, 2**32 - 1))
def test_the_outcome_is_that_of_onnx(dtype, seed):
    vote = Vote(output="t", copies=("p", "q", "r"), dtype=np.dtype(dtype), bytes_added=0)
    rng = np.random.default_rng(seed)
    few = SPECIAL if dtype is np.float32 else np.arange(3, dtype=dtype)
    values = {name: rng.choice(few, 12).tobytes() for name in vote.copies}
    assert vote.outcome(values) == reference(vote, values)


def test_nan_is_outvoted_and_zeros_are_equal():
    vote = Vote(output="t", copies=("p", "q", "r"), dtype=np.dtype(np.float32), bytes_added=0)
    values = {"p": [np.nan, np.nan, 0.0, -0.0], "q": [1.0, np.nan, -0.0, 0.0], "r": [1.0, 2.0, 5.0, 5.0]}
    outcome = vote.outcome({name: np.array(value, np.float32).tobytes() for name, value in values.items()})
    assert outcome == np.array([1.0, 2.0, 0.0, -0.0], np.float32).tobytes()
