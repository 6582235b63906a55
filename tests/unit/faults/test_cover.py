"""Greedy maximum coverage, held against every choice there is."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_deploy.faults import cover
from resq_deploy.faults.cover import covered, greedy_cover


def table(seed, faults=12, inputs=8, share=0.25):
    rng = np.random.default_rng(seed)
    return rng.random((faults, inputs)) < share, rng.integers(1, 9, faults).astype(float)


def weight(reveals, weights, chosen):
    return weights[reveals[:, list(chosen)].any(axis=1)].sum()


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_it_weighs_what_nemhauser_promises_of_the_best_choice_there_is(seed, count):
    reveals, weights = table(seed)
    found = greedy_cover(reveals, weights, count, np.ones(8, bool))
    best = max(weight(reveals, weights, choice) for choice in itertools.combinations(range(8), count))
    assert len(set(found)) == count
    assert weight(reveals, weights, found) >= (1 - (1 - 1 / count) ** count) * best - 1e-9
    assert weight(reveals, weights, found) >= (1 - 1 / math.e) * best - 1e-9


@given(st.integers(0, 10**6))
def test_each_step_adds_the_most_that_any_input_could(seed):
    reveals, weights = table(seed)
    found = greedy_cover(reveals, weights, 5, np.ones(8, bool))
    for at, chosen in enumerate(found):
        gains = [weight(reveals, weights, [*found[:at], other]) for other in range(8) if other not in found[:at]]
        assert weight(reveals, weights, found[: at + 1]) == max(gains), chosen


def test_of_several_that_add_as_much_the_first_is_chosen():
    reveals = np.array([[0, 1, 1, 0], [0, 0, 0, 1]], bool)
    assert greedy_cover(reveals, np.ones(2), 2, np.ones(4, bool)) == [1, 3]


def test_weights_decide_and_not_numbers():
    reveals = np.array([[1, 0], [1, 0], [0, 1]], bool)
    assert greedy_cover(reveals, np.array([1.0, 1.0, 3.0]), 1, np.ones(2, bool)) == [1]
    assert greedy_cover(reveals, np.array([1.0, 1.0, 1.0]), 1, np.ones(2, bool)) == [0]


def test_weights_of_any_size_decide_alike():
    reveals = np.array([[1, 0], [0, 1]], bool)
    for size in (1e-15, 1.0, 1e15):
        assert greedy_cover(reveals, size * np.array([1.0, 3.0]), 1, np.ones(2, bool)) == [1]


def test_faults_that_are_revealed_already_add_nothing():
    reveals = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]], bool)
    assert greedy_cover(reveals, np.ones(4), 2, np.ones(3, bool)) == [0, 1]


def test_only_what_is_allowed_is_chosen():
    reveals = np.array([[1, 0, 1], [1, 0, 0]], bool)
    allowed = np.array([False, True, True])
    assert greedy_cover(reveals, np.ones(2), 2, allowed) == [2, 1]
    with pytest.raises(ValueError, match="2 inputs may be chosen, not 3"):
        greedy_cover(reveals, np.ones(2), 3, allowed)


def test_where_all_are_revealed_once_they_are_revealed_once_more():
    reveals = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 0, 0]], bool)
    assert greedy_cover(reveals, np.ones(3), 3, np.ones(4, bool)) == [0, 3, 1]


def test_without_faults_the_first_inputs_are_taken():
    assert greedy_cover(np.zeros((0, 3), bool), np.zeros(0), 2, np.ones(3, bool)) == [0, 1]


def test_few_faults_at_a_time_give_the_same_choice(monkeypatch):
    reveals, weights = table(7, faults=50)
    whole = greedy_cover(reveals, weights, 6, np.ones(8, bool))
    monkeypatch.setattr(cover, "_CHUNK", 3 * 8)
    assert greedy_cover(reveals, weights, 6, np.ones(8, bool)) == whole


def test_coverage_grows_with_the_inputs():
    reveals = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    assert covered(reveals, [1, 0, 2]).tolist() == [[False, True, False], [True, True, False], [True, True, False]]
