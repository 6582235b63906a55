import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resq_deploy.attacks.ball import Norm, distance, to_levels, whole_levels


@pytest.mark.parametrize(("norm", "expected"), [(Norm.LINF, 0.5), (Norm.L2, np.sqrt(0.3**2 + 0.5**2))])
def test_distance_is_that_of_the_norm(norm, expected):
    origin = np.zeros((2, 1, 2, 2), np.float32)
    pixels = origin.copy()
    pixels[1, 0, 0] = [0.3, 0.5]
    np.testing.assert_allclose(distance(norm, pixels, origin), [0.0, expected], rtol=1e-6)


@pytest.mark.parametrize(("radius", "levels"), [(4 / 255, 4), (np.float32(4 / 255), 4), (3.99 / 255, 3), (0.0, 0)])
def test_whole_levels(radius, levels):
    assert whole_levels(radius) * 255 == pytest.approx(levels)


@given(seed=st.integers(0, 10**6), norm=st.sampled_from(Norm), levels=st.floats(0.3, 40))
@settings(max_examples=60, deadline=None)
def test_rounded_images_lie_in_the_ball_of_the_8_bit_origin(seed, norm, levels):
    rng = np.random.default_rng(seed)
    origin = rng.integers(0, 256, (5, 3, 6, 6)).astype(np.float32) / 255
    change = rng.normal(size=origin.shape)
    radius = levels / 255 * (1 if norm is Norm.LINF else 6)
    change *= (radius / distance(norm, change, np.zeros_like(change)))[:, None, None, None]
    pixels = np.clip(origin + change, 0, 1).astype(np.float32)
    rounded = to_levels(norm, pixels, origin, radius)
    assert rounded.dtype == np.uint8
    assert distance(norm, rounded / 255, origin).max() <= radius + 1e-6


def test_whole_changes_within_a_whole_radius_are_kept_exactly():
    rng = np.random.default_rng(0)
    start = rng.integers(20, 230, (4, 3, 8, 8))
    wanted = start + rng.integers(-8, 9, start.shape)
    found = to_levels(
        Norm.LINF, (wanted / 255).astype(np.float32), (start / 255).astype(np.float32), np.float32(8 / 255)
    )
    np.testing.assert_array_equal(found, wanted)


def test_an_l2_change_loses_little_by_rounding():
    rng = np.random.default_rng(0)
    origin = (rng.integers(60, 190, (8, 3, 32, 32)) / 255).astype(np.float32)
    change = rng.normal(size=origin.shape)
    change *= (0.5 / distance(Norm.L2, change, np.zeros_like(change)))[:, None, None, None]
    rounded = to_levels(Norm.L2, (origin + change).astype(np.float32), origin, 0.5)
    assert distance(Norm.L2, rounded / 255, origin).min() > 0.49
