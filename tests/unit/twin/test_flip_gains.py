import struct

import numpy as np
import pytest

from resq_deploy.twin.flip_gains import Gain, best_flips, flip_changes

STORED = {
    "int8": np.array([-128, -1, 0, 1, 77, 127], np.int8),
    "uint8": np.array([0, 1, 128, 200, 255], np.uint8),
    "int32": np.array([-(2**31), -5, 0, 7, 2**31 - 1], np.int32),
    "float32": np.array([-2.5, 0.0, 1.0, 3.4e38], np.float32),
}
FORMATS = {"int8": "<b", "uint8": "<B", "int32": "<i", "float32": "<f"}


def flipped(value, bit, code):
    """One value with one bit flipped, by Python's own arithmetic."""
    size = struct.calcsize(code)
    pattern = int.from_bytes(struct.pack(code, value), "little") ^ (1 << bit)
    return struct.unpack(code, pattern.to_bytes(size, "little"))[0]


@pytest.mark.parametrize("kind", STORED)
def test_changes_are_those_of_the_stored_type(kind):
    stored = STORED[kind]
    for bit in range(8 * stored.itemsize):
        expected = [flipped(value.item(), bit, FORMATS[kind]) - value.item() for value in stored]
        np.testing.assert_array_equal(flip_changes(stored, bit), expected)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_the_best_flips_are_those_of_all_that_there_are(kind, count):
    rng = np.random.default_rng(count)
    info = np.iinfo(kind)
    stored = rng.integers(info.min, info.max, 40, dtype=kind, endpoint=True)
    slope = rng.normal(size=40) * np.exp(3 * rng.normal(size=40))  # steep ones, so that lower bits of these win
    gains = {
        (index, bit): float(slope[index] * flip_changes(stored, bit)[index])
        for index in range(40)
        for bit in range(8 * stored.itemsize)
    }
    taken = sorted(gains, key=gains.get)[-2:]
    left = sorted((gain for place, gain in gains.items() if gain > 0 and place not in taken), reverse=True)
    found = best_flips(stored, slope, count, taken)
    assert [gain.gain for gain in found] == left[:count]
    assert all(gains[gain.index, gain.bit] == gain.gain for gain in found)
    assert not {(gain.index, gain.bit) for gain in found} & set(taken)


def test_no_slope_no_flip():
    assert best_flips(STORED["int8"], np.zeros(6), 3) == []


def test_a_float_that_becomes_infinite_gains_most_and_one_that_becomes_nan_nothing():
    largest = np.array([1.0, 1.5], np.float32)  # flipping bit 30 makes them infinite and NaN
    assert best_flips(largest, np.array([1.0, 1.0]), 1)[0] == Gain(np.inf, 0, 30)
    assert (1, 30) not in {(gain.index, gain.bit) for gain in best_flips(largest, np.array([1.0, 1.0]), 64)}


def test_only_bits_that_are_allowed_are_flipped():
    stored = np.array([3, -4, 100, 7], dtype=np.int8)
    slope = np.array([1.0, -2.0, -0.5, 4.0])
    allowed = np.random.default_rng(0).random((4, 8)) < 0.3
    every = best_flips(stored, slope, 32)
    found = best_flips(stored, slope, 32, allowed=allowed)
    assert found == [gain for gain in every if allowed[gain.index, gain.bit]]
    assert 0 < len(found) < len(every)
    assert best_flips(stored, slope, 2, allowed=allowed) == found[:2]
