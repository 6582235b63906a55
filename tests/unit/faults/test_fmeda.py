"""FMEDA formulas: by hand, over enumerated populations, and as properties."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resq_deploy.faults.drawn import Drawn
from resq_deploy.faults.fmeda import (
    CLASSES,
    Injected,
    Memory,
    _share_kept,
    fmeda,
)
from resq_deploy.faults.hardware_metrics import latent_metric, level, single_point_metric, with_self_test
from resq_deploy.faults.statistics import Estimate
from resq_deploy.faults.stratified import Sample

SEEDS = 100
ENOUGH = 92


def injected(tensor, wrong, lost, reported, sizes=None, **values):
    tensor = np.array(tensor)
    faults = np.bincount(tensor)[:, np.newaxis] if sizes is None else np.array(sizes).reshape(len(sizes), -1)
    return Injected(
        drawn=Drawn(tensor=tensor, faults=faults, **values),
        wrong=np.array(wrong, dtype=np.float64),
        lost=np.array(lost, dtype=bool),
        reported=np.array(reported, dtype=bool),
    )


def by_hand():
    """A bare tensor of 4 bits, one of 6 under a code that reports, 5 in copies that report nothing, 2 of its tables."""
    present = injected(
        [0] * 4 + [1] * 6 + [2] * 5 + [3] * 2,
        [0.5, 0, 0, 1] + [0.25, 0.5, 0, 0, 0, 0] + [0] * 5 + [0, 0],
        [0, 1, 0, 0] + [0] * 6 + [0] * 5 + [0, 0],
        [0] * 4 + [1, 0, 1, 1, 1, 0] + [0] * 5 + [1, 0],
    )
    without = injected(
        [0] * 4 + [1] * 3 + [2] * 2,
        [0.5, 0, 0, 1, 1, 0.5, 0, 0.5, 0],
        [0, 1, 0, 0] + [0] * 3 + [0, 0],
        [0] * 9,
    )
    memory = Memory(
        rate=np.array([2.0, 1.0, 3.0, 1.0]),
        element=np.array([0, 1, 2, 3]),
        mechanism=["", "code", "votes", "code"],
        plain=[[0], [1], [2], []],
    )
    return present, memory, without


def test_faults_that_change_nothing_are_none():
    """As by hand, with strikes added that change nothing: of the two bare tensors and of the copies."""
    present, memory, without = by_hand()
    idle = np.array([3, 0, 2, 1])
    more = np.repeat(np.arange(4), idle)
    padded = injected(
        [*present.drawn.tensor, *more],
        [*present.wrong, *[0.0] * len(more)],
        [*present.lost, *[False] * len(more)],
        [*present.reported, *[False] * len(more)],
    )
    bare = without.drawn.tensor.tolist() + [0] * 3
    unpaired = injected(bare, [*without.wrong, 0, 0, 0], [*without.lost, 0, 0, 0], [False] * len(bare))
    # What a strike does without the mechanism is shared out over all strikes with it: as many change nothing here.
    plain = dataclasses.replace(memory, rate=memory.rate * np.array([1.0, 1.0, 0.0, 1.0]))
    one = fmeda(present, plain, without, 0.95)
    other = fmeda(padded, dataclasses.replace(plain, idle=idle), unpaired, 0.95)
    assert other.raw == pytest.approx(one.raw)
    assert other.spfm.value == pytest.approx(one.spfm.value)
    for before, after in zip(one.rows, other.rows, strict=True):
        assert after.raw == pytest.approx(before.raw)
        for name in CLASSES:
            assert getattr(after, name).value == pytest.approx(getattr(before, name).value), name
    counted = fmeda(padded, plain, unpaired, 0.95)
    assert counted.raw > one.raw
    assert counted.spfm.value > one.spfm.value  # which would promise too much


@settings(max_examples=40)
@given(idle=st.integers(0, 4), wrong=st.lists(st.floats(0, 1), min_size=1, max_size=6), confidence=st.just(0.95))
def test_no_part_is_more_than_what_changes(idle, wrong, confidence):
    """Of a sample, which may hold harmful faults alone while most strikes change nothing."""
    present = injected([0] * len(wrong), wrong, [0] * len(wrong), [0] * len(wrong), sizes=[len(wrong) + 4])
    memory = Memory(rate=np.ones(1), element=np.array([0]), mechanism=[""], plain=[[0]], idle=np.array([idle]))
    found = fmeda(present, memory, None, confidence)
    (row,) = found.rows
    assert row.raw == len(wrong) + 4 - idle
    for name in CLASSES:
        part = getattr(row, name)
        assert -1e-9 <= part.low <= part.value <= part.high <= row.raw + 1e-9
    assert sum(getattr(row, name).value for name in CLASSES) == pytest.approx(row.raw)
    assert 0.0 <= found.spfm.low <= found.spfm.high <= 1.0


def test_every_figure_by_hand():
    found = fmeda(*by_hand(), 0.95)
    bare, coded, voted, tables = found.rows
    assert [row.raw for row in found.rows] == [8.0, 6.0, 15.0, 2.0]
    assert [row.bits for row in found.rows] == [4, 6, 5, 2]

    def of(row):
        return [pytest.approx(getattr(row, name).value) for name in CLASSES]

    # safe, detected, undetected, controlled and reported, latent
    assert of(bare) == [3.0, 2.0, 3.0, 0.0, 0.0]
    # G = 6 * 0.5 = 3, D = 0.75, so that 2.25 are controlled; neither harm nor report: 0.5 + 1
    assert of(coded) == [3.0, 0.25, 0.5, 0.75, 1.5]
    assert of(voted) == [11.25, 0.0, 0.0, 0.0, 3.75]
    assert of(tables) == [0.0, 0.0, 0.0, 1.0, 1.0]  # no counterpart: all that do no harm are controlled
    assert found.raw == 31.0
    assert found.undetected.value == pytest.approx(3.5)
    assert found.latent.value == pytest.approx(6.25)
    assert found.spfm.value == pytest.approx(1 - 3.5 / 31)
    assert found.lfm.value == pytest.approx(1 - 6.25 / 27.5)
    assert found.spfm.low == pytest.approx(found.spfm.high)  # all faults were tried
    assert found.coverage["code"].value == pytest.approx(1 - 0.75 / 3)
    assert found.coverage["code"].low == pytest.approx(0.75)
    assert found.coverage["code"].high == pytest.approx(0.75)
    assert found.coverage["votes"].value == 1.0
    # what is wrong: 3 of the bare tensor at a rate of 2, 0.75 of the other, of which 0.25 are reported
    assert found.health.value == pytest.approx(0.25 / (2 * 1.5 + 0.75))


def test_ends_of_sums_by_hand():
    """L is known up to what is told: of votes exactly, of a code whose words are half reported between two sums."""
    latent, lfm = (getattr(fmeda(*by_hand(), 0.95), name) for name in ("latent", "lfm"))
    # compared: G = 3 + 3.75, told = D + reported without harm = 6 - 1.5 of the code, 0 of the votes; tables: 1
    assert latent.low == pytest.approx(6.75 - 4.5 + 1.0)
    # by mechanism the smaller of Q and G: 1.5 of the code, 3.75 of the votes; tables: 1
    assert latent.high == pytest.approx(1.5 + 3.75 + 1.0)
    assert lfm.low == pytest.approx(1 - 6.25 / 27.5)
    assert lfm.high == pytest.approx(1 - 3.25 / 27.5)


def test_without_a_second_campaign_nothing_is_known_to_be_controlled():
    present, memory, _ = by_hand()
    found = fmeda(present, memory, None, 0.95)
    assert found.latent is None
    assert found.lfm is None
    assert found.coverage == {"code": None, "votes": None}
    assert found.spfm.value == pytest.approx(1 - 3.5 / 31)
    assert found.rows[1].safe.value == pytest.approx(6 - 0.75)
    assert found.rows[1].latent.high == 0.0
    bare = dataclasses.replace(memory, mechanism=[""] * 4)
    assert fmeda(present, bare, None, 0.95).lfm.low == 1.0


def test_the_widest_row_is_the_one_known_least():
    present = injected([0] * 5 + [1] * 50, [0] * 55, [0] * 55, [0] * 55, sizes=[1000, 1000])
    memory = Memory(rate=np.ones(2), element=np.array([0, 1]), mechanism=["", ""], plain=[[], []])
    assert fmeda(present, memory, None, 0.95).widest == 0
    turned = dataclasses.replace(memory, element=np.array([1, 0]))
    assert fmeda(present, turned, None, 0.95).widest == 1


def test_the_row_that_leaves_most_latent_is_named_apart():
    """Votes of many bits whose harm without them is hardly known; the bare row is wide in what is undetected."""
    present = injected([0] * 5 + [1] * 50, [0.5] * 5 + [0] * 50, [0] * 55, [0] * 55, sizes=[1000, 1000])
    without = injected([0] * 5 + [1] * 5, [0.5] * 10, [0] * 10, [0] * 10, sizes=[1000, 1000])
    memory = Memory(rate=np.ones(2), element=np.array([0, 1]), mechanism=["", "votes"], plain=[[0], [1]])
    found = fmeda(present, memory, without, 0.95)
    assert (found.widest, found.widest_latent) == (0, 1)
    assert fmeda(present, memory, None, 0.95).widest_latent is None
    bare = dataclasses.replace(memory, mechanism=["", ""])
    assert fmeda(present, bare, without, 0.95).widest_latent is None


def test_what_is_hardly_known_to_be_controlled_may_be_nothing():
    """Votes that report all, beside five faults of the plain file that do little."""
    present = injected([0] * 50, [0] * 50, [0] * 50, [1] * 50, sizes=[1000])
    without = injected([0] * 5, [0.01] * 5, [0] * 5, [0] * 5, sizes=[1000])
    memory = Memory(rate=np.ones(1), element=np.array([0]), mechanism=["votes"], plain=[[0]])
    (row,) = fmeda(present, memory, without, 0.95).rows
    assert row.controlled_detected.value == pytest.approx(10.0)
    assert row.controlled_detected.low == 0.0


@pytest.mark.parametrize(
    ("dangerous", "bare", "kept"),
    [(0.1, 0.4, 0.75), (0.5, 0.4, 0.0), (0.0, 0.4, 1.0), (0.1, 0.0, 0.0), (0.0, 0.0, 0.0)],
)
def test_the_share_that_a_mechanism_keeps_off(dangerous, bare, kept):
    """Nothing is promised where nothing surely is dangerous without it."""
    assert _share_kept(dangerous, bare) == pytest.approx(kept)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_what_the_health_output_reports_knows_no_unit_of_the_rates(scale):
    present, memory, without = by_hand()
    one = fmeda(present, memory, without, 0.95).health
    other = fmeda(present, dataclasses.replace(memory, rate=scale * memory.rate), without, 0.95).health
    assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high))


def test_an_element_no_fault_fell_on_is_open():
    present = injected([0] * 10, [0.5] * 10, [0] * 10, [0] * 10, sizes=[10, 30])
    memory = Memory(rate=np.array([1.0, 2.0]), element=np.array([0, 1]), mechanism=["", ""], plain=[[], []])
    row = fmeda(present, memory, None, 0.95).rows[1]
    assert (row.undetected.low, row.undetected.value, row.undetected.high) == (0.0, 30.0, 60.0)
    assert row.undetected.n == 0


@pytest.mark.parametrize(
    ("metric", "low", "reached"),
    [
        *(("spfm", 0.99, "D"), ("spfm", 0.98, "C"), ("spfm", 0.97, "C"), ("spfm", 0.90, "B"), ("spfm", 0.89, None)),
        *(("lfm", 0.90, "D"), ("lfm", 0.89, "C"), ("lfm", 0.80, "C"), ("lfm", 0.60, "B"), ("lfm", 0.59, None)),
    ],
)
def test_levels(metric, low, reached):
    assert level(metric, low) == reached


def test_metrics_at_their_ends():
    assert single_point_metric(0.0, 0.0) == 1.0
    assert single_point_metric(1.0, 4.0) == 0.75
    assert latent_metric(0.0, 4.0, 4.0) == 1.0
    assert latent_metric(1.0, 4.0, 4.0) == 0.0
    assert latent_metric(1.0, 2.0, 4.0) == 0.5
    assert latent_metric(5.0, 2.0, 4.0) == 0.0


def test_a_self_test_takes_its_share_of_what_is_undetected():
    undetected = Estimate(value=2.0, low=1.0, high=4.0, n=80, confidence=0.95)
    revealed = Estimate(value=0.9, low=0.5, high=0.95, n=40, confidence=0.9)
    found = with_self_test(undetected, revealed, 10.0)
    assert found.value == pytest.approx(0.98)
    assert found.low == pytest.approx(0.8)
    assert found.high == pytest.approx(0.995)
    assert found.n == 40
    assert found.confidence == pytest.approx(0.85)


class World:
    """A population of faults of which all is known: bare, coded with misses and reports, voted in silence."""

    def __init__(self):
        source = np.random.default_rng(5)
        self.sizes, self.plain_sizes = np.array([600, 900, 600, 80]), np.array([600, 800, 200])
        self.memory = Memory(
            rate=np.array([1.0, 0.4, 2.0, 1.0]),
            element=np.array([0, 1, 2, 1]),
            mechanism=["", "code", "votes", "code"],
            plain=[[0], [1], [2], []],
        )
        self.present = self._of(source, self.sizes, [0.08, 0.01, 0.0, 0.02], [0.0, 0.9, 0.0, 0.4], [0.01, 0, 0, 0])
        self.without = self._of(source, self.plain_sizes, [0.08, 0.3, 0.2], [0.0] * 3, [0.01, 0.0, 0.02])
        self.truth = fmeda(self.present, self.memory, self.without, 0.95)

    @staticmethod
    def _of(source, sizes, harmful, reported, lost):
        tensor = np.repeat(np.arange(len(sizes)), sizes)
        draw = source.random((4, len(tensor)))
        gone = draw[0] < np.array(lost)[tensor]
        wrong = np.where((draw[1] < np.array(harmful)[tensor]) & ~gone, draw[2] ** 2, 0.0)
        return injected(tensor, wrong, gone, (draw[3] < np.array(reported)[tensor]) & ~gone, sizes=sizes)

    @staticmethod
    def simple(whole, count, source):
        chosen = np.sort(source.choice(len(whole.wrong), count, replace=False))
        drawn = dataclasses.replace(whole.drawn, tensor=whole.drawn.tensor[chosen])
        return Injected(
            drawn=drawn, wrong=whole.wrong[chosen], lost=whole.lost[chosen], reported=whole.reported[chosen]
        )

    @staticmethod
    def stratified(whole, source):
        """A pilot and a main phase, each tensor a stratum."""
        sizes = whole.drawn.sizes
        picks, phases = [], []
        for place in range(len(sizes)):
            mine = source.permutation(np.flatnonzero(whole.drawn.tensor == place))
            picks += [mine[:15], mine[15:65]]
            phases += [np.zeros(15, dtype=np.int64), np.ones(50, dtype=np.int64)]
        phase, chosen = np.concatenate(phases), np.concatenate(picks)
        order = np.argsort(phase, kind="stable")
        phase, chosen = phase[order], chosen[order]
        tensor = whole.drawn.tensor[chosen]
        sample = Sample(stratum=tensor, phase=phase, sizes=sizes, groups=np.arange(len(sizes)))
        return Injected(
            drawn=Drawn(tensor=tensor, faults=np.diag(sizes), sample=sample),
            wrong=whole.wrong[chosen],
            lost=whole.lost[chosen],
            reported=whole.reported[chosen],
        )


@pytest.mark.slow
@pytest.mark.parametrize("design", ["simple", "stratified"])
def test_intervals_hold_the_truth(design):
    world, held, rows_held, tight, missing = World(), Counter(), Counter(), [], Counter()
    for seed in range(SEEDS):
        source = np.random.default_rng(seed)
        if design == "simple":
            present, without = (world.simple(one, 400, source) for one in (world.present, world.without))
        else:
            present, without = (world.stratified(one, source) for one in (world.present, world.without))
        found = fmeda(present, world.memory, without, 0.95)
        tight.append(found.spfm.low)
        pairs = {name: (getattr(found, name), getattr(world.truth, name)) for name in ("undetected", "latent", "spfm")}
        pairs |= {"lfm": (found.lfm, world.truth.lfm), "health": (found.health, world.truth.health)}
        pairs |= {f"coverage {name}": (one, world.truth.coverage[name]) for name, one in found.coverage.items()}
        for name, (estimate, truth) in pairs.items():
            missing[name] += estimate is None
            held[name] += estimate is not None and estimate.low - 1e-9 <= truth.value <= estimate.high + 1e-9
        for number, (row, truth) in enumerate(zip(found.rows, world.truth.rows, strict=True)):
            assert sum(getattr(row, name).value for name in CLASSES) == pytest.approx(row.raw)
            assert row.raw == pytest.approx(truth.raw)
            for name in CLASSES:
                estimate, value = getattr(row, name), getattr(truth, name).value
                rows_held[number, name] += estimate.low - 1e-9 <= value <= estimate.high + 1e-9
        assert sum(row.raw for row in found.rows) == pytest.approx(found.raw)
        assert sum(row.undetected.value for row in found.rows) == pytest.approx(found.undetected.value)
    assert not +missing, missing  # seeds that sampled no harm would say nothing
    assert all(count >= ENOUGH for count in held.values()), held
    assert all(count >= ENOUGH for count in rows_held.values()), rows_held
    assert 0.8 < np.mean(tight) < world.truth.spfm.value  # they say something


shares = st.floats(0.0, 1.0)


@st.composite
def analyses(draw):
    count = draw(st.integers(1, 12))
    tensor = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    lost = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    wrong = [0.0 if gone else draw(shares) for gone in lost]
    reported = [draw(st.booleans()) and not gone for gone in lost]
    present = injected(tensor, wrong, lost, reported, sizes=[draw(st.integers(12, 40)) for _ in range(3)])
    bare = draw(st.lists(shares, min_size=3, max_size=3))
    without = injected([0, 1, 2], bare, [0] * 3, [0] * 3, sizes=[20, 20, 20])
    memory = Memory(
        rate=np.array(draw(st.lists(st.floats(0.0, 100.0), min_size=3, max_size=3))),
        element=np.array([0, 1, 2]),
        mechanism=["", "code", draw(st.sampled_from(["", "votes", "code"]))],
        plain=[[0], draw(st.sampled_from([[1], []])), [2]],
    )
    return present, memory, without


@settings(max_examples=60, deadline=None)
@given(analyses())
def test_parts_add_up_and_intervals_are_ordered(parts):
    found = fmeda(*parts, 0.9)
    for row in found.rows:
        assert sum(getattr(row, name).value for name in CLASSES) == pytest.approx(row.raw, abs=1e-9)
        for name in CLASSES:
            estimate = getattr(row, name)
            assert -1e-9 <= estimate.low <= estimate.value <= estimate.high <= row.raw * (1 + 1e-9) + 1e-9
    for metric in (found.spfm, found.lfm, *filter(None, found.coverage.values())):
        assert -1e-9 <= metric.low <= metric.value <= metric.high <= 1.0 + 1e-9
    assert found.raw == pytest.approx(sum(row.raw for row in found.rows))


@settings(max_examples=30, deadline=None)
@given(analyses(), st.floats(0.1, 10.0))
def test_metrics_know_no_unit_of_the_rates(parts, factor):
    present, memory, without = parts
    scaled = dataclasses.replace(memory, rate=memory.rate * factor)
    first, second = (fmeda(present, one, without, 0.9) for one in (memory, scaled))
    assert second.raw == pytest.approx(first.raw * factor, abs=1e-9)
    for name in ("spfm", "lfm"):
        for end in ("value", "low", "high"):
            assert getattr(getattr(second, name), end) == pytest.approx(getattr(getattr(first, name), end), abs=1e-6)


def test_ends_are_made_of_those_of_the_estimates():
    """Every interval of a sample, anew from the estimates that the formulas name."""
    world, source = World(), np.random.default_rng(2)
    present, without = (world.simple(one, 900, source) for one in (world.present, world.without))
    memory, found = world.memory, fmeda(present, world.memory, without, 0.95)
    harm = present.wrong + present.lost
    seen = present.reported.astype(float)
    quiet, told, wrong = (1 - seen) * (1 - harm), harm + seen * (1 - harm), present.wrong * (1 - seen)

    def of(values, tensors, error, rates=memory.rate, drawn=present.drawn):
        weight = np.where(np.isin(np.arange(len(rates)), tensors), rates, 0.0)
        return drawn.total(values, weight, 1 - error)

    def bare(tensors, error):
        rates = np.array([0.0, 0.0, 0.0])
        for place in tensors:
            rates[place] = memory.rate[place] * world.sizes[place] / world.plain_sizes[place]
        return of(without.wrong + without.lost, tensors, error, rates, without.drawn)

    def near(estimate, value, low, high):
        assert estimate.value == pytest.approx(value)
        assert estimate.low == pytest.approx(min(low, value))
        assert estimate.high == pytest.approx(max(high, value))

    # the code, with tables that have no counterpart: of a sum of three estimates each has a third of the error
    part = 0.05 / 3
    d, q, g = of(harm, [1, 3], part), of(quiet, [1, 3], part), bare([1], part)
    alone = 80.0
    g_value, g_low, g_high = g.value + alone, g.low + alone, g.high + alone
    row, raw = found.rows[1], 900 * 0.4 + 80
    controlled = g_value - d.value, max(0.0, g_low - d.high), g_high - d.low
    latent = min(controlled[0], q.value), min(controlled[1], q.low), min(controlled[2], q.high)
    near(row.latent, *latent)
    most = controlled[2] - min(controlled[2], q.low)
    near(row.controlled_detected, controlled[0] - latent[0], max(0.0, controlled[1] - q.high), most)
    assert most > 0.0
    near(row.safe, raw - g_value, raw - max(g_high, d.high), raw - max(g_low, d.low))
    votes = found.rows[2]
    d, q, g = of(harm, [2], part), of(quiet, [2], part), bare([2], part)
    near(votes.latent, g.value - d.value, g.low - d.high, g.high - d.low)
    near(votes.safe, 1200 - g.value, 1200 - g.high, 1200 - g.low)
    single = of(harm, [0], 0.05)
    near(found.rows[0].safe, 600 - single.value, 600 - single.high, 600 - single.low)
    # sums: Q and G of two mechanisms, Q of the tables, both sides of the lower end, and U share it
    part = 0.05 / 8
    own = of(quiet, [3], part)
    low = own.low + max(0.0, bare([1, 2], part).low - of(told, [1, 2], part).high)
    high = own.high + sum(min(of(quiet, [at], part).high, bare([at], part).high) for at in (1, 2))
    near(found.latent, sum(row.latent.value for row in found.rows), low, high)
    single, everything = of(wrong, [0, 1, 2, 3], part), 600 + 900 * 0.4 + 1200 + 80
    value = 1 - found.latent.value / (everything - found.undetected.value)
    near(found.lfm, value, 1 - high / (everything - single.high), 1 - low / (everything - single.low))
    single = of(wrong, [0, 1, 2, 3], 0.05)
    value = found.undetected.value
    near(found.undetected, value, single.low, single.high)
    near(found.spfm, 1 - value / everything, 1 - single.high / everything, 1 - single.low / everything)
    d, g = of(harm, [1], 0.025), bare([1], 0.025)
    near(found.coverage["code"], 1 - d.value / g.value, 1 - d.high / g.low, 1 - d.low / g.high)
    assert found.coverage["code"].n == min(d.n, g.n)
    assert found.latent.n == 900
    assert found.latent.confidence == found.coverage["code"].confidence == 0.95
    assert found.health.n == (present.wrong > 0).sum()


def test_what_is_detected_is_bounded_by_itself():
    world = World()
    present = world.simple(world.present, 700, np.random.default_rng(3))
    row = fmeda(present, world.memory, None, 0.95).rows[0]
    weight = np.where(np.arange(4) == 0, world.memory.rate, 0.0)
    found = present.drawn.total(present.wrong + present.lost - present.wrong * ~present.reported, weight, 0.95)
    assert row.detected.low == pytest.approx(found.low)
    assert row.detected.high == pytest.approx(found.high)
    assert row.undetected.low < row.undetected.value < row.undetected.high


def test_the_widest_row_need_not_be_the_worst():
    """A small element that fails throughout is known; one that was hardly hit is not."""
    present = injected([0] * 40 + [1] * 40, [1.0] * 40 + [0.0] * 40, [0] * 80, [0] * 80, sizes=[40, 60])
    memory = Memory(rate=np.ones(2), element=np.array([0, 1]), mechanism=["", ""], plain=[[], []])
    assert fmeda(present, memory, None, 0.95).widest == 1


def test_reports_count_by_the_rate_of_what_they_tell():
    nothing = injected([0, 1], [0.5, 0.5], [0, 0], [0, 0])
    memory = Memory(rate=np.array([3.0, 1.0]), element=np.array([0, 1]), mechanism=["", ""], plain=[[], []])
    assert fmeda(nothing, memory, None, 0.95).health is None
    told = dataclasses.replace(nothing, reported=np.array([True, False]))
    assert fmeda(told, memory, None, 0.95).health.value == pytest.approx(0.75)
    harmless = dataclasses.replace(told, wrong=np.zeros(2))
    assert fmeda(harmless, memory, None, 0.95).health is None


def test_a_mechanism_of_what_is_nowhere_else_has_no_coverage():
    present, memory, without = by_hand()
    alone = dataclasses.replace(memory, mechanism=["", "code", "votes", "tables"])
    assert fmeda(present, alone, without, 0.95).coverage["tables"] is None


def test_what_is_surely_controlled_in_silence_is_surely_latent():
    present = injected([0] * 60, [0.0] * 60, [0] * 60, [0] * 60, sizes=[300])
    without = injected([0] * 60, [0.9] * 60, [0] * 60, [0] * 60, sizes=[100])
    memory = Memory(rate=np.ones(1), element=np.array([0]), mechanism=["votes"], plain=[[0]])
    found, part = fmeda(present, memory, without, 0.95), 1 - 0.05 / 6
    bare = without.drawn.total(without.wrong, np.array([3.0]), part)
    told = present.drawn.total(present.wrong, np.ones(1), part)
    quiet = present.drawn.total(1 - present.wrong, np.ones(1), part)
    assert found.latent.low == pytest.approx(bare.low - told.high)
    assert 0.0 < found.latent.low < found.latent.value == pytest.approx(270.0)
    assert found.latent.high == pytest.approx(max(270.0, min(bare.high, quiet.high)))


def test_a_sample_that_its_results_stopped_is_bet_on():
    still = injected([0] * 50, [0.0] * 50, [0] * 50, [0] * 50, sizes=[500])
    stopped = dataclasses.replace(still.drawn, stopped=True)
    part = dataclasses.replace(still.drawn, share=0.5)
    high = [one.total(still.wrong, np.ones(1), 0.95).high for one in (still.drawn, stopped, part)]
    assert high[0] < high[1]
    assert high[0] < high[2]
