"""Where a finished sample tells too little: which strata further faults come from, and that bounds hold with them."""

import numpy as np
import pytest

from resq_deploy.faults.refinement import Row, for_margin, for_number, widths
from resq_deploy.faults.stratified import Sample, estimate, evidence

SIZES = np.array([20_000, 3000, 400])


def drawn(rng, counts, rates, phases=2):
    """A pilot and a main phase of so many faults of each stratum each."""
    stratum = np.tile(np.repeat(range(3), counts), phases)
    where = Sample(stratum, np.repeat(range(phases), sum(counts)), SIZES, np.arange(3), kept=phases)
    return (rng.random(len(stratum)) < np.array(rates)[stratum]).astype(float), where


def rows(where):
    return [Row(where.stratum == h, np.where(np.arange(3) == h, SIZES, 0)) for h in range(3)]


def test_rows_that_have_the_margin_get_nothing():
    values, where = drawn(np.random.default_rng(0), (900, 60, 10), (0.0, 0.1, 0.2))
    reach = widths(values, where, rows(where), 0.95)
    assert reach[0] < 0.01 < reach[1] < reach[2]
    counts = for_margin(values, where, rows(where), (reach[0] + reach[1]) / 2, 0.95)
    assert counts[0] == 0
    assert (counts[1:] > 0).all()
    assert for_margin(values, where, rows(where), 0.99, 0.95).sum() == 0


def test_a_smaller_margin_takes_more_faults():
    values, where = drawn(np.random.default_rng(1), (900, 60, 10), (0.0, 0.1, 0.2))
    wide, narrow = (for_margin(values, where, rows(where), margin, 0.95) for margin in (0.2, 0.05))
    assert wide.sum() < narrow.sum()
    assert (narrow <= where.rest[-1]).all()


@pytest.mark.parametrize("number", [1, 7, 100, 5000])
def test_so_many_faults_are_drawn_as_were_asked_for(number):
    values, where = drawn(np.random.default_rng(2), (900, 60, 10), (0.0, 0.1, 0.2))
    counts = for_number(values, where, rows(where), number, 0.95)
    assert counts.sum() == number
    assert (counts <= where.rest[-1]).all()
    assert counts[0] <= number / 2


def test_no_more_faults_are_drawn_than_are_left():
    values, where = drawn(np.random.default_rng(3), (900, 60, 10), (0.0, 0.1, 0.2))
    small = [rows(where)[2]]
    assert for_number(values, where, small, 10**6, 0.95).tolist() == [0, 0, 380]
    assert for_margin(values, where, small, 1e-6, 0.95).tolist() == [0, 0, 380]


def test_a_row_that_no_fault_fell_on_is_visited():
    values, where = drawn(np.random.default_rng(4), (900, 60, 0), (0.0, 0.1, 0.2))
    assert widths(values, where, rows(where), 0.95)[2] == 1.0
    assert for_margin(values, where, rows(where), 0.5, 0.95)[2] == 4


def test_parts_of_a_stratum_take_as_many_more_as_they_are_rarer():
    """A tenth of stratum 1 is a row: ten faults are drawn for one that is wanted."""
    rng = np.random.default_rng(5)
    values, where = drawn(rng, (900, 200, 10), (0.0, 0.1, 0.2))
    inside = (where.stratum == 1) & (rng.random(len(values)) < 0.1)
    tenth = Row(inside, np.array([0, 300, 0]))
    whole = Row(inside, np.array([0, 3000, 0]))
    few = for_margin(values, where, [whole], 0.1, 0.95)[1]
    assert for_margin(values, where, [tenth], 0.1, 0.95)[1] > 5 * few


def test_a_phase_for_a_part_is_bet_on_for_that_part_alone():
    values, where = drawn(np.random.default_rng(6), (900, 60, 10), (0.0, 0.1, 0.2))
    more = np.zeros(100)
    further = Sample(
        np.concatenate([where.stratum, np.full(100, 2)]),
        np.concatenate([where.phase, np.full(100, 2)]),
        SIZES,
        np.arange(3),
        kept=2,
    )
    longer = np.concatenate([values, more])
    assert len(evidence(longer, further, 0.95)) == 2
    inside = rows(further)[2]
    part = further.inside(inside.inside, inside.sizes)
    assert len(evidence(longer[inside.inside], part, 0.95)) == 3
    before, after = estimate(values, where, 0.95), estimate(longer, further, 0.95)
    assert after.high - after.low < 1.1 * (before.high - before.low)


def test_a_stratum_counts_by_the_faults_that_tell_it():
    """One fault of the main phase and four of a refinement: the one is a fifth of what is known of the rest."""
    stratum, phase = [0, 0, 1] + [1] * 4, [0, 1, 1] + [2] * 4
    where = Sample(np.array(stratum), np.array(phase), np.array([10, 25]), np.arange(2), kept=2)
    weights = where.weights()
    assert weights.sum() == pytest.approx(35)
    assert weights[2] == pytest.approx(0.2 * 25 + 0.8)
    assert weights[3:] == pytest.approx(0.8 * 24 / 4)
    assert weights[:2].tolist() == [1.0, 9.0]


def test_a_refinement_counts_by_its_faults_in_each_stratum():
    """It drew eight elsewhere, which tell nothing of stratum 1: one fault there counts as much as one of before."""
    stratum, phase = [0, 1, 1] + [0] * 8 + [1], [0, 0, 1] + [2] * 8 + [2]
    where = Sample(np.array(stratum), np.array(phase), np.array([90, 25]), np.arange(2), kept=2)
    assert where.weights()[2] == pytest.approx(0.5 * 24 + 0.5)
    assert where.weights()[-1] == pytest.approx(0.5 * 23)


def test_a_fault_counts_for_every_row_that_it_lies_in():
    values, where = drawn(np.random.default_rng(8), (900, 60, 10), (0.0, 0.1, 0.2))
    once, twice = (for_margin(values, where, rows(where) * times, 0.05, 0.95) for times in (1, 2))
    assert once.sum() > 0
    assert once.tolist() == twice.tolist()


def test_what_was_drawn_whole_before_counts_once():
    where = Sample(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 2]), np.array([2, 9]), np.arange(2), kept=2)
    assert where.weights()[:2].tolist() == [1.0, 1.0]
    assert where.weights().sum() == pytest.approx(11)


class Drawing:
    """Faults of a population, drawn phase by phase and judged on some of 1,000 images."""

    def __init__(self, rates, images, rng):
        self.rates, self.images, self.rng = rates, images, rng
        self.order = [rng.permutation(len(one)) for one in rates]
        self.taken = np.zeros(len(rates), dtype=int)
        self.values, self.stratum, self.phase = [], [], []

    def take(self, counts, number):
        for h, count in enumerate(counts):
            faults = self.order[h][self.taken[h] : self.taken[h] + count]
            bad = np.rint(self.rates[h][faults] * 1000).astype(int)
            self.values.extend(self.rng.hypergeometric(bad, 1000 - bad, self.images) / self.images)
            self.stratum.extend([h] * int(count))
            self.phase.extend([number] * int(count))
            self.taken[h] += count

    def sample(self, phases):
        seen = () if self.images == 1000 else (self.images,) * phases
        stratum, phase = np.array(self.stratum), np.array(self.phase)
        return np.array(self.values), Sample(stratum, phase, SIZES, np.arange(3), images=seen, of=1000, kept=2)


@pytest.mark.slow
@pytest.mark.parametrize("images", [1000, 10], ids=["all images", "some images"])
def test_intervals_hold_after_refinement(images):
    """Refined where they are widest, three times over; of whole population and rows none misses more than it may."""
    rng = np.random.default_rng(7)
    rates = [np.where(rng.random(n) < share, 0.6, 0.0) for n, share in zip(SIZES, (0.001, 0.05, 0.4), strict=True)]
    truths = [np.concatenate(rates).mean(), *(one.mean() for one in rates)]
    misses = np.zeros((4, 2))
    for _ in range(60):
        drawing = Drawing(rates, images, rng)
        drawing.take((40, 20, 20), 0)
        drawing.take((200, 60, 20), 1)
        for number in (2, 3, 4):
            values, where = drawing.sample(number)
            drawing.take(for_number(values, where, rows(where), 80, 0.95, images), number)
        values, where = drawing.sample(5)
        figures = [estimate(values, where, 0.95)]
        figures += [estimate(values[row.inside], where.inside(row.inside, row.sizes), 0.95) for row in rows(where)]
        misses += [(one.low > truth, one.high < truth) for one, truth in zip(figures, truths, strict=True)]
    assert (misses <= 0.05 * 60).all()
