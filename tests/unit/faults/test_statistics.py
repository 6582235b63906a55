import math

import numpy as np
import pytest
from scipy import stats

from resq_deploy.faults.betting import mean_bounds
from resq_deploy.faults.statistics import (
    apart,
    as_estimate,
    cluster,
    paired_difference,
    planned_sample,
    proportion,
    share,
    spread,
    student,
)


@pytest.mark.parametrize(
    ("population", "published"), [(27_648, 10_389), (147_456, 14_954), (2_359_296, 16_524), (17_174_144, 16_625)]
)
def test_planned_sample_gives_the_published_values(population, published):
    assert round(planned_sample(population, 0.01, 0.99, cut_off=2.58)) == published


def test_planned_sample_takes_the_exact_quantile():
    t = stats.norm.ppf(0.975)
    assert planned_sample(10**12, 0.05, 0.95) == pytest.approx(t**2 / (4 * 0.05**2), rel=1e-6)


def test_share_is_wilson():
    estimate = share(9, 10)
    assert (estimate.value, estimate.n) == (0.9, 10)
    assert (estimate.low, estimate.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)


@pytest.mark.parametrize(("events", "n"), [(0, 1), (0, 10), (0, 300), (3, 300), (280, 300), (4990, 4995)])
def test_a_proportion_is_clopper_pearsons_without_replacement(events, n):
    """Its ends are the outermost shares under which as few, or as many, events are plausible."""
    population = 5000
    figure = proportion(events, n, population, 0.95)
    most, fewest = round(figure.high * population), round(figure.low * population)
    assert stats.hypergeom.cdf(events, population, most, n) >= 0.025
    assert most == population - (n - events) or stats.hypergeom.cdf(events, population, most + 1, n) < 0.025
    assert events == 0 or stats.hypergeom.sf(events - 1, population, fewest, n) >= 0.025
    assert fewest == events or stats.hypergeom.sf(events - 1, population, fewest - 1, n) < 0.025
    assert figure.low <= figure.value == events / n <= figure.high


@pytest.mark.parametrize(("events", "n"), [(0, 50), (50, 50), (1, 50), (20, 50), (0, 1), (1, 1)])
def test_a_proportion_of_an_endless_population_is_clopper_pearsons(events, n):
    exact = stats.binomtest(events, n).proportion_ci(0.9, method="exact")
    for population in (math.inf, 1e12):
        figure = proportion(events, n, population, 0.9)
        assert (figure.low, figure.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert proportion(events, n, 10**6, 0.9).high <= figure.high + 1e-6


def test_a_proportion_of_the_whole_population_is_certain():
    figure = proportion(1, 3, 3, 0.95)
    assert figure.low == figure.value == figure.high == 1 / 3


def test_the_mean_over_faults_is_bounded_by_betting():
    rates = np.repeat([0.0, 0.002, 0.5], [150, 40, 10])
    estimate = cluster(rates, 10**7, 0.9)
    assert (estimate.low, estimate.high) == mean_bounds(rates, 0.9)
    assert (estimate.value, estimate.n, estimate.confidence) == (pytest.approx(rates.mean()), 200, 0.9)


@pytest.mark.parametrize("population", [math.inf, 10**7, 150])
def test_no_event_is_bounded_by_the_share_of_faults_with_any(population):
    for seen in (0.0, 1.0):
        estimate, exact = (
            cluster(np.full(100, seen), population, 0.95),
            proportion(int(100 * seen), 100, population, 0.95),
        )
        assert (estimate.low, estimate.high) == (exact.low, exact.high)
        assert cluster(np.full(100, seen), population, 0.95, stopped=True).half_width > exact.half_width


def test_the_bound_of_no_event_is_below_that_of_any_event():
    """Why it costs no confidence: a mean that only the tighter bound misses is missed by seeing nothing alone."""
    for n in (1, 7, 50, 1000):
        least = cluster([1e-9, *[0.0] * (n - 1)], math.inf, 0.95)
        assert cluster(np.zeros(n), math.inf, 0.95).high < least.high


def test_cluster_is_narrower_when_faults_agree_and_wider_when_they_do_not():
    agreeing = cluster(np.full(1000, 0.1) + np.tile([-0.01, 0.01], 500), 10**9, 0.95)
    differing = cluster(np.repeat([1.0, 0.0], [100, 900]), 10**9, 0.95)
    assert agreeing.value == pytest.approx(differing.value)
    assert agreeing.half_width < differing.half_width / 3


def test_cluster_of_the_whole_population_is_certain():
    estimate = cluster([0.0, 1.0, 0.5], 3, 0.95)
    assert estimate.low == estimate.value == estimate.high == 0.5


def test_faults_not_drawn_limit_the_mean():
    rates = np.repeat([0.0, 1.0], [50, 50])
    estimate = cluster(rates, 110, 0.95)
    assert (estimate.low, estimate.high) == pytest.approx((50 / 110, 60 / 110))


def test_cluster_needs_a_fault():
    with pytest.raises(ValueError, match="at least one"):
        cluster([], 10, 0.95)


def test_student_is_the_t_interval_over_seeds():
    seeds = np.array([0.8, 0.82, 0.9, 0.7])
    expected = stats.t.interval(0.95, 3, loc=seeds.mean(), scale=stats.sem(seeds))
    estimate = student(seeds, 0.95)
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_student_is_cut_to_what_figures_can_be():
    assert (student([0.7], 0.95).low, student([0.7], 0.95).high, student([0.7], 0.95).n) == (0.0, 1.0, 1)
    assert student([0.7], 0.95, lowest=-1.0).low == -1.0
    wide = student([0.1, 0.9], 0.95)
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert student([-0.1, 0.9], 0.95, lowest=-1.0).low == -1.0


def test_a_paired_difference_is_bounded_by_betting_on_its_place_between_the_worst():
    differences = np.array([0.02, -0.01, 0.3, 0.0])
    estimate = paired_difference(differences, 0.9)
    low, high = mean_bounds((1 + differences) / 2, 0.9)
    assert (estimate.low, estimate.high) == pytest.approx((2 * low - 1, 2 * high - 1))
    assert (estimate.value, estimate.n) == (pytest.approx(0.0775), 4)
    turned = paired_difference(-differences, 0.9)
    assert (turned.low, turned.high) == pytest.approx((-estimate.high, -estimate.low))
    alone = paired_difference([0.2], 0.95)
    assert alone.low < -0.9
    assert alone.high > 0.9
    doubled = paired_difference(2 * differences, 0.9, reach=2.0)
    assert (doubled.low, doubled.high) == pytest.approx((2 * estimate.low, 2 * estimate.high))
    with pytest.raises(ValueError, match="beyond 1"):
        paired_difference([1.2], 0.9)
    with pytest.raises(ValueError, match="at least one pair"):
        paired_difference([], 0.95)


def test_intervals_are_apart_by_the_furthest_they_allow():
    first, second = share(10, 100, 0.975), share(40, 100, 0.975)
    found = apart(first, second)
    assert (found.value, found.n) == (pytest.approx(0.3), 100)
    assert (found.low, found.high) == (second.low - first.high, second.high - first.low)
    assert found.confidence == pytest.approx(0.95)


def test_chips_are_described_by_least_quartiles_and_largest():
    assert spread([4.0, 1.0, 2.0, 3.0]) == {
        "least": 1.0,
        "quarter": 1.75,
        "median": 2.5,
        "three_quarters": 3.25,
        "largest": 4.0,
    }


def test_an_estimate_survives_its_json():
    found = share(3, 10, 0.9)
    assert as_estimate(found.as_dict()) == found
