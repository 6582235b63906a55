"""Equation 6: the clip found is the minimum of J, for any weights and any rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.codes.words import decode, encode
from resq_deploy.errors import OptionError
from resq_deploy.quantization.ranges import best_clip, cost_of_range, expected_error, rate_left

ELEMENTS = st.floats(-8, 8, width=32, allow_subnormal=False)  # a clip among subnormal numbers is rounded coarsely
WEIGHTS = arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=6), elements=ELEMENTS)
RATES = st.sampled_from([0.0, 1e-9, 3.8e-6, 1e-3, 0.02, 0.5])


def j(magnitudes, clip, ber):
    """Equation 6, written down anew."""
    return np.mean(np.maximum(magnitudes - clip, 0) ** 2) + (21845 * ber + 1 / 12) * (clip / 127) ** 2


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, RATES)
def test_no_clip_of_a_fine_grid_is_better(weights, ber):
    clips = best_clip(weights, axis=0, ber=ber)
    assert clips.dtype == np.float32
    assert clips.shape == weights.shape[:1]
    for row, clip in zip(weights, clips, strict=True):
        magnitudes = np.abs(row.astype(np.float64)).ravel()
        least = min(j(magnitudes, other, ber) for other in np.linspace(0, magnitudes.max(), 2001))
        assert j(magnitudes, float(clip), ber) <= least * (1 + 1e-6)
        assert 0 <= clip <= magnitudes.max()


@settings(max_examples=80, deadline=None)
@given(WEIGHTS, RATES, st.floats(0, 10, width=32))
def test_expected_error_is_equation_6(weights, ber, clip):
    magnitudes = np.abs(weights.astype(np.float64))
    whole = expected_error(weights, np.float32(clip), axis=None, ber=ber)
    assert whole.shape == ()
    assert whole == pytest.approx(j(magnitudes, clip, ber))
    each = expected_error(weights, np.full(len(weights), clip, np.float32), axis=0, ber=ber)
    assert each == pytest.approx([j(row, clip, ber) for row in magnitudes])


def test_the_flip_term_is_the_mean_squared_change_of_flipped_codes():
    codes = np.arange(-128, 128, dtype=np.int8)
    change = [(codes ^ np.int8(mask)).astype(float) - codes for mask in (1, 2, 4, 8, 16, 32, 64, -128)]
    assert sum(np.mean(np.square(step)) for step in change) == 21845
    assert cost_of_range(0.25, 127) == pytest.approx((21845 / 4 + 1 / 12) / 127**2)


@pytest.mark.parametrize("bits", [7, 6])
def test_flips_of_fewer_bits_move_a_sign_extended_code_by_less(bits):
    codes = np.arange(-(1 << bits - 1), 1 << bits - 1)
    signed = lambda stored: (stored & (1 << bits) - 1 ^ 1 << bits - 1) - (1 << bits - 1)  # noqa: E731
    moved = sum(np.mean(np.square(signed(codes ^ 1 << bit) - codes)) for bit in range(bits))
    assert cost_of_range(0.25, 1, bits) == pytest.approx(moved / 4 + 1 / 12)


@pytest.mark.parametrize(("name", "bits"), KNOWN)
def test_the_rate_that_a_code_leaves_is_that_of_decoded_weights(name, bits):
    code, ber, count = known_code(name, bits), 1e-2, 1 << 18
    rng = np.random.default_rng(0)
    weights = rng.integers(-code.largest, code.largest + 1, count).astype(np.int8)
    stored = encode(code, weights)
    flips = np.packbits(rng.random((stored.size, 8)) < ber, axis=1)[:, 0]
    wrong = decode(code, stored ^ flips, count).weights ^ weights
    left = np.unpackbits((wrong.view(np.uint8) & code.data_mask)[:, None], axis=1).sum() / (count * bits)
    assert left == pytest.approx(rate_left(code, ber), rel=0.15)
    assert rate_left(code, 0.0) == 0.0
    assert rate_left(code, 0.5) == pytest.approx(0.5)


def test_a_tensor_has_one_clip_and_the_channel_axis_may_be_any():
    weights = np.random.default_rng(2).normal(size=(5, 4, 3)).astype(np.float32)
    whole = best_clip(weights, axis=None, ber=1e-3)
    assert whole.shape == ()
    assert whole == best_clip(weights.reshape(1, -1), axis=0, ber=1e-3)[0]
    moved = best_clip(np.moveaxis(weights, 0, 2), axis=2, ber=1e-3)
    np.testing.assert_array_equal(moved, best_clip(weights, axis=0, ber=1e-3))


def test_a_channel_of_zeros_has_the_clip_zero():
    assert best_clip(np.zeros((2, 3), np.float32), axis=0, ber=1e-3).tolist() == [0, 0]


@pytest.mark.parametrize("count", [1, 7], ids=["one weight", "constant channel"])
def test_equal_weights_are_clipped_by_the_factor_that_the_equation_gives(count):
    weights = np.full((1, count), -2, np.float32)
    for ber in (0, 1e-3, 0.5):
        factor = 1 + (21845 * ber + 1 / 12) / 127**2
        assert best_clip(weights, axis=0, ber=ber) == pytest.approx([2 / factor])


def test_higher_rates_give_narrower_ranges():
    weights = np.random.default_rng(3).normal(size=(1, 500)).astype(np.float32)
    clips = [best_clip(weights, axis=0, ber=ber)[0] for ber in (0, 1e-5, 1e-4, 1e-3, 1e-2, 0.5)]
    assert clips == sorted(clips, reverse=True)
    assert len(set(clips)) == len(clips)


@pytest.mark.parametrize("ber", [-1e-9, 0.51, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(ber):
    with pytest.raises(OptionError, match=r"--design-ber .*: give a bit error rate from 0 to 0.5"):
        best_clip(np.ones((1, 1), np.float32), axis=0, ber=ber)
