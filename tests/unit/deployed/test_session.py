"""What a model takes and gives: layouts, types, fixed batches, time limits."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from resq_deploy.data.samples import Samples
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.outputs import Form
from resq_deploy.deployed.session import Session, Watchdog
from resq_deploy.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        (np.float32, (None, 3, 8, 8), PIXELS.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)),
        (np.float32, (None, 8, 8, 3), PIXELS.astype(np.float32) / np.float32(255)),
        (np.uint8, (None, 3, 8, 8), PIXELS.transpose(0, 3, 1, 2)),
        (np.uint8, (None, 8, 8, 3), PIXELS),
        (np.uint8, (None, None, None, None), PIXELS.transpose(0, 3, 1, 2)),
    ],
    ids=["float-NCHW", "float-NHWC", "uint8-NCHW", "uint8-NHWC", "all-open"],
)
def test_images_are_brought_into_the_layout_the_model_takes(dtype, shape, expected):
    ready = InputSpec(name="x", dtype=dtype, shape=shape).prepare(PIXELS)

    assert ready.dtype == expected.dtype
    assert np.array_equal(ready, expected)


@pytest.mark.parametrize(
    ("shape", "mend"),
    [
        ((None, 3, 16, 16), "use data made for this model"),
        ((None, 1, 8, 8), "give --channels gray"),
        ((None, 192), "use data made for this model"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, mend):
    with pytest.raises(DataError, match=mend):
        InputSpec(name="x", dtype=np.float32, shape=shape).prepare(PIXELS)


def test_float_images_are_fed_as_they_are(models):
    images = models.images(2)
    spec = InputSpec(name="x", dtype=np.float32, shape=(None, 3, 8, 8))
    assert np.array_equal(spec.prepare(images), images)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_fixed_batch_is_filled_up_and_cut_off_again(count, model_file, models):
    images = models.images(count)
    session = Session(DeployedModel.load(model_file("fixed_batch")).patcher().golden, Deployment())
    one_by_one = [session.run(images[at : at + 1]) for at in range(count)]

    assert session.run(images).tobytes() == np.concatenate(one_by_one).tobytes()


def test_the_first_floating_output_holds_the_scores(model_file, models):
    """Not the probabilities after it, nor the class number."""
    session = Session(DeployedModel.load(model_file("overridable")).patcher().golden, Deployment())
    scores = session.run(models.images(4))

    assert scores.shape == (4, models.CLASSES)
    assert not np.allclose(scores.sum(axis=1), 1, atol=1e-3)


def test_a_run_without_end_is_stopped(models):
    """A Loop of 2^62 turns over the image."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Relu", ["v"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)]
    proto = models.model(nodes, [models.constant("turns", 1 << 62, np.int64)])
    session = Session(proto.SerializeToString(), Deployment())

    with Watchdog(0.2) as watchdog, pytest.raises(Exception, match="terminate"):
        session.run(models.images(), watchdog.options)
    assert watchdog.expired


def test_states_are_handed_from_step_to_step_and_outputs_joined_over_them(kinds):
    model = kinds.five_states().SerializeToString()
    samples = Samples(
        name="d",
        arrays={"x": np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)},
        states={name: f"{name}_out" for name in kinds.STATES},
    )
    session = Session(model, Deployment())
    inputs = bound(samples, session.inputs, [output.name for output in session.outputs])
    outputs, _ = session.first_answers([inputs])

    plain = create(model, Deployment())
    for sample, found in zip(samples.arrays["x"], outputs["y"], strict=True):
        carried = {name: np.zeros((1, 6), np.float32) for name in kinds.STATES}
        for step, wanted in zip(sample, found, strict=True):
            given = dict(
                zip([o.name for o in plain.get_outputs()], plain.run(None, {"x": step[None], **carried}), strict=True)
            )
            assert given["y"][0].tobytes() == wanted.tobytes()
            carried = {name: given[f"{name}_out"] for name in kinds.STATES}
    assert list(outputs) == ["y"]  # states are no answers
    assert np.array_equal(session.answers(inputs[1:], {"y": Form()})["y"], outputs["y"][1:])
