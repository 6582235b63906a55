import numpy as np
import pytest

from resq_deploy.deployed.synthetic import inputs_digest, synthetic_inputs

GOLDEN = {
    ((16, 3, 32, 32), np.float32, 0): "81a6aba510cf2162aa6bc3b94b8772d1a73d9dcd7f48222c2560e231be021f2b",
    ((4, 32, 32, 3), np.uint8, 7): "098cc5564b74295b88501d677cfbf2d02e5a2292cfb84926582200ff985eb661",
    ((2, 10), np.float32, 0): "5eb40834261dbdc434a5930f3b5124e417c4de46437dcbfd3a8510fae5fc5950",
}


@pytest.mark.parametrize(("shape", "dtype", "seed"), GOLDEN)
def test_inputs_never_change(shape, dtype, seed):
    inputs = synthetic_inputs(shape, dtype, seed=seed)
    assert (inputs.shape, inputs.dtype) == (shape, dtype)
    assert inputs_digest(inputs) == GOLDEN[shape, dtype, seed]


def test_floats_are_the_pixels_over_255():
    pixels, floats = (synthetic_inputs((5, 3, 20, 24), dtype) for dtype in (np.uint8, np.float32))
    assert pixels.min() < 5
    assert pixels.max() > 250
    np.testing.assert_array_equal(floats, pixels.astype(np.float32) / np.float32(255))


def test_fewer_inputs_are_the_first_of_more():
    many = synthetic_inputs((7, 3, 17, 33), np.uint8, seed=3)
    np.testing.assert_array_equal(synthetic_inputs((2, 3, 17, 33), np.uint8, seed=3), many[:2])
    assert len({image.tobytes() for image in many}) == 7


def test_another_seed_gives_other_inputs():
    first, second = (synthetic_inputs((3, 3, 16, 16), np.uint8, seed=seed) for seed in (0, 1))
    assert np.mean(first != second) > 0.9


@pytest.mark.parametrize(("shape", "axes"), [((6, 3, 32, 32), (2, 3)), ((6, 32, 32, 3), (1, 2))], ids=["NCHW", "NHWC"])
def test_neighbours_are_alike_and_colours_are_not(shape, axes):
    images = synthetic_inputs(shape, np.uint8).astype(np.int64)
    steps = [np.abs(np.diff(images, axis=axis)).mean() for axis in axes]
    (colours,) = {1, 2, 3} - set(axes)
    assert max(steps) < 0.5 * np.abs(np.diff(images, axis=colours)).mean()


def test_byte_order_does_not_change_the_digest():
    inputs = synthetic_inputs((2, 3, 8, 8), np.float32)
    assert inputs_digest(inputs.astype(">f4")) == inputs_digest(inputs)
    assert inputs_digest(inputs.reshape(3, 2, 8, 8)) != inputs_digest(inputs)
