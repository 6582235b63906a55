import numpy as np
import pytest

from resq_deploy.faults.statistics import cluster
from resq_deploy.faults.stratified import Sample, allocate, estimate, spreads


def sample(stratum, pilot, sizes, groups):
    return Sample(np.array(stratum), np.array(pilot, dtype=bool), np.array(sizes), np.array(groups))


def test_weights_are_one_for_the_pilot_and_expand_the_rest():
    drawn = sample([0, 0, 0, 1, 1], [1, 0, 0, 1, 0], [11, 3], [0, 1])
    assert drawn.weights().tolist() == [1.0, 5.0, 5.0, 1.0, 2.0]
    assert drawn.weights().sum() == 14


def test_the_estimate_is_the_sum_of_stratum_totals():
    drawn = sample([0, 0, 0, 1, 1], [1, 0, 0, 1, 0], [11, 3], [0, 1])
    values = np.array([1.0, 0.2, 0.4, 0.0, 0.5])
    assert estimate(values, drawn, 0.95).value == pytest.approx((1.0 + 10 * 0.3 + 0.0 + 2 * 0.5) / 14)
    in_second = np.array([0, 0, 0, 1, 1], dtype=bool)
    assert estimate(values, drawn, 0.95, in_second).value == pytest.approx((0.0 + 2 * 0.5) / 3)


def test_one_stratum_without_pilot_is_the_simple_random_sample():
    rng = np.random.default_rng(1)
    values = rng.random(300)
    drawn = sample([0] * 300, [0] * 300, [5000], [0])
    ours, simple = estimate(values, drawn, 0.95), cluster(values, 5000, 0.95)
    assert (ours.value, ours.low, ours.high) == pytest.approx((simple.value, simple.low, simple.high))


def test_a_fully_drawn_population_is_certain():
    drawn = sample([0, 0, 1, 1], [1, 1, 1, 0], [2, 2], [0, 1])
    figure = estimate(np.array([0.0, 1.0, 0.5, 0.5]), drawn, 0.95)
    assert figure.low == figure.value == figure.high == 0.5


def test_no_event_leaves_room_for_events_not_seen():
    drawn = sample([0] * 50, [0] * 50, [10**6], [0])
    figure = estimate(np.zeros(50), drawn, 0.95)
    assert figure.value == 0.0
    assert figure.high == pytest.approx(cluster(np.zeros(50), 10**6, 0.95).high)


def test_a_stratum_borrows_the_spread_of_its_group():
    values = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    spread = spreads(values, np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1]))
    assert spread[0] == pytest.approx(np.var([0, 0, 0, 1], ddof=1))
    assert spread[1] == pytest.approx(0.5)
    assert spread[2] == pytest.approx(0.25 * 0.75)  # no spread in the whole group: one event among n + 2


def test_allocation_is_neymans_and_reaches_the_margin():
    spread, rest = np.array([0.25, 0.01, 0.0001]), np.array([10**6, 10**6, 10**6])
    counts = allocate(spread, rest, 0.01, 0.95)
    assert counts[0] / counts[1] == pytest.approx(5.0, rel=0.01)
    variance = (spread / counts).sum() / 9
    assert 1.96 * np.sqrt(variance) == pytest.approx(0.01, rel=0.02)


def test_allocation_takes_two_of_each_and_never_more_than_there_are():
    counts = allocate(np.array([0.25, 1e-9]), np.array([3, 10**6]), 0.2, 0.95)
    assert counts[1] == 2
    assert counts[0] <= 3
    assert allocate(np.array([0.25]), np.array([0]), 0.1, 0.95).tolist() == [0]
