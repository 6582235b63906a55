"""What is protected, and how: all of it for the fewest bytes, or the most risk for some bytes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_deploy.protection.choice import Choice, Item, safest, smallest

COST = st.none() | st.integers(1, 60)
ITEMS = st.lists(st.tuples(st.floats(0, 10), COST, COST), min_size=1, max_size=6)


def items_of(rows):
    return [Item(tensor=str(n), gain=gain, vote=vote, code=code) for n, (gain, vote, code) in enumerate(rows)]


def choices(items, fixed):
    """Every way to protect some of the items."""
    ways = [[None, *(way for way in ("vote", "code") if getattr(item, way) is not None)] for item in items]
    for picked in itertools.product(*ways):
        coded = frozenset(item.tensor for item, way in zip(items, picked, strict=True) if way == "code")
        voted = frozenset(item.tensor for item, way in zip(items, picked, strict=True) if way == "vote")
        added = sum(getattr(item, way) for item, way in zip(items, picked, strict=True) if way)
        yield Choice(coded=coded, voted=voted, bytes_added=added + (fixed if coded else 0))


def gained(items, choice):
    return sum(item.gain for item in items if item.tensor in choice.coded | choice.voted)


@given(ITEMS, st.integers(0, 100))
def test_the_smallest_protects_all_that_can_be_for_the_fewest_bytes(rows, fixed):
    items = [item for item in items_of(rows) if (item.vote, item.code) != (None, None)]
    found = smallest(items, fixed)
    everything = {item.tensor for item in items}
    assert found.coded | found.voted == everything
    assert not found.coded & found.voted
    assert found in list(choices(items, fixed))
    assert found.bytes_added == min(
        way.bytes_added for way in choices(items, fixed) if way.coded | way.voted == everything
    )


@given(ITEMS, st.integers(0, 100), st.integers(1, 200))
def test_the_safest_fits_and_misses_the_best_by_less_than_one_tensor(rows, fixed, room):
    items = items_of(rows)
    found = safest(items, fixed, room)
    assert found.bytes_added <= room
    assert found in list(choices(items, fixed))
    best = max(gained(items, way) for way in choices(items, fixed) if way.bytes_added <= room)
    left = [item.gain for item in items if item.tensor not in found.coded | found.voted]
    assert best - gained(items, found) <= max(left, default=0.0) + 1e-9


def test_a_decoder_is_paid_for_only_where_less_risk_is_left():
    items = [Item(tensor="weights", gain=5.0, code=10), Item(tensor="bias", gain=4.0, vote=30)]
    assert safest(items, 100, 50) == Choice(coded=frozenset(), voted=frozenset({"bias"}), bytes_added=30)
    assert safest(items, 20, 40) == Choice(coded=frozenset({"weights"}), voted=frozenset(), bytes_added=30)
    assert safest(items, 20, 60).coded | safest(items, 20, 60).voted == {"weights", "bias"}


@pytest.mark.parametrize("fixed", [10, 1000])
def test_small_weights_are_voted_where_a_decoder_is_dearer(fixed):
    items = [Item(tensor=str(n), gain=1.0, vote=100, code=20) for n in range(3)]
    found = smallest(items, fixed)
    assert bool(found.coded) == (fixed == 10)
    assert found.bytes_added == (70 if fixed == 10 else 300)


def test_what_no_byte_buys_is_left():
    assert safest([Item(tensor="a", gain=1.0, vote=50)], 0, 49).voted == frozenset()
    assert safest([Item(tensor="a", gain=0.0, vote=1)], 0, np.inf).voted == frozenset()
