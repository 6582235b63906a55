"""Differences in a byte: in order, rounded down, the same whatever is compared at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_deploy.faults import gaps as module
from resq_deploy.faults.gaps import BEYOND, at_least, encoded, gaps, least, most, scales
from resq_deploy.faults.judges.outputs import ragged

EVERY = np.arange(256, dtype=np.uint8)


@given(st.floats(min_value=2.0**-28 * 1.125, max_value=10.0))
def test_a_code_is_a_lower_bound_that_is_at_most_an_eighth_too_low(difference):
    code = encoded(np.array([difference]))
    assert least(code)[0] <= difference < most(code)[0]
    assert most(code)[0] <= least(code)[0] * 1.125


@pytest.mark.parametrize(
    ("difference", "code"),
    [
        (0.0, 1),
        (2.0**-28, 1),
        (2.0**-28 * 1.124, 1),
        (2.0**-28 * 1.125, 2),
        (2.0**-27, 9),
        (1.0, 1 + 8 * 28),
        (1.99, 7 + 1 + 8 * 28),
        (1e300, BEYOND - 1),
        (np.inf, BEYOND),
        (np.nan, BEYOND),
    ],
)
def test_codes_of_differences(difference, code):
    assert encoded(np.array([difference]))[0] == code


def test_codes_are_in_the_order_of_what_they_stand_for():
    assert (np.diff(least(EVERY[1:])) > 0).all()
    assert least(EVERY)[[0, 1]].tolist() == [0.0, 0.0]
    assert np.isinf(least(EVERY)[BEYOND])
    assert (encoded(least(EVERY[2:])) == EVERY[2:]).all()


def test_the_upper_bound_of_a_code_is_where_the_next_begins():
    assert most(EVERY)[0] == 0.0
    assert (most(EVERY)[1 : BEYOND - 1] == least(EVERY)[2:BEYOND]).all()
    assert np.isinf(most(EVERY)[BEYOND - 1 :]).all()


def test_a_code_is_sure_of_a_difference_from_its_lower_bound_on():
    bound = least(EVERY)[100]
    assert at_least(EVERY, bound).tolist() == [False] * 100 + [True] * 156
    assert at_least(EVERY, np.nextafter(bound, np.inf)).tolist() == [False] * 101 + [True] * 155
    assert at_least(np.array([[99, 100], [0, BEYOND]], np.uint8), bound).tolist() == [[False, True], [False, True]]


def test_each_output_is_measured_by_its_own_largest_magnitude():
    golden = {"boxes": np.array([[-640.0, 0.0], [1.0, np.inf]], np.float32), "score": np.zeros((2, 1), np.float32)}
    assert scales(golden) == {"boxes": 640.0, "score": 1.0}
    faulty = {"boxes": golden["boxes"] + np.float32(64), "score": golden["score"] + np.float32(0.5)}
    found = gaps(golden, faulty, scales(golden), np.array([0]))
    assert found.tolist() == [encoded(np.array([0.5]))[0], 0]
    faulty["score"] = golden["score"]
    assert gaps(golden, faulty, scales(golden), np.array([0])).tolist() == [encoded(np.array([0.1]))[0], 0]


@pytest.mark.parametrize(
    ("known", "found", "difference"),
    [
        (np.array([[3], [250]], np.uint8), np.array([[3], [0]], np.uint8), 1.0),
        (np.array([[True, False]] * 2), np.array([[True, False], [False, False]]), 1.0),
        (np.array([[2**62], [1]]), np.array([[2**62], [2**61 + 1]]), 0.5),
        (np.array([[1.0], [1.0]], np.float32), np.array([[1.0], [np.nan]], np.float32), np.inf),
        (np.array([[1.0], [0.0]], np.float32), np.array([[1.0], [-0.0]], np.float32), 0.0),
        (np.array([["a"], ["b"]], object), np.array([["a"], ["c"]], object), np.inf),
    ],
    ids=["uint8", "bool", "int64", "nan", "sign of zero", "text"],
)
def test_outputs_of_any_type(known, found, difference):
    codes = gaps({"y": known}, {"y": found}, scales({"y": known}), np.array([1]))
    assert codes.tolist() == [0, encoded(np.array([difference]))[0]]


def test_of_outputs_of_different_sizes_another_size_or_type_is_beyond_all():
    golden = {"y": ragged([np.ones((2, 3), np.float32), np.ones((1, 3), np.float32), np.full((1, 3), 4, np.float32)])}
    faulty = {"y": ragged([np.ones((1, 3), np.float32), np.ones((1, 3), np.float64), np.full((1, 3), 5, np.float32)])}
    codes = gaps(golden, faulty, scales(golden), np.arange(3))
    assert codes.tolist() == [BEYOND, BEYOND, encoded(np.array([0.25]))[0]]


def test_magnitudes_below_1_are_what_they_are():
    assert scales({"y": np.array([[0.25, -0.5]], np.float32)}) == {"y": 0.5}


def test_a_single_sample_of_any_size():
    golden, faulty = ({"y": ragged([np.full((2, 3), value, np.float32)])} for value in (0.5, 0.25))
    assert scales(golden) == {"y": 0.5}
    assert gaps(golden, faulty, scales(golden), np.array([0])).tolist() == [encoded(np.array([0.5]))[0]]


def test_few_values_at_a_time_give_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    golden = {"a": rng.normal(size=(13, 4)), "b": rng.normal(size=(13, 2, 3))}
    faulty = {name: values + rng.normal(size=values.shape) * 1e-3 for name, values in golden.items()}
    rows = np.array([0, 2, 3, 5, 7, 11, 12])
    whole = gaps(golden, faulty, scales(golden), rows)
    largest = [
        max(abs(faulty[name][row] - golden[name][row]).max() / abs(golden[name]).max() for name in golden)
        for row in rows
    ]
    assert whole[rows].tolist() == encoded(np.array(largest)).tolist()
    assert not np.delete(whole, rows).any()
    monkeypatch.setattr(module, "_CHUNK", 12)
    assert (gaps(golden, faulty, scales(golden), rows) == whole).all()
