import math

import numpy as np
import pytest
from scipy import stats

from resq_deploy.faults.statistics import cluster, planned_sample, share, student, wilson, zero_event_bound


@pytest.mark.parametrize(
    ("population", "published"), [(27_648, 10_389), (147_456, 14_954), (2_359_296, 16_524), (17_174_144, 16_625)]
)
def test_planned_sample_gives_the_published_values(population, published):
    assert round(planned_sample(population, 0.01, 0.99, cut_off=2.58)) == published


def test_planned_sample_takes_the_exact_quantile():
    t = stats.norm.ppf(0.975)
    assert planned_sample(10**12, 0.05, 0.95) == pytest.approx(t**2 / (4 * 0.05**2), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.003, 0.5, 1.0])
def test_wilson_agrees_with_scipy_for_whole_counts(value):
    n = 1000
    expected = stats.binomtest(round(value * n), n).proportion_ci(0.95, method="wilson")
    assert wilson(value, n, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_share_is_wilson():
    estimate = share(9, 10)
    assert (estimate.value, estimate.n) == (0.9, 10)
    assert (estimate.low, estimate.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)


@pytest.mark.parametrize("n", [1, 10, 300])
def test_zero_event_bound_is_the_largest_share_that_stays_plausible(n):
    population, confidence = 5000, 0.95
    events = round(zero_event_bound(n, population, confidence) * population)
    assert stats.hypergeom.pmf(0, population, events, n) >= 0.025
    assert stats.hypergeom.pmf(0, population, events + 1, n) < 0.025


def test_zero_event_bound_of_an_endless_population_is_clopper_pearson():
    expected = stats.binomtest(0, 50).proportion_ci(0.95, method="exact").high
    assert zero_event_bound(50, math.inf, 0.95) == pytest.approx(expected)


def test_cluster_rests_on_faults_and_not_on_image_runs():
    rates = np.zeros(200)
    rates[:20] = 1.0  # ten per cent of the faults change every image
    estimate = cluster(rates, 10**9, 0.95)
    assert estimate.n == 200
    assert (estimate.low, estimate.high) == pytest.approx(wilson(0.1, 199.0, 0.95, 199), rel=1e-6)


def test_two_faults_that_agree_by_chance_do_not_settle_a_rate():
    estimate = cluster([0.0, 0.002], 10**6, 0.95)
    assert estimate.high > 0.05
    assert cluster(np.tile([0.0, 0.002], 200), 10**6, 0.95).high < 0.002


def test_cluster_is_narrower_when_faults_agree_and_wider_when_they_do_not():
    agreeing = cluster(np.full(100, 0.1) + np.tile([-0.01, 0.01], 50), 10**9, 0.95)
    differing = cluster(np.repeat([1.0, 0.0], [10, 90]), 10**9, 0.95)
    assert agreeing.value == pytest.approx(differing.value)
    assert agreeing.half_width < differing.half_width / 5


def test_cluster_of_the_whole_population_is_certain():
    estimate = cluster([0.0, 1.0, 0.5], 3, 0.95)
    assert estimate.low == estimate.value == estimate.high == 0.5


def test_finite_population_correction_narrows_the_interval():
    rates = np.repeat([0.0, 1.0], [80, 20])
    assert cluster(rates, 120, 0.95).half_width < 0.5 * cluster(rates, 10**6, 0.95).half_width


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_rates_leave_room_for_faults_not_seen(value):
    estimate = cluster(np.full(50, value), 10**6, 0.95)
    unseen = zero_event_bound(50, 10**6, 0.95)
    assert estimate.low == pytest.approx(value * (1 - unseen))
    assert estimate.high == pytest.approx(value + (1 - value) * unseen)


def test_cluster_needs_a_fault():
    with pytest.raises(ValueError, match="at least one"):
        cluster([], 10, 0.95)


def test_cluster_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    population = np.where(rng.random(20_000) < 0.08, rng.random(20_000), 0.0)
    truth = population.mean()
    hits = 0
    for _ in range(1000):
        estimate = cluster(rng.choice(population, 400, replace=False), len(population), 0.95)
        hits += estimate.low <= truth <= estimate.high
    assert 0.93 <= hits / 1000 <= 0.985


def test_student_is_the_t_interval_over_chips():
    chips = np.array([0.8, 0.82, 0.9, 0.7])
    expected = stats.t.interval(0.95, 3, loc=chips.mean(), scale=stats.sem(chips))
    estimate = student(chips, 0.95)
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_student_with_one_chip_knows_nothing():
    estimate = student([0.7], 0.95)
    assert (estimate.low, estimate.high, estimate.n) == (0.0, 1.0, 1)
