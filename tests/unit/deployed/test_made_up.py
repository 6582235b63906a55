"""Samples made up from types and shapes: they run, and are the same for ever."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.made_up import DEFAULT_COUNT, limits, made_up
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, ModelError

DIGESTS = {
    "five_states": "12310d94",
    "tagger": "391a4839",
    "scaled_boxes": "2bd1a7ff",
    "nhwc_levels": "87d2b8e3",
    "twice_quantised": "d0fdeecf",
}


def states_of(kinds, kind):
    return {name: f"{name}_out" for name in kinds.STATES} if kind == "five_states" else {}


@pytest.mark.parametrize("kind", DIGESTS)
def test_a_file_of_any_kind_runs_on_samples_that_are_the_same_for_ever(kind, kinds):
    model = kinds.KINDS[kind]()
    samples = made_up(model, Deployment(), count=5, states=states_of(kinds, kind))
    assert samples.digest.startswith(DIGESTS[kind])
    assert samples.synthetic
    assert samples.labels is None
    session = Session(model.SerializeToString(), Deployment())
    outputs, _ = session.first_answers([bound(samples, session.inputs, [each.name for each in session.outputs])])
    assert {len(values) for values in outputs.values()} == {5}
    assert all(len(np.unique(values, axis=0)) > 1 for values in outputs.values() if values.dtype.kind == "f")


def test_indices_stay_within_their_table_and_masks_are_ones(kinds):
    model = kinds.tagger()
    assert limits(model) == {"tokens": kinds.VOCABULARY}
    arrays = made_up(model, Deployment()).arrays
    assert len(arrays["tokens"]) == DEFAULT_COUNT
    assert (arrays["tokens"].min(), arrays["tokens"].max()) == (0, kinds.VOCABULARY - 1)
    assert (arrays["mask"] == 1).all()


def test_fewer_are_the_first_of_more_and_what_is_given_is_fed(kinds):
    model = kinds.scaled_boxes()
    few, more = (made_up(model, Deployment(), count=count, once={"size": np.array([8, 8])}) for count in (2, 3))
    assert np.array_equal(few.arrays["image"], more.arrays["image"][:2])
    assert set(more.arrays) == {"image"}
    assert "'image' [3, 64, 64]" in more.notes[0]


def test_a_file_that_runs_on_nothing_made_up_is_one_line():
    ends = [helper.make_tensor_value_info(name, kind, ["N", 4]) for name, kind in (("x", TensorProto.FLOAT), ("y", 1))]
    shape = onnx.numpy_helper.from_array(np.array([7, 3], np.int64), "shape")
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "g", ends[:1], ends[1:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(
        ModelError, match=r"does not run on samples that are made up \(.*give --dataset an .npz with 'x'"
    ):
        made_up(model, Deployment())
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(DataError, match=r"text is not made up: .*'x' \(string \[N, 4\]\)"):
        made_up(model, Deployment())


def test_open_dimensions_are_as_large_as_is_asked(kinds):
    model = kinds.scaled_boxes()
    assert made_up(model, Deployment(), count=1, sizes={"H": 9, "image.3": 7}).arrays["image"].shape == (1, 3, 9, 7)
    with pytest.raises(DataError, match="--size C: the model has no open dimension of that name; there are N, H, W, N"):
        made_up(model, Deployment(), sizes={"C": 3})
