import numpy as np
import pytest

from resq_deploy.deployed.likeness import Likeness, coarse_shape
from resq_deploy.deployed.synthetic import inputs_digest


def like(images, count=64, seed=3):
    return Likeness.of(images, count, seed)


def given(seed=0, n=200):
    """Images with a bright left half whose brightness varies from image to image, and dim noise elsewhere."""
    source = np.random.default_rng(seed)
    images = source.normal(0.2, 0.02, (n, 3, 32, 32))
    images[..., :16] += source.normal(0.5, 0.1, (n, 1, 1, 1))
    return np.clip(images, 0, 1).astype(np.float32)


def test_inputs_have_the_means_and_the_spread_of_the_images():
    images = given()
    inputs = like(images, 300).inputs()
    assert (inputs.shape, inputs.dtype) == ((300, 3, 32, 32), np.float32)
    for half in (slice(0, 12), slice(20, 32)):
        theirs, ours = (part[..., half].mean(axis=(1, 2, 3)) for part in (images, inputs))
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.02)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.25, abs=0.005)
    colours = np.corrcoef(inputs[:, 0, :, :12].mean(axis=(1, 2)), inputs[:, 2, :, :12].mean(axis=(1, 2)))
    assert colours[0, 1] > 0.9  # the images' halves brighten in all colours at once


def test_no_image_is_kept():
    images = np.clip(np.random.default_rng(0).normal(0.5, 0.2, (40, 3, 32, 32)), 0, 1).astype(np.float32)
    kept = like(images, 40)
    theirs = np.rint(like(np.repeat(images[:1], 2, axis=0), 1).coarse).reshape(1, -1).astype(int)
    assert np.abs(kept.coarse.reshape(40, -1).astype(int) - theirs).max(axis=1).min() > 0


def test_the_same_seed_gives_the_same_inputs_and_another_gives_others():
    first, again, other = like(given()), like(given()), like(given(), seed=4)
    assert inputs_digest(first.inputs()) == inputs_digest(again.inputs())
    assert inputs_digest(first.inputs()) != inputs_digest(other.inputs())


def test_inputs_made_of_kept_patterns_never_change():
    kept = Likeness(
        shape=(3, 20, 9),
        dtype=np.float32,
        coarse=(np.arange(2 * 3 * 5 * 9) % 256).astype(np.uint8).reshape(2, 3, 5, 9),
        noise=17,
        low=-1.5,
        high=2.0,
        seed=1,
    )
    assert coarse_shape((3, 20, 9)) == (3, 5, 9)
    assert inputs_digest(kept.inputs()) == "80fdcc61116075bad23f20eab29be0a375dec39228e372efac48a0adf035c264"


def test_uint8_images_give_uint8_inputs():
    images = np.rint(255 * given().transpose(0, 2, 3, 1)).astype(np.uint8)
    inputs = like(images).inputs()
    assert (inputs.shape, inputs.dtype) == ((64, 32, 32, 3), np.uint8)
    assert inputs.mean() == pytest.approx(images.mean(), abs=5)


def test_values_beyond_pixels_keep_their_range():
    images = 10 * given() - 3
    inputs = like(images).inputs()
    assert inputs.min() >= np.float32(images.min()) - 1e-4
    assert inputs.mean() == pytest.approx(images.mean(), abs=0.3)


@pytest.mark.parametrize("images", [np.zeros((1, 3, 8, 8), np.float32), np.full((5, 12), 0.5, np.float32)])
def test_images_that_are_all_alike_are_no_obstacle(images):
    inputs = like(images, 7).inputs()
    assert inputs.shape == (7, *images.shape[1:])
    np.testing.assert_allclose(inputs, images.mean(), atol=1 / 255)
