"""What is held of all images, held against every choice there is."""

import itertools

import numpy as np
import pytest

from resq_deploy.campaign.engines.holding import Price, _seconds_a_fault, chosen


def drawn(seed, segments=4):
    """Return prices of a network some of whose segments read from two earlier ones."""
    source = np.random.default_rng(seed)
    reads = [sorted({place - 1, int(source.integers(place))}) if place else [] for place in range(segments)]
    return [
        Price(*source.uniform(0.1, 1.0, 2).tolist(), reads[place], *source.integers(1, 100, 2).tolist())
        for place in range(segments)
    ]


def taken(prices, held):
    return sum(prices[place].size(kind) for place, kind in held)


def everything(prices):
    return set(itertools.product(range(len(prices)), ("border", "inner")))


def choices(prices, room):
    """Yield all choices that there is room for."""
    items = sorted(everything(prices))
    for mask in itertools.product((False, True), repeat=len(items)):
        held = set(itertools.compress(items, mask))
        if taken(prices, held) <= room:
            yield held


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_a_choice_saves_most_of_what_the_best_one_does(part):
    saved = []
    for seed in range(12):
        prices = drawn(seed)
        room, nothing = int(part * taken(prices, everything(prices))), _seconds_a_fault(prices, set())
        best = min(_seconds_a_fault(prices, held) for held in choices(prices, room))
        found = chosen(prices, room)
        assert taken(prices, found) <= room
        saved.append((nothing - _seconds_a_fault(prices, found)) / (nothing - best))
    assert np.mean(saved) > 0.9
    assert min(saved) > 0.5


def test_all_is_held_where_there_is_room_for_all_and_without_room_what_takes_none():
    prices = [*drawn(0), Price(1.0, 1.0, [3], 0, 10)]
    assert _seconds_a_fault(prices, chosen(prices, taken(prices, everything(prices)))) == 0
    assert chosen(prices, 0) == {(4, "border")}


def test_a_fault_costs_the_segments_between_what_is_held_and_what_it_is_fed_with():
    chain = [
        Price(seconds, faults, reads, 1, 1) for seconds, faults, reads in ((1, 1, []), (2, 10, [0]), (4, 100, [1]))
    ]
    assert _seconds_a_fault(chain, set()) == 1 * 1 + 10 * (1 + 2) + 100 * (1 + 2 + 4)
    assert _seconds_a_fault(chain, {(0, "border")}) == 1 * 1 + 10 * 2 + 100 * (2 + 4)
    assert _seconds_a_fault(chain, {(1, "border")}) == 1 * 1 + 10 * (1 + 2) + 100 * 4
    assert _seconds_a_fault(chain, {(1, "border"), (2, "border"), (2, "inner")}) == 1 * 1 + 10 * (1 + 2)


def test_two_small_ones_that_save_more_together_go_before_a_large_one():
    prices = [
        Price(seconds=seconds, faults=1.0, reads=(), border=0, inner=size)
        for seconds, size in ((10.0, 100), (6.0, 40), (6.0, 40))
    ]
    assert {number for number, kind in chosen(prices, 100) if kind == "inner"} == {1, 2}
