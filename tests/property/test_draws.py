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


@given(seed=SEEDS, places=st.lists(st.integers(0, 2**62), max_size=30), data=st.data())
def test_a_number_belongs_to_its_place_whatever_is_asked_with_it(seed, places, data):
    at = np.array(places, dtype=np.int64)
    found = draws.placed("t", seed, at=at)
    assert ((found >= 0.0) & (found < 1.0)).all()
    order = np.array(data.draw(st.permutations(range(len(places)))), dtype=np.int64)
    assert np.array_equal(draws.placed("t", seed, at=at[order]), found[order])
    assert [float(draws.placed("t", seed, at=at[[place]])[0]) for place in range(len(places))] == found.tolist()


def test_numbers_by_place_are_those_of_splitmix64(monkeypatch):
    """The first five outputs after the seed 1234567, from the published reference implementation."""
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]

    class Begun:
        def random_raw(self, count):
            return np.full(count, 1234567, dtype=np.uint64)

    monkeypatch.setattr(draws, "stream", lambda *_: Begun())
    assert draws.placed("t", at=np.arange(5)).tolist() == [(word >> 11) * 2.0**-53 for word in words]


def test_the_first_numbers_by_place_are_pinned():
    """Golden figures: the same cells years later."""
    found = draws.placed("true-cells", 0, "w", at=np.arange(4))
    assert found.tolist() == [0.1292470224472998, 0.31793416475381575, 0.6747554597044574, 0.850535501702079]
