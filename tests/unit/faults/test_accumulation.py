"""Failures by flips that gather, against flips drawn one by one."""

import math

import numpy as np
import pytest

from resq_deploy.faults.accumulation import vote_fails, word_fails

WORDS, STRETCHES = 4000, 25


def arrivals(random, bits, rate, hours):
    """Flips of each bit of many words in one stretch between two scrubs, by waiting times; shape [WORDS, bits]."""
    flips = np.zeros((WORDS, bits), dtype=int)
    clock = random.exponential(1 / rate, (WORDS, bits))
    while (soon := clock < hours).any():
        flips += soon
        clock[soon] += random.exponential(1 / rate, soon.sum())
        clock[~soon] = np.inf
    return flips


@pytest.mark.parametrize(("bits", "corrects"), [(64, 1), (127, 2), (61, 2)], ids=["secded", "dected", "dected-6"])
@pytest.mark.parametrize("mean", [0.3, 1.5])
def test_words_fail_as_often_as_flips_meet_in_them(bits, corrects, mean):
    random, hours = np.random.default_rng(bits), 7.0
    rate = mean / bits / hours
    failed = sum((arrivals(random, bits, rate, hours).sum(1) > corrects).sum() for _ in range(STRETCHES))
    wanted, tried = word_fails(bits, corrects, rate, hours), WORDS * STRETCHES
    assert abs(failed / tried - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / tried)


@pytest.mark.parametrize("bits", [8, 32])
def test_votes_fail_as_often_as_two_copies_are_hit(bits):
    random, hours = np.random.default_rng(bits), 7.0
    rate = 0.3 / bits / hours
    hit = sum(
        (arrivals(random, 3 * bits, rate, hours).reshape(WORDS, 3, bits).any(2).sum(1) >= 2).sum()
        for _ in range(STRETCHES)
    )
    wanted, tried = vote_fails(bits, rate, hours), WORDS * STRETCHES
    assert abs(hit / tried - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / tried)


@pytest.mark.parametrize("mean", [1e-3, 1e-8, 1e-15])
def test_rare_flips_keep_all_their_digits(mean):
    assert word_fails(64, 1, mean / 64, 1.0) == pytest.approx(mean**2 / 2 * (1 - 2 * mean / 3), rel=max(mean**2, 1e-12))
    assert word_fails(127, 2, mean / 127, 1.0) == pytest.approx(
        mean**3 / 6 * (1 - 0.75 * mean), rel=max(mean**2, 1e-12)
    )
    assert vote_fails(32, mean / 32, 1.0) == pytest.approx(3 * mean**2, rel=2 * mean + 1e-12)


def test_flips_without_end_fail_everything():
    assert word_fails(64, 1, 1.0, 1e6) == 1.0
    assert vote_fails(32, 1.0, 1e6) == 1.0
    assert word_fails(64, 1, 0.0, 1e6) == vote_fails(32, 0.0, 1e6) == 0.0
