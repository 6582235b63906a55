"""Sampling from raw words: without replacement, reproducible, uniform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_deploy.faults import draws

SEEDS = st.integers(0, 1 << 40)


@given(seed=SEEDS, population=st.integers(1, 500), share=st.floats(0, 1))
def test_a_sample_is_without_replacement(seed, population, share):
    count = int(share * population)
    drawn = draws.sample(draws.stream("t", seed), population, count)

    assert len(drawn) == len(set(drawn.tolist())) == count
    assert set(drawn.tolist()) <= set(range(population))
    assert np.array_equal(drawn, draws.sample(draws.stream("t", seed), population, count))


@given(seed=SEEDS, population=st.integers(2, 500), data=st.data())
def test_a_smaller_sample_is_a_prefix(seed, population, data):
    large = data.draw(st.integers(0, population))
    small = data.draw(st.integers(0, large))
    first = draws.sample(draws.stream("t", seed), population, large)

    assert np.array_equal(first[:small], draws.sample(draws.stream("t", seed), population, small))


def test_streams_differ_by_purpose_part_and_counter():
    streams = [
        draws.stream("a", 1), draws.stream("b", 1), draws.stream("a", 2), draws.stream("a", 1, counter=1),
        draws.stream("a", "1", "2"), draws.stream("a", "12"),
    ]  # fmt: skip
    assert len({stream.random_raw(4).tobytes() for stream in streams}) == len(streams)


def test_more_than_the_population_is_refused():
    with pytest.raises(ValueError, match="cannot draw 4 of 3"):
        draws.sample(draws.stream("t"), 3, 4)


@pytest.mark.parametrize("count", [20, 60], ids=["by-rejection", "by-shuffle"])
def test_every_position_is_drawn_as_often(count):
    """Hits of each of 100 positions over 2,000 samples; 5 sigma on each."""
    hits = np.zeros(100)
    for seed in range(2000):
        hits[draws.sample(draws.stream("uniform", seed), 100, count)] += 1

    share = count / 100
    assert np.abs(hits - 2000 * share).max() < 5 * np.sqrt(2000 * share * (1 - share))


@given(seed=SEEDS, width=st.sampled_from([4, 8, 16, 32, 64]))
def test_words_have_their_width(seed, width):
    patterns = draws.words(draws.stream("w", seed), width, 64)
    assert all(int(pattern) < 1 << width for pattern in patterns)
    assert any(int(pattern) >> (width - 1) for pattern in patterns)


def test_the_first_numbers_are_pinned():
    """Golden figures: the same faults years later."""
    assert draws.sample(draws.stream("sample", 0), 1000, 5).tolist() == [468, 725, 956, 762, 319]
