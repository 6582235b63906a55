"""Flips are involutions that change the one bit asked for; other operations agree with plain element arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resq_deploy.faults.bits import change_mask, count_bits
from resq_deploy.faults.fault import Edit, Op

WIDTHS = (4, 8, 16, 32, 64)


def pack(elements, width):
    """Elements as the bytes a file stores: little-endian, 4-bit ones two in a byte, low nibble first."""
    if width != 4:
        return np.frombuffer(elements.astype(f"<u{width // 8}").tobytes(), dtype=np.uint8)
    even = np.append(elements, np.zeros(len(elements) % 2, np.uint64)).astype(np.uint8)
    return even[0::2] | (even[1::2] << 4)


@st.composite
def tensors(draw, width):
    """Elements of a tensor, and different (element, bit) places in it."""
    count = draw(st.integers(1, 9))
    elements = draw(hnp.arrays(np.uint64, count, elements=st.integers(0, (1 << width) - 1)))
    places = draw(st.sets(st.integers(0, count * width - 1), min_size=1, max_size=12))
    return elements, sorted(divmod(place, width) for place in places)


def edit_of(places, op=Op.FLIP, values=()):
    return Edit.of("t", [index for index, _ in places], [bit for _, bit in places], op, values)


@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.data())
def test_a_flip_changes_exactly_the_bits_asked_for(width, data):
    elements, places = data.draw(tensors(width))
    stored = pack(elements, width)
    mask = change_mask(stored, edit_of(places), width)

    expected = [int(element) for element in elements]
    for index, bit in places:
        expected[index] ^= 1 << bit
    assert (stored ^ mask).tobytes() == pack(np.array(expected, dtype=np.uint64), width).tobytes()
    assert count_bits(mask) == len(places)


@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.data())
def test_a_flip_is_an_involution(width, data):
    elements, places = data.draw(tensors(width))
    stored = pack(elements, width)
    once = stored ^ change_mask(stored, edit_of(places), width)
    twice = once ^ change_mask(once, edit_of(places), width)

    assert once.tobytes() != stored.tobytes()
    assert twice.tobytes() == stored.tobytes()
    assert not change_mask(stored, edit_of([*places, *places]), width).any()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("op", [Op.SET0, Op.SET1])
@given(data=st.data())
def test_a_stuck_bit_is_element_arithmetic(op, width, data):
    elements, places = data.draw(tensors(width))
    stored = pack(elements, width)
    after = stored ^ change_mask(stored, edit_of(places, op), width)

    expected = [int(element) for element in elements]
    for index, bit in places:
        expected[index] = expected[index] | 1 << bit if op is Op.SET1 else expected[index] & ~(1 << bit)
    assert after.tobytes() == pack(np.array(expected, dtype=np.uint64), width).tobytes()
    assert not change_mask(after, edit_of(places, op), width).any()


@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.data())
def test_a_word_replaces_whole_elements(width, data):
    elements, places = data.draw(tensors(width))
    stored = pack(elements, width)
    hit = sorted({index for index, _ in places})
    values = data.draw(st.lists(st.integers(0, (1 << width) - 1), min_size=len(hit), max_size=len(hit)))
    after = stored ^ change_mask(stored, edit_of([(index, 0) for index in hit], Op.WORD, values), width)

    expected = elements.copy()
    expected[hit] = np.array(values, dtype=np.uint64)
    assert after.tobytes() == pack(expected, width).tobytes()
