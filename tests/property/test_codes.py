"""Codes over stored weights: decoding undoes encoding, and what it does to flips does not depend on the weights."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resq_deploy.codes.known import known_code
from resq_deploy.codes.words import Status, correct, decode, encode, left_by, left_by_flips, stored_size

CODES = st.sampled_from([("secded", 7), ("dected", 7), ("dected", 6)]).map(lambda kind: known_code(*kind))


def weights_for(code):
    elements = st.integers(-code.largest - 1, code.largest)
    return hnp.arrays(np.int8, st.integers(0, 300), elements=elements)


@st.composite
def flipped(draw):
    """A code, weights, and addresses of flipped bits, some twice."""
    code = draw(CODES)
    weights = draw(weights_for(code))
    size = 8 * stored_size(code, weights.size)
    flips = draw(st.lists(st.integers(0, size - 1), max_size=40)) if size else []
    return code, weights, np.array(flips, dtype=np.int64)


def mask_of(code, weights, flips):
    mask = np.zeros(stored_size(code, weights.size), dtype=np.uint8)
    np.bitwise_xor.at(mask, flips // 8, (1 << flips % 8).astype(np.uint8))
    return mask


@given(flipped())
def test_flips_leave_the_same_whatever_is_stored(case):
    code, weights, flips = case
    mask = mask_of(code, weights, flips)
    decoded = decode(code, encode(code, weights) ^ mask, weights.size)
    assert (decoded.weights.view(np.uint8) == weights.view(np.uint8) ^ left_by(code, mask)[: weights.size]).all()
    assert decoded.weights.min(initial=0) >= -code.largest - 1
    assert decoded.weights.max(initial=0) <= code.largest


@given(flipped())
def test_flips_by_address_leave_what_their_mask_leaves(case):
    code, weights, flips = case
    mask = mask_of(code, weights, flips)
    left = left_by_flips(code, flips)
    change = np.zeros_like(mask)
    change[left.index] = left.change
    assert (change == left_by(code, mask)).all()
    assert (left.change != 0).all()
    status = np.zeros((mask.size // code.block, 8), dtype=np.uint8)
    status[left.block] = left.status
    assert (status == correct(code, mask).status).all()


@given(flipped())
def test_words_with_as_many_flips_as_are_corrected_leave_nothing(case):
    """Counted word by word: few flips are corrected, one more is left as it is."""
    code, weights, flips = case
    mask = mask_of(code, weights, flips)
    bits = np.unpackbits(mask.reshape(-1, code.block, 1), axis=2, bitorder="little")
    byte, bit = np.mgrid[: code.block, :8]
    decoded = ~np.isin(byte - byte % 8 + bit, code.idle)
    count = np.stack([(bits & decoded & ((byte + bit) % 8 == word)).sum(axis=(1, 2)) for word in range(8)], axis=1)
    status = correct(code, mask).status
    assert (status[count == 0] == Status.SOUND).all()
    assert (status[(count > 0) & (count <= code.corrects)] == Status.CORRECTED).all()
    assert (status[count == code.corrects + 1] == Status.UNCORRECTABLE).all()


@given(flipped())
def test_correcting_twice_changes_no_more(case):
    code, weights, flips = case
    once = correct(code, mask_of(code, weights, flips))
    again = correct(code, once.stored)
    assert (again.stored == once.stored).all()
    assert (again.status != Status.CORRECTED).all()
    assert ((again.status == Status.UNCORRECTABLE) == (once.status == Status.UNCORRECTABLE)).all()
