"""Outputs of any type and shape, told apart by sample."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.outputs import Form
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError


def session_of(models, nodes, outputs, batch="N"):
    """A file that gives what nodes make of images `x`, outputs by name, type and shape."""
    proto = models.model(nodes, [models.constant("zero", [0], np.int64)], batch=batch)
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(*one) for one in outputs)
    return Session(proto.SerializeToString(), Deployment(batch=4))


def test_all_outputs_are_given_by_name_in_their_own_types(models):
    nodes = [
        models.node("Flatten", "x", "flat"),
        models.node("Cast", "flat", "half", to=TensorProto.FLOAT16),
        models.node("ArgMax", "flat", "best", axis=1, keepdims=0),
        models.node("Greater", "x x", "more"),
    ]
    given = [
        ("flat", TensorProto.FLOAT, None),
        ("half", TensorProto.FLOAT16, None),
        ("best", TensorProto.INT64, None),
        ("more", TensorProto.BOOL, None),
    ]
    session = session_of(models, nodes, given)
    images = models.images(6)  # a batch and a half
    outputs, forms = session.first_answers([images])

    assert set(forms.values()) == {Form()}
    assert {name: (values.dtype.name, values.shape) for name, values in outputs.items()} == {
        "flat": ("float32", (6, 192)),
        "half": ("float16", (6, 192)),
        "best": ("int64", (6,)),
        "more": ("bool", (6, 3, 8, 8)),
    }
    flat = images.reshape(6, -1)
    assert np.array_equal(outputs["flat"], flat)
    assert np.array_equal(outputs["best"], flat.argmax(axis=1))
    assert list(session.answers(images, {"best": Form()})) == ["best"]
    assert list(session.first_answers([images], ["more", "flat"])[0]) == ["more", "flat"]
    with pytest.raises(ModelError, match="output 'none' is not there; its outputs are 'flat', 'half', 'best', 'more'"):
        session.first_answers([images], ["none"])


def test_of_an_output_that_has_other_sizes_each_sample_keeps_its_own(models):
    """Rows of [D, 2] where D is what is found in one image; scalars; and a map with the batch in front."""
    nodes = [
        models.node("Greater", "x level", "above"),
        models.node("NonZero", "above", "found"),
        models.node("Transpose", "found", "rows", perm=[1, 0]),
        models.node("Shape", "rows", "sizes"),
        models.node("Gather", "sizes zero", "first"),
        models.node("Squeeze", "first", "count"),
        models.node("Relu", "x", "same"),
    ]
    proto = models.model(
        nodes, [models.constant("zero", [0], np.int64), models.constant("level", 0.9)], batch=1, outputs=()
    )
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("rows", TensorProto.INT64), ("count", TensorProto.INT64), ("same", TensorProto.FLOAT))
    )
    session = Session(proto.SerializeToString(), Deployment())
    images = models.images(3)
    outputs, forms = session.first_answers([images])

    assert forms["rows"] == Form(leading=False, ragged=True)
    assert forms["count"] == Form(leading=False)
    assert forms["same"] == Form()
    assert [len(rows) for rows in outputs["rows"]] == outputs["count"].tolist()
    assert outputs["count"].tolist() == [int((image > 0.9).sum()) for image in images]
    assert outputs["same"].shape == images.shape
    one = session.answers(images[:1], forms)
    assert one["rows"].shape == (1,)  # an array a sample, though there is one alone
    assert np.array_equal(one["rows"][0], outputs["rows"][0])


def test_several_samples_that_no_axis_tells_apart_are_refused(models):
    session = session_of(models, [models.node("Transpose", "x", "y", perm=[1, 0, 2, 3])], [("y", 1, None)])
    with pytest.raises(ModelError, match=r"output 'y' has shape \[3, 4, 8, 8\] for 4 samples, which must be [^\n]+$"):
        session.first_answers([models.images(5)])
