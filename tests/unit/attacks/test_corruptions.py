"""Corruptions: what their definitions say of single pixels, and that random numbers go by image."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from resq_deploy.attacks.corruptions import (
    CIFAR_10_C,
    CORRUPTIONS,
    IMAGENET_C,
    SEVERITIES,
    corrupted,
    definitions_for,
    plasma,
)


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


def smooth(value, size=32, channels=3):
    return np.full((1, size, size, channels), value, dtype=np.uint8)


def made(images, name, severity=1, definitions=CIFAR_10_C, **more):
    return corrupted(images, name, severity, definitions=definitions, **{"seed": 0, **more})


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("definitions", [CIFAR_10_C, IMAGENET_C], ids=lambda found: found.name)
def test_images_keep_type_and_shape_and_change(name, channels, definitions):
    given = np.random.default_rng(0).integers(60, 200, (2, 20, 28, channels)).astype(np.uint8)
    for severity in SEVERITIES:
        found = made(given, name, severity, definitions)
        assert found.dtype == np.uint8
        assert found.shape == given.shape
        assert (found != given).any()


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("definitions", [CIFAR_10_C, IMAGENET_C], ids=lambda found: found.name)
def test_a_higher_severity_changes_more(name, definitions):
    ramp = np.linspace(30, 220, 32)
    grain = np.random.default_rng(1).normal(scale=12, size=(12, 32, 32, 3))
    given = np.clip(np.add.outer(ramp, ramp)[..., None] / 2 + grain, 0, 255).astype(np.uint8)
    change = [np.abs(made(given, name, at, definitions).astype(int) - given).mean() for at in SEVERITIES]
    assert change[4] > change[2] > change[0] > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_the_same_whatever_stands_beside_it(images, name):
    whole = made(images, name, 3)
    assert np.array_equal(whole[2:4], made(images[2:4], name, 3, first=2))
    assert np.array_equal(whole, made(images, name, 3))


@pytest.mark.parametrize("name", ["gaussian-noise", "shot-noise", "impulse-noise", "fog"])
def test_seed_severity_and_image_each_draw_anew(name):
    same = np.repeat(smooth(128), 2, axis=0)
    first, second = made(same, name, 1)
    assert (first != second).any()
    assert (first != made(same, name, 1, seed=1)[0]).any()


def test_gaussian_noise_has_its_deviation():
    found = made(smooth(128, 200), "gaussian-noise", 3) / 255 - 128 / 255
    assert found.std() == pytest.approx(0.08, rel=0.02)
    assert abs(found.mean()) < 0.001


def test_shot_noise_counts_photons():
    found = made(smooth(51, 200), "shot-noise", 5) / 255 * 50  # a fifth of full light: ten photons of 50
    assert found.mean() == pytest.approx(10, rel=0.01)
    assert found.var() == pytest.approx(10, rel=0.03)


def test_impulses_are_black_and_white_alike():
    found = made(smooth(128, 200), "impulse-noise", 5)
    black, white = int((found == 0).sum()), int((found == 255).sum())
    assert (found == 128).sum() == found.size - black - white
    assert stats.binomtest(black + white, found.size, 0.07).pvalue > 1e-3
    assert stats.binomtest(black, black + white, 0.5).pvalue > 1e-3


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.4), (5, 1.0)])
def test_a_point_is_blurred_to_a_gaussian_that_leaves_channels_apart(severity, sigma):
    image = np.zeros((1, 17, 17, 3), dtype=np.uint8)
    image[0, 8, 8, 0] = 255
    found = made(image, "gaussian-blur", severity)[0]
    assert not found[..., 1:].any()
    weights = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
    weights /= weights.sum()
    expected = 255 * np.outer(weights, weights)
    assert np.abs(found[4:13, 4:13, 0] - expected).max() <= 0.51


def test_the_border_is_continued_by_its_last_pixels():
    image = np.zeros((1, 16, 16, 1), dtype=np.uint8)
    image[0, :, :8] = 200
    found = made(image, "gaussian-blur", 5, IMAGENET_C)[0, :, :, 0]
    assert (found == found[0]).all()  # nothing comes in from above or below
    assert found[0, 0] > 150  # with a black border it would be darker


def test_a_line_is_blurred_to_a_gaussian():
    image = np.zeros((1, 21, 21, 1), dtype=np.uint8)
    image[0, :, 10] = 255
    sigma = 2
    found = made(image, "gaussian-blur", 2, IMAGENET_C)[0, 10, :, 0].astype(float)
    weights = np.exp(-0.5 * (np.arange(-8, 9) / sigma) ** 2)
    assert np.abs(found[2:19] - 255 * weights / weights.sum()).max() <= 0.51


def test_more_light_is_more_value_in_hsv(images):
    images[0, 0, 0] = 0  # black has no hue
    found = made(images[:1], "brightness", 4)
    for pixel, lighter in zip(images[0].reshape(-1, 3)[:300], found[0].reshape(-1, 3), strict=False):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1.0)))
        assert np.abs(lighter - 255 * expected).max() <= 0.51


def test_contrast_shrinks_towards_the_mean_of_each_channel():
    image = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    image[0, ..., 0], image[0, ..., 1] = [[100, 200], [100, 200]], 40
    found = made(image, "contrast", 2)[0]
    assert found[..., 0].tolist() == [[125, 175], [125, 175]]
    assert (found[..., 1] == 40).all()
    assert not found[..., 2].any()


@pytest.mark.parametrize(("severity", "quality"), list(zip(SEVERITIES, (80, 65, 58, 50, 40), strict=True)))
def test_jpeg_is_that_of_pillow(images, severity, quality):
    stream = io.BytesIO()
    Image.fromarray(images[0]).save(stream, "JPEG", quality=quality)
    assert np.array_equal(made(images[:1], "jpeg", severity)[0], np.asarray(Image.open(stream)))


def test_fog_lies_between_the_scene_and_a_veil_as_bright():
    found = made(smooth(100), "fog", 5)[0] / 255
    assert found.max() == pytest.approx(100 / 255 * (100 / 255 + 1.5) / (100 / 255 + 1.5), abs=0.002)
    thin = (100 / 255) ** 2 / (100 / 255 + 1.5)
    assert found.min() == pytest.approx(thin, abs=0.002)  # where there is no fog
    assert (found == found[..., :1]).all()


def test_a_black_image_has_no_light_for_fog_to_scatter():
    assert not made(smooth(0), "fog", 5).any()


@pytest.mark.parametrize(("size", "side"), [(1, 2), (2, 2), (5, 8), (32, 32), (33, 64)])
def test_a_cloud_fills_its_square_and_its_range(size, side):
    cloud = plasma(size, 3.0, np.random.default_rng(0))
    assert cloud.shape == (side, side)
    assert (cloud.min(), cloud.max()) == (0.0, 1.0)


def test_the_larger_the_decay_the_smoother_the_cloud():
    def step(decay):
        clouds = [plasma(64, decay, np.random.default_rng(seed)) for seed in range(8)]
        return np.mean([np.abs(np.diff(cloud)).mean() / cloud.std() for cloud in clouds])

    assert step(3.0) < step(2.0) < step(1.4)


class Still:
    """Draws the middle of every range, or its upper end the first time."""

    def __init__(self):
        self.swings = []

    def uniform(self, low, high, shape):
        self.swings.append((low, high, shape))
        return np.full(shape, 1.0 if len(self.swings) == 1 else 0.0)


def test_midpoints_are_means_of_four_neighbours_on_a_torus():
    draw = Still()
    cloud = plasma(4, 2.0, draw)
    # One bump in the middle; the finer points are means of four, across the border as well.
    assert np.allclose(cloud[::2, ::2], [[0, 0.5], [0.5, 1]])
    assert np.allclose(cloud[1::2, 1::2], 0.5)
    assert np.allclose(cloud[::2, 1::2], [[0.375, 0.375], [0.625, 0.625]])
    assert np.allclose(cloud[1::2, ::2], [[0.375, 0.625], [0.375, 0.625]])
    assert [shape for _, _, shape in draw.swings] == [(1, 1)] * 3 + [(2, 2)] * 3
    assert {(low, high) for low, high, _ in draw.swings} == {(-1.0, 1.0)}


class Loud(Still):
    """Draws the upper end of the third range, that of the points between, and of the sixth."""

    def uniform(self, low, high, shape):
        self.swings.append((low, high, shape))
        return np.full(shape, 1.0 if len(self.swings) in (3, 6) else 0.0)


def test_a_swing_shrinks_by_the_square_of_the_decay():
    cloud = plasma(4, 2.0, Loud())
    # Heights before scaling: 1 at the coarse points of odd rows, and 1/4 more at the fine ones.
    coarse = cloud[2, 0] - cloud[0, 0]
    fine = cloud[1, 0] - (cloud[0, 0] + cloud[2, 0] + cloud[1, 1] + cloud[1, 3]) / 4
    assert fine == pytest.approx(coarse / 4)


@pytest.mark.parametrize(
    ("size", "found"),
    [((32, 32), CIFAR_10_C), ((64, 64), CIFAR_10_C), ((65, 32), IMAGENET_C), ((32, 65), IMAGENET_C)],
)
def test_severities_go_by_the_size_of_images(size, found):
    assert definitions_for(*size) is found


PUBLISHED = {
    32: "0.04 0.06 0.08 0.09 0.1|500 250 100 75 50|0.01 0.02 0.03 0.05 0.07|0.4 0.6 0.7 0.8 1|0.05 0.1 0.15 0.2 0.3|"
    "0.75 0.5 0.4 0.3 0.15|80 65 58 50 40|0.2,3 0.5,3 0.75,2.5 1,2 1.5,1.75",
    224: "0.08 0.12 0.18 0.26 0.38|60 25 12 5 3|0.03 0.06 0.09 0.17 0.27|1 2 3 4 6|0.1 0.2 0.3 0.4 0.5|"
    "0.4 0.3 0.2 0.1 0.05|25 18 15 10 7|1.5,2 2,2 2.5,1.7 2.5,1.5 3,1.4",
}
"""What the authors' make_cifar_c.py and make_imagenet_c.py say, in the order of `CORRUPTIONS`."""


@pytest.mark.parametrize("found", [CIFAR_10_C, IMAGENET_C], ids=lambda found: found.name)
def test_severities_are_the_published_ones(found):
    told = [
        " ".join(",".join(f"{value:g}" for value in np.atleast_1d(constant)) for constant in row)
        for row in found.constants.values()
    ]
    assert "|".join(told) == PUBLISHED[found.made_for]


def test_both_tables_hold_five_severities_of_every_corruption():
    for found in (CIFAR_10_C, IMAGENET_C):
        assert tuple(found.constants) == CORRUPTIONS
        assert {len(row) for row in found.constants.values()} == {len(SEVERITIES)}
