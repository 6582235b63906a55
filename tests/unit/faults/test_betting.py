"""Betting bounds: against a plain re-implementation, exactly over all samples of small populations, and monotone."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resq_deploy.faults.betting import (
    Phase,
    against_higher,
    against_lower,
    bounds,
    log_threshold,
    mean_bounds,
    total,
)

RATES = st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.02, 0.3, 0.97, 1.0]), min_size=1, max_size=40)


def plain_capital(values, m):
    """Against a mean of m or more, one fault after the other, as in the docstring's equation."""
    bets = [1.0, *(0.8 * 0.55**power for power in range(13))]
    weights = [0.4, *[0.6 / 13] * 13]
    return sum(
        weight * math.prod(1 - bet * (x - m) / (1 - m) for x in values)
        for bet, weight in zip(bets, weights, strict=True)
    )


def plain_upper(values, confidence):
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if plain_capital(values, middle) >= 2 / (1 - confidence) else (middle, high)
    return high


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(
    "values", [[0.0] * 50, [1.0], [0.0], [0.3] * 7, [0.0] * 90 + [1.0], [0.01, 0.5, 0.97, 0.0, 0.0, 1.0], [1.0] * 12]
)
def test_the_ends_are_those_of_a_plain_product(values, confidence):
    low, high = mean_bounds(values, confidence)
    assert high == pytest.approx(plain_upper(values, confidence), abs=1e-9)
    assert low == pytest.approx(1 - plain_upper([1 - x for x in values], confidence), abs=1e-9)


def test_the_ends_are_rounded_outwards():
    values = [0.0] * 30 + [0.3] * 9
    for confidence in np.linspace(0.5, 0.99, 40):
        low, high = mean_bounds(values, confidence)
        assert total(against_higher([Phase.of(values)], high)) >= log_threshold(confidence)
        assert total(against_lower([Phase.of(values)], low)) >= log_threshold(confidence)


def test_the_stake_is_one_in_all():
    assert total(against_higher([], 0.3)) == pytest.approx(0.0, abs=1e-12)
    assert log_threshold(0.95) == pytest.approx(math.log(40))
    assert bounds([], 0.95) == (pytest.approx(0.0, abs=1e-12), 1.0)


def expected(capital, samples):
    return float(np.mean([math.exp(min(total(capital(sample)), 700.0)) for sample in samples]))


@pytest.mark.parametrize("seed", range(5))
def test_bets_against_the_truth_win_nothing_over_all_samples_without_replacement(seed):
    rng = np.random.default_rng(seed)
    population = rng.choice([0.0, 0.02, 0.5, 1.0], 9, p=[0.5, 0.2, 0.2, 0.1])
    truth = population.mean()
    samples = list(itertools.combinations(population, 4))
    assert expected(lambda s: against_higher([Phase.of(s)], truth), samples) <= 1.0 + 1e-9
    assert expected(lambda s: against_lower([Phase.of(s)], truth), samples) <= 1.0 + 1e-9
    # The bets do win where the mean bet against is wrong: the test above is no matter of course.
    assert expected(lambda s: against_higher([Phase.of(s)], min(0.999, truth + 0.5)), samples) > 1.0


@given(RATES, st.data())
@settings(max_examples=150, deadline=None)
def test_more_harm_never_lowers_an_end_and_order_does_not_matter(values, data):
    place = data.draw(st.integers(0, len(values) - 1))
    worse = [*values]
    worse[place] = data.draw(st.sampled_from([x for x in (0.0, 0.005, 0.4, 1.0) if x >= values[place]]))
    low, high = mean_bounds(values, 0.95)
    harmed = mean_bounds(worse, 0.95)
    assert harmed[0] >= low - 1e-12
    assert harmed[1] >= high - 1e-12
    assert mean_bounds(data.draw(st.permutations(values)), 0.95) == (low, high)
    assert low <= np.mean(values) <= high


@given(RATES)
@settings(max_examples=60, deadline=None)
def test_the_ends_mirror_each_other(values):
    low, high = mean_bounds(values, 0.9)
    mirrored = mean_bounds(1.0 - np.asarray(values), 0.9)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-11)


def test_one_wrong_image_does_not_narrow_the_interval():
    """A thousand faults and one wrong image in a thousand runs: once an upper end of 5.7e-6, below that of no event."""
    none, one = mean_bounds(np.zeros(1000), 0.95), mean_bounds([0.001, *np.zeros(999)], 0.95)
    assert one[1] >= none[1] > 0.0036


@pytest.mark.parametrize("n", [1, 2, 10, 100, 1000, 5000])
def test_no_event_costs_little_more_than_clopper_pearson(n):
    exact = 1 - 0.025 ** (1 / n)
    assert exact < mean_bounds(np.zeros(n), 0.95)[1] <= 1.3 * exact


def test_surer_is_wider():
    values = [0.0] * 60 + [0.5] * 4
    narrow, wide = mean_bounds(values, 0.8), mean_bounds(values, 0.99)
    assert wide[0] < narrow[0] < np.mean(values) < narrow[1] < wide[1]


def test_phases_multiply():
    first, second = [0.0, 0.5, 0.0], [1.0, 0.0, 0.25, 0.0]
    together = against_higher([Phase.of(first), Phase.of(second)], 0.4)
    assert together == pytest.approx(against_higher([Phase.of(first + second)], 0.4))
    assert not np.allclose(together, against_higher([Phase.of(first)], 0.4))


def test_a_later_phase_bets_on_the_mean_of_the_rest():
    """Of 10 faults the first 4 summed to 1.5: a mean of 0.3 leaves (3 - 1.5) / 6 for the rest."""
    phase = Phase.of([0.2, 0.3], slope=10 / 6, taken=1.5 / 6)
    plain = Phase.of([0.2, 0.3])
    assert against_higher([phase], 0.3) == pytest.approx(against_higher([plain], 0.25))
    assert against_lower([phase], 0.3) == pytest.approx(against_lower([plain], 0.25))


def test_figures_a_phase_cannot_tell_of_may_all_be_one():
    """Of 10 faults 2 cannot be hit: at a mean of 0.5 they take 2 of the 5 (upper end), or none of them (lower end)."""
    phase = Phase.of([0.1, 0.7], slope=10 / 8, unknown=2 / 8)
    plain = Phase.of([0.1, 0.7])
    assert against_higher([phase], 0.5) == pytest.approx(against_higher([plain], 3 / 8))
    assert against_lower([phase], 0.5) == pytest.approx(against_lower([plain], 5 / 8))


def test_impossible_means_are_ruled_out():
    seen = Phase.of([0.0, 0.0], slope=10 / 6, taken=1.5 / 6)
    assert np.isinf(against_lower([seen], 0.1)).all()  # the first four summed to more than that already
    assert np.isinf(against_lower([Phase.of([0.5])], 0.0)).all()
    assert np.isinf(against_higher([Phase.of([0.5])], 1.0)).all()
    assert np.isfinite(against_lower([Phase.of([0.0])], 0.0)).all()


def test_figures_beyond_one_by_rounding_are_cut():
    assert Phase.of([1.0 + 1e-12, -1e-12]).values.tolist() == [0.0, 1.0]
