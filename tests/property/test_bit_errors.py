"""Random bit errors: nested in the rate, fixed by chip and tensor, as many as the rate says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_deploy.faults.bit_errors import flipped_bits

RATES = st.one_of(st.floats(0, 1), st.floats(-10, 0).map(lambda exponent: 10.0**exponent))
CHIPS = st.integers(100, 200)


@given(low=RATES, high=RATES, chip=CHIPS, bits=st.integers(0, 3000))
def test_a_lower_rate_flips_a_subset(low, high, chip, bits):
    low, high = sorted((low, high))
    fewer, more = (flipped_bits("t", bits, rate, chip) for rate in (low, high))

    assert np.isin(fewer, more).all()
    assert np.array_equal(more, np.unique(more))
    assert more.size == 0 or (more[0] >= 0 and more[-1] < bits)


@given(rates=st.permutations([1e-3, 0.3, 1e-2]), chip=CHIPS)
def test_the_order_of_calls_does_not_matter(rates, chip):
    known = {rate: flipped_bits("t", 2000, rate, chip).tolist() for rate in (1e-3, 1e-2, 0.3)}
    assert {rate: flipped_bits("t", 2000, rate, chip).tolist() for rate in rates} == known


@pytest.mark.parametrize("rate", [1e-6, 1e-5, 3e-4, 1e-3, 0.01, 0.09, 0.1, 0.11, 0.5, 0.9])
def test_as_many_flips_as_the_rate_says(rate):
    bits, chips = 100_000, range(100, 140)
    counts = [len(flipped_bits("count", bits, rate, chip)) for chip in chips]

    expected = bits * len(chips) * rate
    assert abs(sum(counts) - expected) < 5 * np.sqrt(expected * (1 - rate))


def test_flips_fall_evenly_over_the_tensor():
    hits = np.zeros(64)
    for chip in range(100, 160):
        hits += np.bincount(flipped_bits("even", 64 * 500, 0.02, chip) // 500, minlength=64)
    assert np.abs(hits - 600).max() < 5 * np.sqrt(600)


def test_chips_and_tensors_differ():
    masks = {flipped_bits(tensor, 5000, 0.01, chip).tobytes() for tensor in ("a", "b") for chip in range(100, 110)}
    assert len(masks) == 20


def test_the_ends_of_the_scale():
    assert flipped_bits("t", 5000, 0.0, 100).size == 0
    assert np.array_equal(flipped_bits("t", 5000, 1.0, 100), np.arange(5000))


@pytest.mark.parametrize("rate", [-1e-9, 1.0001, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="not in"):
        flipped_bits("t", 10, rate, 100)


def test_the_cost_grows_with_the_flips_and_not_with_the_bits():
    """A petabit at a rate that flips some ten bits: only possible without visiting each bit."""
    flips = flipped_bits("huge", 10**15, 1e-14, 100)
    assert flips.size < 60
