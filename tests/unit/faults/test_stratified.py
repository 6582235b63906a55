"""Samples drawn in strata and phases: unbiased, bounded exactly, and domains by their own strata alone."""

import itertools
import math

import numpy as np
import pytest

from resq_deploy.faults.allocation import further_units, next_phase, proportions, spread_out
from resq_deploy.faults.betting import against_higher, against_lower, mean_bounds, total
from resq_deploy.faults.statistics import cluster
from resq_deploy.faults.stratified import Sample, estimate, evidence


def sample(stratum, phase, sizes, groups=None, pilots=1):
    groups = range(len(sizes)) if groups is None else groups
    return Sample(np.array(stratum), np.array(phase), np.array(sizes), np.array(groups), pilots)


def test_the_pilot_weighs_one_and_the_main_phase_stands_for_the_rest():
    drawn = sample([0, 0, 0, 1, 1], [0, 1, 1, 0, 1], [11, 3])
    assert drawn.weights().tolist() == [1.0, 5.0, 5.0, 1.0, 2.0]
    assert drawn.drawn.tolist() == [[1, 1], [2, 1]]
    assert drawn.rest.tolist() == [[11, 3], [10, 2], [8, 1]]
    assert drawn.phases == 2


def test_the_estimate_is_the_sum_of_stratum_totals():
    drawn = sample([0, 0, 0, 1, 1], [0, 1, 1, 0, 1], [11, 3])
    values = np.array([1.0, 0.2, 0.4, 0.0, 0.5])
    assert estimate(values, drawn, 0.95).value == pytest.approx((1.0 + 10 * 0.3 + 0.0 + 2 * 0.5) / 14)


def test_further_phases_are_weighted_by_their_sizes():
    """Phase 1 says 1 + 10 x, phase 2 of twice the size 1 + x + 9 y: a third of the one, two thirds of the other."""
    drawn = sample([0, 0, 0, 0], [0, 1, 2, 2], [11])
    assert drawn.weights() == pytest.approx([1.0, 10 / 3 + 2 / 3, 3.0, 3.0])
    both_pilots = sample([0, 0, 0, 0], [0, 1, 2, 2], [11], pilots=2)
    assert both_pilots.weights() == pytest.approx([1.0, 1.0, 4.5, 4.5])


def test_a_part_that_no_main_phase_hit_falls_back_on_the_pilot():
    drawn = sample([0, 0, 1, 1, 2], [0, 0, 0, 1, 0], [10, 6, 1])
    assert drawn.weights() == pytest.approx([5.0, 5.0, 1.0, 5.0, 1.0])


def test_a_phase_that_did_not_hit_a_part_says_nothing_of_it():
    drawn = sample([0, 1, 0, 0, 1], [0, 0, 1, 2, 2], [10, 6])
    assert drawn.weights()[[1, 4]].tolist() == [1.0, 5.0]


def test_weights_sum_to_the_population():
    rng = np.random.default_rng(0)
    sizes = np.array([40, 9, 7, 1])
    counts = [[3, 2, 1, 1], [10, 3, 1, 0], [5, 4, 5, 0]]
    stratum = np.concatenate([np.repeat(range(4), count) for count in counts])
    drawn = sample(stratum, np.repeat(range(3), [7, 14, 14]), sizes)
    assert drawn.weights().sum() == pytest.approx(sizes.sum())
    assert estimate(rng.random(35), drawn, 0.95).n == 35


def test_one_stratum_is_the_simple_random_sample():
    values = np.random.default_rng(1).random(300)
    drawn = sample([0] * 300, [0] * 300, [5000])
    ours, simple = estimate(values, drawn, 0.95), cluster(values, 5000, 0.95)
    assert (ours.value, ours.low, ours.high) == pytest.approx((simple.value, simple.low, simple.high))


def test_a_fully_drawn_population_is_certain():
    drawn = sample([0, 0, 1, 1], [0, 0, 0, 1], [2, 2])
    figure = estimate(np.array([0.0, 1.0, 0.5, 0.5]), drawn, 0.95)
    assert figure.low == figure.value == figure.high == 0.5


def test_faults_not_drawn_limit_the_mean():
    drawn = sample([0] * 8, [0] * 4 + [1] * 4, [10])
    figure = estimate(np.array([1.0] * 4 + [0.0] * 4), drawn, 0.999999)
    assert (figure.low, figure.high) == pytest.approx((0.4, 0.6))


def test_weights_scale_the_bets():
    """Half of the faults from a stratum of a quarter of the population: weights 1/2 and 3/2."""
    values = np.array([0.4, 0.0, 0.2, 0.6])
    drawn = sample([0, 0, 1, 1], [0] * 4, [25 * 10**9, 75 * 10**9])
    (phase,) = evidence(values, drawn, 0.95)
    weighted = np.array([0.4 / 3, 0.0, 0.2, 0.6])
    assert np.repeat(phase.values, phase.counts.astype(int)) == pytest.approx(sorted(weighted))
    low, high = mean_bounds(weighted, 0.95)
    figure = estimate(values, drawn, 0.95)
    assert (figure.low, figure.high) == pytest.approx((1.5 * low, min(1.0, 1.5 * high)), abs=1e-9)


def allocated(seen):
    """What the second phase takes of two strata, by what the first saw."""
    return (2, 1) if seen[0] > 0.3 else (1, 2)


@pytest.mark.parametrize("seed", range(4))
def test_bets_and_estimates_are_fair_over_all_two_phase_samples(seed):
    """Every sample of two strata, phase 2 steered by phase 1: capital at most 1, the estimate unbiased, exactly."""
    rng = np.random.default_rng(seed)
    strata = [rng.choice([0.0, 0.1, 0.6, 1.0], size, p=[0.4, 0.3, 0.2, 0.1]) for size in (5, 4)]
    truth = float(np.concatenate(strata).mean())
    higher, lower, values, weights = [], [], [], []
    for first in itertools.product(range(5), range(4)):
        seen = [strata[h][i] for h, i in enumerate(first)]
        left = [np.delete(strata[h], i) for h, i in enumerate(first)]
        takes = allocated(seen)
        second = list(itertools.product(*(itertools.combinations(left[h], takes[h]) for h in range(2))))
        for drawn in second:
            rates = np.array([*seen, *drawn[0], *drawn[1]])
            phases = [0, 0, 1, 1, 1]
            two = sample([0, 1, *[0] * takes[0], *[1] * takes[1]], phases, [5, 4])
            found = evidence(rates, two, 0.95)
            higher.append(math.exp(min(700.0, total(against_higher(found, truth)))))
            lower.append(math.exp(min(700.0, total(against_lower(found, truth)))))
            values.append(estimate(rates, two, 0.95).value)
            weights.append(1.0 / len(second))
    assert np.average(higher, weights=weights) <= 1.0 + 1e-9
    assert np.average(lower, weights=weights) <= 1.0 + 1e-9
    assert np.average(values, weights=weights) == pytest.approx(truth)


def test_a_domain_is_estimated_by_its_own_strata_alone():
    """Once [0.0008, 0.986] where the own stratum gives [0.177, 0.223]: the strata outside were counted in."""
    rng = np.random.default_rng(2)
    inside = rng.random(500) * 0.4
    stratum = np.repeat(range(40), [500, *[4] * 39])
    phase = np.concatenate([np.repeat([0, 1], [4, 496]), np.tile([0, 0, 1, 1], 39)])
    sizes = np.array([2000, *[10**5] * 39])
    drawn = sample(stratum, phase, sizes)
    own = stratum == 0
    figures = []
    for outside in (0.0, 1.0):
        values = np.concatenate([inside, np.full(156, outside)])
        figures.append(estimate(values[own], drawn.inside(own, np.where(np.arange(40) == 0, sizes, 0)), 0.95))
    alone = estimate(inside, sample([0] * 500, phase[:500], [2000]), 0.95)
    assert figures[0] == figures[1] == alone
    assert 0.17 < alone.low < alone.value < alone.high < 0.23


def test_parts_of_a_domain_that_nothing_fell_on_may_hold_anything():
    drawn = sample([0] * 200, [0] * 100 + [1] * 100, [600, 0])
    whole = estimate(np.zeros(200), drawn, 0.95)
    parted = estimate(np.zeros(200), sample([0] * 200, [0] * 100 + [1] * 100, [600, 200]), 0.95)
    assert parted.high == pytest.approx(0.25 + 0.75 * whole.high, abs=1e-6)
    assert parted.low == 0.0


def test_faults_without_a_rate_count_either_way():
    drawn = sample([0] * 50, [0] * 50, [10**6])
    values, known = np.full(50, 0.5), np.arange(50) >= 5
    figure = estimate(values, drawn, 0.95, known)
    assert (figure.value, figure.n) == (0.5, 45)
    pessimist = estimate(np.where(known, 0.5, 1.0), drawn, 0.95)
    optimist = estimate(np.where(known, 0.5, 0.0), drawn, 0.95)
    assert (figure.low, figure.high) == (optimist.low, pessimist.high)
    with pytest.raises(ValueError, match="at least one"):
        estimate(values, drawn, 0.95, np.zeros(50, dtype=bool))


def test_half_of_a_phase_goes_where_harm_is_expected_and_half_to_all():
    sizes, square = np.array([900, 100]), np.array([0.0001, 0.01])
    harm = np.array([0.9 * 0.01, 0.1 * 0.1])
    assert proportions(0.0, sizes, square) == pytest.approx([0.9, 0.1])
    assert proportions(0.5, sizes, square) == pytest.approx([0.45, 0.05] + harm / harm.sum() / 2)
    assert (np.array([0.9, 0.1]) / proportions(0.5, sizes, square) <= 2.0).all()


def test_whole_numbers_visit_every_stratum_and_take_no_more_than_there_is():
    counts = spread_out(20, np.array([0.5, 0.4, 0.0999, 0.0001]), np.array([100, 5, 100, 0]))
    assert counts.tolist() == [10, 5, 2, 0]
    assert spread_out(0.1, np.array([0.5, 0.5]), np.array([9, 9])).tolist() == [1, 1]


def two_strata(rng, size, rates, pilot=100):
    """A pilot of as many of either stratum, of which a share does harm."""
    values = np.concatenate([(rng.random(pilot) < rate) * rng.random(pilot) for rate in rates])
    return values, sample(np.repeat([0, 1], pilot), [0] * 2 * pilot, [size, size])


def test_a_smaller_margin_takes_more_faults_and_more_of_the_harmful():
    values, drawn = two_strata(np.random.default_rng(4), 10**6, (0.0, 0.2))
    wide, narrow = (next_phase(values, drawn, margin, 0.95) for margin in (0.02, 0.005))
    assert narrow.sum() > 4 * wide.sum()
    assert narrow[1] > 2 * narrow[0]
    assert next_phase(values, drawn, 0.02, 0.999).sum() > wide.sum()


def test_a_phase_is_as_large_as_the_margin_takes():
    """Drawn as planned, it brings the margin nearly always, and half of it does not."""
    rng = np.random.default_rng(5)
    reached = {1.0: 0, 0.5: 0}
    for _ in range(20):
        values, drawn = two_strata(rng, 10**6, (0.01, 0.05), 400)
        counts = next_phase(values, drawn, 0.006, 0.95)
        for part in reached:
            takes = np.ceil(part * counts).astype(int)
            more = [(rng.random(n) < rate) * rng.random(n) for n, rate in zip(takes, (0.01, 0.05), strict=True)]
            stratum = np.concatenate([drawn.stratum, np.repeat([0, 1], takes)])
            two = sample(stratum, [0] * 800 + [1] * takes.sum(), drawn.sizes)
            reached[part] += estimate(np.concatenate([values, *more]), two, 0.95).half_width <= 0.006
    assert reached[1.0] >= 19
    assert reached[0.5] <= 4


def test_a_phase_is_no_smaller_than_asked_for():
    values, drawn = two_strata(np.random.default_rng(4), 10**6, (0.0, 0.0))
    assert next_phase(values, drawn, 0.2, 0.95).sum() < 50
    assert next_phase(values, drawn, 0.2, 0.95, 300.0).tolist() == [150, 150]


def test_further_units_bring_the_margin_and_no_more_are_asked_for_where_it_is_had():
    none = further_units([np.empty(0)], 0.01, 0.95)
    assert cluster(np.zeros(none), math.inf, 0.95, stopped=True).high == pytest.approx(0.01, rel=0.01)
    chips = np.random.default_rng(7).beta(2, 30, 3000)
    drawn, rounds = further_units([np.empty(0)], 0.02, 0.95), 0
    while more := further_units([np.zeros(drawn), chips[:drawn]], 0.02, 0.95):
        drawn, rounds = drawn + more, rounds + 1
    assert cluster(chips[:drawn], math.inf, 0.95, stopped=True).half_width <= 0.02
    assert rounds < 8
    reached = cluster(chips[:drawn], math.inf, 0.95, stopped=True).half_width
    assert further_units([chips[:drawn]], 0.999 * reached, 0.95) >= 0.1 * drawn  # not one at a time


def test_a_small_population_is_taken_whole_where_the_margin_asks_for_it():
    values = np.random.default_rng(6).random(20)
    drawn = sample([0] * 20, [0] * 8 + [1] * 12, [60])
    assert next_phase(values, drawn, 0.001, 0.95).tolist() == [40]
