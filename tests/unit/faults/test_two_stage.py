"""Faults judged on some images of their own: bounds that hold, estimates without bias, and the cheapest number."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from resq_deploy.faults.allocation import next_images, next_phase, outlook
from resq_deploy.faults.betting import mean_bounds
from resq_deploy.faults.statistics import cluster, proportion
from resq_deploy.faults.stratified import Sample, estimate, evidence, for_bets
from resq_deploy.faults.two_stage import (
    Spread,
    Work,
    best_images,
    possible,
    sum_bounds,
    whole_parts,
    within_faults,
)

OF = 1000  # images in all
KINDS = {
    "half": lambda _, size: np.full(size, 0.5),  # every fault harms every other image: all of the spread is within
    "rare": lambda rng, size: np.where(rng.random(size) < 0.02, 0.9, 0.0),  # and here nearly none
    "faint": lambda rng, size: rng.integers(0, 40, size) / OF,
    "mixed": lambda rng, size: rng.choice([0.0, 0.004, 0.3, 1.0], size, p=[0.6, 0.3, 0.06, 0.04]),
}


@dataclasses.dataclass(frozen=True)
class Design:
    """Faults of each stratum, how many a phase draws, and on how many images it judges them."""

    kind: str
    sizes: tuple[int, ...]
    phases: tuple[tuple[int, ...], ...]
    images: tuple[int, ...]

    def population(self, rng):
        return [KINDS[self.kind](rng, size) for size in self.sizes]

    def draw(self, strata, rng):
        """Shares seen, where they come from, and the place of each fault in its stratum."""
        values, stratum, phase, place = [], [], [], []
        for h, rates in enumerate(strata):
            order = iter(rng.choice(len(rates), sum(takes[h] for takes in self.phases), replace=False))
            for number, (takes, images) in enumerate(zip(self.phases, self.images, strict=True)):
                taken = list(itertools.islice(order, takes[h]))
                bad = np.rint(rates[taken] * OF).astype(int)
                values.append(rng.hypergeometric(bad, OF - bad, images) / images)
                place += taken
                stratum += [h] * takes[h]
                phase += [number] * takes[h]
        where = Sample(
            np.array(stratum),
            np.array(phase),
            np.array(self.sizes),
            np.arange(len(self.sizes)),
            images=self.images,
            of=OF,
        )
        return np.concatenate(values), where, np.array(place)


DESIGNS = [
    pytest.param(Design("half", (200,), ((100,), (90,)), (1, 1)), id="all_within_faults"),
    pytest.param(Design("half", (200,), ((100,), (100,)), (1, 1)), id="every_fault_on_one_image"),
    pytest.param(Design("faint", (400, 100), ((100, 100), (250, 0)), (2, 10)), id="a_stratum_taken_whole"),
    pytest.param(Design("rare", (3000, 500), ((100, 100), (600, 200)), (20, 4)), id="rare_and_catastrophic"),
    pytest.param(Design("mixed", (900, 90, 30), ((30, 20, 10), (40, 10, 5), (200, 30, 15)), (50, 2, 5)), id="3_phases"),
    pytest.param(Design("mixed", (10**5, 10**4), ((40, 40), (300, 200)), (10, OF)), id="all_images_in_the_main_phase"),
]


@pytest.mark.parametrize("design", DESIGNS)
def test_estimates_are_unbiased_over_2000_samples(design):
    rng = np.random.default_rng(1)
    strata = design.population(rng)
    truth = np.concatenate(strata).mean()
    found = []
    for _ in range(2000):
        values, where, _ = design.draw(strata, rng)
        weights = where.weights()
        found.append(weights @ values / weights.sum())
    assert abs(np.mean(found) - truth) <= 3 * np.std(found, ddof=1) / math.sqrt(len(found))


@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_hold_over_two_stages(design):
    """Taken for known, faults drawn first made 22 % of the intervals miss on either side, whole populations 46 %."""
    rng = np.random.default_rng(2)
    strata = design.population(rng)
    truth = np.concatenate(strata).mean()
    figures = [estimate(*design.draw(strata, rng)[:2], 0.95) for _ in range(200)]
    assert np.mean([one.low > truth for one in figures]) <= 0.03
    assert np.mean([one.high < truth for one in figures]) <= 0.03
    assert all(one.low <= one.value <= one.high for one in figures)


@pytest.mark.parametrize("design", DESIGNS)
def test_domains_are_unbiased_and_hold_over_two_stages(design):
    """The first third of each stratum is the domain; outside of it every fault harms every image: no matter."""
    rng = np.random.default_rng(3)
    part = np.array([size // 3 for size in design.sizes])
    strata = [np.concatenate([r[:n], np.ones(len(r) - n)]) for r, n in zip(design.population(rng), part, strict=True)]
    truth = np.concatenate([rates[:count] for rates, count in zip(strata, part, strict=True)]).mean()
    figures = []
    for _ in range(200):
        values, where, place = design.draw(strata, rng)
        inside = place < part[where.stratum]
        figures.append(estimate(values[inside], where.inside(inside, part), 0.95))
    assert np.mean([one.low > truth for one in figures]) <= 0.03
    assert np.mean([one.high < truth for one in figures]) <= 0.03


@pytest.mark.parametrize(
    ("kind", "n", "images"), [("half", 30, 1), ("faint", 40, 2), ("mixed", 60, 5), ("rare", 60, 1)]
)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "sample"])
def test_simple_samples_hold_over_two_stages(kind, n, images, whole):
    rng = np.random.default_rng(4)
    rates = KINDS[kind](rng, n if whole else 2 * n)
    bad = np.rint(rates * OF).astype(int)
    figures = []
    for _ in range(400):
        taken = rng.choice(len(rates), n, replace=False)
        seen = rng.hypergeometric(bad[taken], OF - bad[taken], images) / images
        figures.append(cluster(seen, len(rates), 0.95, share=images / OF))
    assert np.mean([one.low > rates.mean() for one in figures]) <= 0.03
    assert np.mean([one.high < rates.mean() for one in figures]) <= 0.03


def test_nothing_seen_on_some_images_is_not_nothing_on_all():
    """Of 50 faults each harms one image in 100: on 2 images a fault, 36 % of the samples see nothing in any."""
    seen_nothing = cluster(np.zeros(50), 50, 0.95, share=0.02)
    assert seen_nothing.low == 0.0
    assert seen_nothing.high == pytest.approx(1 - 0.025 ** (1 / 50)) == proportion(0, 50, math.inf, 0.95).high
    assert cluster(np.zeros(50), 50, 0.95).high == 0.0
    assert cluster(np.zeros(50), 60, 0.95, share=0.02).high > cluster(np.zeros(50), 60, 0.95).high
    everything = cluster(np.ones(50), 50, 0.95, share=0.02)
    assert (everything.low, everything.high) == (pytest.approx(0.025 ** (1 / 50)), 1.0)


def test_images_not_run_limit_the_mean():
    """On 9 of 10 images seen without an event, a fault has a rate of 0.1 at most."""
    assert cluster(np.zeros(3), 3, 0.999999, share=0.9).high == pytest.approx(0.1)
    assert cluster(np.array([1.0, 0.0, 0.0]), 3, 0.999999, share=0.9).low == pytest.approx(0.3)
    one = Sample(np.zeros(4, int), np.array([0, 0, 1, 1]), np.array([4]), np.zeros(1, int), images=(9, 5), of=10)
    figure = estimate(np.array([1.0, 0.0, 0.0, 0.0]), one, 0.999999)
    assert (figure.low, figure.high) == (pytest.approx(0.9 / 4), pytest.approx((1 + 0.1 + 0.5 + 0.5) / 4))


def test_an_exhaustive_stratified_sample_on_some_images_has_an_interval():
    values = np.tile([0.0, 0.0, 0.5, 1.0], 50)
    where = Sample(np.zeros(200, int), np.zeros(200, int), np.array([200]), np.zeros(1, int), images=(1,), of=10)
    figure = estimate(values, where, 0.95)
    assert figure.low < figure.value - 0.01
    assert figure.high > figure.value + 0.01
    assert figure.high - figure.low < 0.4  # what the other images leave possible alone is [0.04, 0.94]
    whole = estimate(values, dataclasses.replace(where, images=(10,)), 0.95)
    assert whole.low == whole.value == whole.high
    assert not where.all_images


def test_faults_drawn_first_cost_nothing_where_all_their_images_were_run():
    """The main phase takes fewer images: what the pilot showed is known all the same."""
    values = np.concatenate([np.tile([0.0, 0.3], 50), np.tile([0.0, 0.1], 100)])
    where = Sample(np.zeros(300, int), np.repeat([0, 1], [100, 200]), np.array([400]), np.zeros(1, int))
    sure = estimate(values, dataclasses.replace(where, images=(10, 9), of=10), 0.95)
    unsure = estimate(values, dataclasses.replace(where, images=(9, 9), of=10), 0.95)
    assert unsure.low < sure.low
    assert sure.high < unsure.high


def test_errors_of_all_bounds_add_up_to_what_the_interval_may_make():
    """A fortieth for the sums of earlier phases, each the half of the one before; the rest for the bets."""
    values = np.tile([0.0, 0.0, 0.2, 1.0], 30)
    where = Sample(np.zeros(120, int), np.repeat([0, 1, 2], 40), np.array([500]), np.zeros(1, int), 1, (5, 5, 5), 50)
    assert for_bets(where, 0.95) == pytest.approx(1 - 0.05 * 39 / 40)
    assert for_bets(dataclasses.replace(where, images=()), 0.95) == 0.95
    first, second, third = evidence(values, where, 0.95)
    (low, high), (low_1, high_1) = (sum_bounds(values[:40], 0.1, 0.05 / 40 / parts) for parts in (2, 4))
    assert (first.taken, first.open) == (0.0, 0.0)
    assert (second.taken, second.open) == (pytest.approx(low / 460), pytest.approx((high - low) / 460))
    assert third.taken == pytest.approx((low + low_1) / 420)
    assert third.open == pytest.approx((high - low + high_1 - low_1) / 420)


def test_figures_on_all_images_are_what_they_were():
    values = np.concatenate([np.tile([0.0, 0.3], 50), np.tile([0.0, 0.1], 100)])
    where = Sample(np.zeros(300, int), np.repeat([0, 1], [100, 200]), np.array([4000]), np.zeros(1, int))
    assert estimate(values, where, 0.95) == estimate(values, dataclasses.replace(where, images=(10, 10), of=10), 0.95)
    assert cluster(values, 4000, 0.95) == cluster(values, 4000, 0.95, share=1.0)


def test_possible_rates():
    least, most = possible(np.array([0.0, 0.5, 1.0]), 0.2)
    assert least == pytest.approx([0.0, 0.1, 0.2])
    assert most == pytest.approx([0.8, 0.9, 1.0])
    tenth = np.array([0.1])
    assert possible(tenth, 1.0) == (tenth, tenth)  # to the last bit, which 1 - (1 - 0.1) is not


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_given_faults_are_bounded(kind):
    rng = np.random.default_rng(5)
    rates = KINDS[kind](rng, 80)
    bad = np.rint(rates * OF).astype(int)
    ends = np.array([sum_bounds(rng.hypergeometric(bad, OF - bad, 4) / 4, 4 / OF, 0.1) for _ in range(400)])
    assert np.mean(ends[:, 0] > rates.sum()) <= 0.06
    assert np.mean(ends[:, 1] < rates.sum()) <= 0.06
    values = np.array([0.0, 0.0, 0.5, 1.0])
    assert sum_bounds(values, 1.0, 0.0) == (1.5, 1.5)
    assert sum_bounds(np.empty(0), 0.5, 0.1) == (0.0, 0.0)
    assert sum_bounds(np.zeros(3), 0.9, 1e-9) == (0.0, pytest.approx(0.3))  # what the images not run may hold
    assert sum_bounds(np.ones(3), 0.9, 1e-9) == (pytest.approx(2.7), 3.0)
    low, high = sum_bounds(values, 0.01, 0.1)
    assert (low, high) == tuple(4 * end for end in mean_bounds(values, 0.9))


def test_spread_within_faults_is_unbiased():
    rng = np.random.default_rng(6)
    seen = rng.hypergeometric(300, 700, 4, size=50_000) / 4
    found = within_faults(seen, 4)
    assert abs(found.mean() - 0.3 * 0.7 * OF / (OF - 1)) < 4 * found.std() / math.sqrt(len(found))
    with pytest.raises(ValueError, match="two"):
        within_faults(seen, 1)


def test_the_mean_square_is_that_of_the_shares_seen():
    rng = np.random.default_rng(7)
    rates = KINDS["mixed"](rng, 50_000)
    bad = np.rint(rates * OF).astype(int)
    spread = Spread(np.array([np.mean(rates**2)]), np.array([np.mean(rates * (1 - rates)) * OF / (OF - 1)]))
    for images in (1, 5, 100):
        squares = (rng.hypergeometric(bad, OF - bad, images) / images) ** 2
        assert abs(squares.mean() - spread.at(images, OF)[0]) < 4 * squares.std() / math.sqrt(len(squares))
    assert spread.at(OF, OF) == spread.square


def cost(images, spread, parts, sizes, work):
    """Variance times cost, term by term."""
    weight = sizes / sizes.sum()
    variance = sum(w**2 / share * at for w, share, at in zip(weight, parts, spread.at(images, OF), strict=True))
    return variance * sum(share * (f + images * i) for share, f, i in zip(parts, work.fault, work.image, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_the_best_number_of_images_is_the_cheapest_of_all(seed):
    rng = np.random.default_rng(seed)
    sizes, parts = rng.integers(100, 10**6, 5).astype(float), rng.dirichlet(np.ones(5))
    rates = rng.random(5) * 0.1
    spread = Spread(rates**2 + rng.random(5) * 0.002, rates * (1 - rates) + 0.01)
    work = Work(rng.random(5) * 100, 0.1 + rng.random(5))
    best = best_images(spread, parts, sizes, work, OF)
    every = [cost(images, spread, parts, sizes, work) for images in range(1, OF + 1)]
    assert abs(best - (1 + int(np.argmin(every)))) <= 1


def test_dearer_faults_and_quieter_ones_are_judged_on_more_images():
    one = np.ones(1)
    spread, work = Spread(0.01 * one, 0.04 * one), Work(25 * one, one)
    assert best_images(spread, one, one, work, 10**9) == pytest.approx(10.0)
    assert best_images(spread, one, one, Work(100 * one, one), 10**9) == pytest.approx(20.0)
    assert best_images(Spread(0.01 * one, 0.16 * one), one, one, work, 10**9) == pytest.approx(20.0)
    assert best_images(spread, one, one, Work(100 * one, 4 * one), 10**9) == pytest.approx(10.0)
    few = Spread(0.01 * one + 0.04 / 20, 0.04 * one)  # of 20 images the spread within faults is part of the square
    assert best_images(few, one, one, work, 20) == pytest.approx(10.0)


def test_what_a_pilot_cannot_tell():
    one, none = np.ones(1), np.zeros(1)
    work = Work(25 * one, one)
    assert best_images(Spread(none, none), one, one, work, OF) is None  # nothing happens
    assert best_images(Spread(0.01 * one, none), one, one, work, OF) == 0.0  # all images or none
    assert best_images(Spread(none, 0.04 * one), one, one, work, OF) == OF  # all faults alike
    assert best_images(Spread(1e-9 * one, 0.04 * one), one, one, work, OF) == OF
    assert best_images(Spread(0.04 / OF + 1e-8 * one, 0.04 * one), one, one, work, OF) == OF  # 10,000 would be best


def test_strata_that_are_not_drawn_do_not_count():
    spread = Spread(np.array([0.01, 0.5]), np.array([0.04, 0.0]))
    work = Work(np.array([25.0, 1e9]), np.array([1.0, 1.0]))
    found = best_images(spread, np.array([1.0, 0.0]), np.array([5.0, 5.0]), work, 10**9)
    assert found == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("images", "size", "of", "parts"),
    [
        pytest.param(0.0, 50, 1000, 50, id="one_part_at_least"),
        pytest.param(70.0, 50, 1000, 50, id="down"),
        pytest.param(71.0, 50, 1000, 100, id="up_by_the_ratio"),
        pytest.param(100.0, 50, 1000, 100, id="a_multiple"),
        pytest.param(122.4, 50, 1000, 100, id="below_the_root_of_6"),
        pytest.param(122.5, 50, 1000, 150, id="above_the_root_of_6"),
        pytest.param(1000.0, 50, 1000, 1000, id="all"),
        pytest.param(990.0, 300, 1000, 900, id="beside_a_rest"),
        pytest.param(1000.0, 50, 20, 20, id="fewer_than_a_part"),
    ],
)
def test_numbers_of_images_are_whole_parts(images, size, of, parts):
    assert whole_parts(images, size, of) == parts


def one_stratum(values, images, size=10**6):
    count = len(values)
    where = Sample(
        np.zeros(count, int), np.zeros(count, int), np.array([size]), np.zeros(1, int), images=(images,), of=OF
    )
    return np.asarray(values, dtype=float), where


def test_what_images_add_to_the_spread_is_taken_off_again():
    """Faults that harm one of two images each: the half of it is chance, and hardly any a fault's own."""
    values, where = one_stratum([0.5] * 400 + [0.0, 1.0] * 200, 2)
    found = outlook(values, where).spread
    assert found.within[0] == pytest.approx(0.25, abs=1e-4)  # 0.5 of the first half, unknown of the others
    assert found.square[0] == pytest.approx(np.mean(values**2) - 0.25 * (1 / 2 - 1 / OF), abs=0.002)
    alone = outlook(*one_stratum([0.5, 0.0] * 400, 1)).spread
    assert alone.within[0] == 0.0  # one image has no spread


def test_a_phase_on_fewer_images_takes_more_faults():
    rng = np.random.default_rng(9)
    values, where = one_stratum(rng.binomial(20, 0.1, 300) / 20, 20)
    few, many = (next_phase(values, where, 0.005, 0.95, images=images).sum() for images in (2, OF))
    assert few > 1.5 * many
    assert next_phase(values, where, 0.005, 0.95).sum() == many


def test_where_nothing_was_seen_one_part_is_taken():
    values, where = one_stratum([0.0] * 300, 20)
    assert next_images(values, where, Work(np.array([1e6]), np.ones(1)), 20) == 20


def test_where_faults_do_not_differ_all_images_are_best():
    """A fault's mean square is all of images: what is left between faults is 0, and nothing divides by it."""
    spread = Spread(np.array([0.25]), np.array([1.0]))
    work = Work(np.ones(1), np.ones(1))
    assert best_images(spread, np.ones(1), np.ones(1), work, 4) == 4.0
