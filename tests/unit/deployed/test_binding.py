"""Samples of any kind as a model takes them: which axis is whose, what is fed once, what does not fit."""

import numpy as np
import pytest

from resq_deploy.data.samples import Samples
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.errors import DataError, ModelError


def spec(name, dtype, *shape):
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    return InputSpec(
        name=name, dtype=dtype, shape=sizes, axes=tuple(size if isinstance(size, str) else "" for size in shape)
    )


TOKENS, MASK = spec("tokens", np.int64, "batch", "time"), spec("mask", np.int64, "batch", "time")
IMAGE, SIZE = spec("image", np.float32, "N", 3, "H", "W"), spec("size", np.int64, "N", 2)
ROWS = {"tokens": np.arange(12).reshape(4, 3), "mask": np.ones((4, 3), np.int64)}
PLANES = {"image": np.zeros((5, 3, 8, 8), np.float32)}


def batches(inputs, size):
    return [
        ({name: value.shape for name, value in each.feeds.items()}, each.rows, each.count)
        for each in inputs.batches(size)
    ]


def test_arrays_with_a_row_a_sample_are_cut_into_batches():
    found = bound(Samples(name="d", arrays=ROWS), (TOKENS, MASK), ["y"])
    assert batches(found, 3) == [({"tokens": (n, 3), "mask": (n, 3)}, n, n) for n in (3, 1)]
    assert np.array_equal(found[1:3].arrays["tokens"], ROWS["tokens"][1:3])


@pytest.mark.parametrize("value", [[8, 9], [[8, 9]]], ids=["of a sample", "of a batch of one"])
def test_what_is_fed_once_is_repeated_for_the_samples_of_a_run(value):
    found = bound(Samples(name="d", arrays=PLANES, once={"size": np.array(value)}), (IMAGE, SIZE), ["y"])
    first, last = found.batches(3)
    assert (first.feeds["size"].tolist(), last.feeds["size"].shape) == ([[8, 9]] * 3, (2, 2))
    assert first.feeds["size"].dtype == np.int64
    assert found.alike == {"size"}


def test_scalars_and_vectors_of_the_model_are_fed_as_they_are():
    rate, taps = spec("rate", np.int64), spec("taps", np.float32, 3)
    given = {"rate": np.array(16000), "taps": np.array([1, 2, 3])}
    (batch,) = bound(Samples(name="d", arrays=PLANES, once=given), (IMAGE, rate, taps), ["y"]).batches(9)
    assert (batch.feeds["rate"].shape, batch.feeds["taps"].dtype) == ((), np.float32)
    assert batch.feeds["taps"].shape == (3,)


def test_a_fixed_batch_is_filled_up():
    found = bound(Samples(name="d", arrays=PLANES), (spec("image", np.float32, 2, 3, 8, 8),), ["y"])
    assert [(each.rows, each.count) for each in found.batches(100)] == [(2, 2), (2, 2), (2, 1)]


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, "H", "W")], ids=["fixed", "open"])
def test_an_input_without_an_axis_of_samples_takes_them_one_by_one(shape):
    found = bound(Samples(name="d", arrays=PLANES), (spec("image", np.float32, *shape),), ["y"])
    assert batches(found, 100) == [({"image": (3, 8, 8)}, 1, 1)] * 5


def test_sequences_carry_states_of_zeros():
    state = spec("h", np.float32, 2, "N", 4)
    frames = {"x": np.zeros((5, 7, 6), np.float32)}
    x = spec("x", np.float32, "N", 6)
    found = bound(Samples(name="d", arrays=frames, states={"h": "h_out"}), (x, state), ["y", "h_out"])
    batch = next(found.batches(3))
    assert (len(batch.steps), batch.first["x"].shape, batch.first["h"].shape) == (7, (3, 6), (2, 3, 4))
    assert not batch.first["h"].any()


def test_a_state_may_begin_with_values_and_one_without_room_takes_samples_one_by_one():
    samples = Samples(
        name="d", arrays={"x": np.zeros((5, 7, 6), np.float32)}, states={"h": "o"}, once={"h": np.ones((1, 4))}
    )
    found = bound(samples, (spec("x", np.float32, "N", 6), spec("h", np.float32, 1, 4)), ["o"])
    batch = next(found.batches(3))
    assert (batch.rows, batch.first["h"].tolist()) == (1, [[1.0] * 4])


@pytest.mark.parametrize(
    ("given", "inputs", "message"),
    [
        (
            {"arrays": {"tokens": ROWS["tokens"]}},
            (TOKENS, MASK),
            r"no array for the model's input 'mask' \(int64 \[batch, time\]\)",
        ),
        (
            {"arrays": {**ROWS, "mask": np.ones((4, 3))}},
            (TOKENS, MASK),
            r"'mask' is float64 \[4, 3\], and the model's input takes int64",
        ),
        (
            {"arrays": {"image": np.zeros((5, 1, 8, 8), np.float32)}},
            (IMAGE,),
            r"\[5, 1, 8, 8\].*takes float32 \[N, 3, H, W\]",
        ),
        (
            {"arrays": {**ROWS, "mask": np.ones((3, 3), np.int64)}},
            (TOKENS, MASK),
            "different numbers of samples: 'tokens' 4, 'mask' 3",
        ),
        ({"arrays": PLANES, "once": {"size": np.array([1, 2, 3])}}, (IMAGE, SIZE), r"--feed size is int64 \[3\]"),
        ({"arrays": PLANES, "once": {"size": np.array([0.5, 2])}}, (IMAGE, SIZE), r"--feed size is float64"),
        ({"arrays": PLANES, "once": {"none": np.array(1)}}, (IMAGE, SIZE), "no input 'none'; it takes 'image'"),
        ({"arrays": PLANES, "states": {"size": "none"}}, (IMAGE, SIZE), "no output 'none'; it gives 'y'"),
        (
            {"arrays": {**PLANES, "size": np.zeros((5, 2), np.int64)}, "once": {"size": np.array([1, 2])}},
            (IMAGE, SIZE),
            "give it once",
        ),
        (
            {"images": np.zeros((5, 8, 8, 3), np.uint8)},
            (TOKENS, MASK),
            r"takes 2 inputs.*one array an input.*'tokens' \(int64.*--dataset synthetic",
        ),
        ({"once": {"tokens": np.array([[1, 2]])}}, (TOKENS,), "no sample differs"),
        (
            {"arrays": {"x": np.zeros((4, 2, 6), np.float32)}, "states": {"h": "y"}},
            (spec("x", np.float32, "N", 6), spec("h", np.float32, "N", "width")),
            "--feed h=FILE.npy",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_line(given, inputs, message):
    with pytest.raises(DataError, match=message) as caught:
        bound(Samples(name="d", **given), inputs, ["y"])
    assert "\n" not in str(caught.value)


def test_fixed_batches_of_two_sizes_are_refused():
    inputs = (spec("a", np.float32, 2, 3), spec("b", np.float32, 4, 3))
    arrays = {name: np.zeros((8, 3), np.float32) for name in "ab"}
    with pytest.raises(ModelError, match="take 2 and 4 samples at a time"):
        bound(Samples(name="d", arrays=arrays), inputs, ["y"])
