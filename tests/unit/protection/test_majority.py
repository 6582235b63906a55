"""The majority of copies, as numpy takes it and as a file does."""

import itertools

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed import majority as deployed
from resq_deploy.deployed.majority import find_majorities, majority, voted
from resq_deploy.protection.check import examine
from resq_deploy.protection.majority import COPIES, LEAST_OPSET, majority_nodes


def every_combination(copies):
    """Return copies whose bits take every combination, uint8 [2^copies / 8] each."""
    bits = np.array(list(itertools.product((0, 1), repeat=copies)), dtype=np.uint8)
    return list(np.packbits(bits, axis=0).T)


def model(values):
    """Return a model whose output is the majority of stored copies."""
    names = [f"copy{place}" for place in range(len(values))]
    graph = helper.make_graph(
        majority_nodes(names, "out"),
        "voting",
        [],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, None)],
        [numpy_helper.from_array(value, name) for name, value in zip(names, values, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", LEAST_OPSET)], ir_version=8)


def run(proto):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {})[0]


@pytest.mark.parametrize("copies", COPIES)
def test_the_file_takes_the_majority_of_every_combination_of_bits(copies):
    values = every_combination(copies)
    expected = np.packbits(np.unpackbits(np.stack(values), axis=1).sum(axis=0) > copies // 2)
    assert np.array_equal(run(model(values)), expected)
    assert np.array_equal(majority(values), expected)


@given(st.data())
def test_less_than_half_of_the_copies_of_a_bit_may_be_flipped(data):
    copies = data.draw(st.sampled_from(COPIES))
    truth = np.frombuffer(data.draw(st.binary(min_size=1, max_size=20)), np.uint8)
    held = [truth.copy() for _ in range(copies)]
    for place, bit in itertools.product(range(len(truth)), range(8)):
        for copy in data.draw(st.sets(st.integers(0, copies - 1), max_size=copies // 2)):
            held[copy][place] ^= 1 << bit
    assert np.array_equal(majority(held), truth)


def test_all_circuits_that_are_written_are_recognised():
    assert set(COPIES) == set(deployed.COPIES)


@pytest.mark.parametrize("copies", COPIES)
def test_majorities_are_found_by_what_they_compute_and_read_as_the_file_does(copies):
    values = every_combination(copies)
    proto = model(values)
    (found,) = find_majorities(proto.graph)
    assert found.output == "out"
    assert found.copies == tuple(f"copy{place}" for place in range(copies))
    assert np.array_equal(numpy_helper.to_array(voted(proto.graph, found)), run(proto))
    (checked,) = examine(proto.SerializeToString())
    assert checked.healed["copy0"][:, 0].tolist() == run(proto).tolist()
    assert checked.status.tolist() == [int(len(set(each)) > 1) for each in zip(*values, strict=True)]


def test_what_computes_something_else_is_no_majority():
    proto = model(every_combination(7))
    proto.graph.node[-1].op_type = "BitwiseAnd"
    assert not list(find_majorities(proto.graph))
    assert not examine(proto.SerializeToString())


def test_copies_that_are_computed_or_of_another_shape_are_no_stored_majority():
    proto = model(every_combination(5))
    proto.graph.initializer[0].dims[:] = [2, 2]
    assert not list(find_majorities(proto.graph))
    del proto.graph.initializer[0]
    assert not list(find_majorities(proto.graph))
