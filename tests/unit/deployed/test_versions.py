"""What a file says of the onnxruntime that it needs."""

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.versions import LEAST_ONNXRUNTIME, annotate, is_before, metadata
from resq_deploy.errors import ModelError


def unknown_operator():
    """A file that no onnxruntime loads."""
    node = helper.make_node("OfTheFuture", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "future", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_a_file_that_needs_a_later_onnxruntime_says_so():
    model = unknown_operator()
    annotate(model, LEAST_ONNXRUNTIME, "999.1")
    message = f"the file needs onnxruntime 999.1 or later to be decoded, and this is {ort.__version__}: update"
    with pytest.raises(ModelError, match=message):
        create(model.SerializeToString(), Deployment())


@pytest.mark.parametrize("least", ["1.0", ort.__version__, "any", None])
def test_a_file_that_does_not_is_refused_with_the_words_of_onnxruntime(least):
    model = unknown_operator()
    if least:
        annotate(model, LEAST_ONNXRUNTIME, least)
    with pytest.raises(ModelError, match=r"onnxruntime refuses the model: .*OfTheFuture"):
        create(model.SerializeToString(), Deployment())


def test_what_is_no_model_is_refused_with_the_words_of_onnxruntime():
    with pytest.raises(ModelError, match="onnxruntime refuses the model"):
        create(b"\xff\xff", Deployment())


def test_metadata_are_set_once():
    model = onnx.ModelProto()
    annotate(model, "key", "one")
    annotate(model, "key", "two")
    assert metadata(model) == {"key": "two"}


@pytest.mark.parametrize(
    ("version", "other", "before"),
    [("1.20.1", "1.22", True), ("1.22.0", "1.22", False), ("1.22", "1.3", False), ("2.0", "1.22", False)],
)
def test_versions_are_compared_by_number(version, other, before):
    assert is_before(version, other) is before
