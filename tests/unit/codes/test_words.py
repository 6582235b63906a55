"""Encoding and decoding against a reading of the layout bit by bit, and every small fault of a block."""

import itertools

import numpy as np
import pytest

from resq_deploy.codes.known import known_code
from resq_deploy.codes.words import (
    Status,
    correct,
    decode,
    encode,
    left_by,
    left_by_flips,
    stored_size,
    syndromes,
)

CODES = {"secded": ("secded", 7), "dected": ("dected", 7), "dected-6": ("dected", 6)}


@pytest.fixture(params=CODES)
def code(request):
    return known_code(*CODES[request.param])


def weights_of(code, count, seed=0):
    return np.random.default_rng(seed).integers(-code.largest - 1, code.largest + 1, count).astype(np.int8)


def bits_of_word(code, block, word):
    """The bits of a word of a block as (byte, bit), by p = 8 q + b: those with (b + i) mod 8 = word."""
    return [
        (i, b) for q in range(code.block // 8) for b in range(8) for i in range(8 * q, 8 * q + 8) if (b + i) % 8 == word
    ]


def flips(code, places):
    """The XOR mask of one block, for flips given as (byte, bit)."""
    mask = np.zeros(code.block, dtype=np.uint8)
    for byte, bit in places:
        mask[byte] ^= 1 << bit
    return mask


def as_int8(code, masks):
    """What flips that stay mean for the decoded weights: spare bits nothing, the highest bit the sign."""
    kept = masks & code.data_mask
    sign = kept >> (code.weight_bits - 1) & 1
    return kept | sign * np.uint8(0xFF & ~code.data_mask)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_what_is_stored_decodes_to_the_weights(code, count):
    weights = weights_of(code, count)
    stored = encode(code, weights)
    assert stored.size == stored_size(code, count) == -(-count // code.block) * code.block
    assert (stored[:count] & code.data_mask == weights.view(np.uint8) & code.data_mask).all()
    decoded = decode(code, stored, count)
    assert decoded.weights.dtype == np.int8
    assert decoded.weights.tolist() == weights.tolist()
    assert not decoded.status.any()
    assert decode(code, stored).weights[count:].tolist() == [0] * (stored.size - count)


def test_the_layout_and_the_syndromes_bit_by_bit(code):
    stored = np.random.default_rng(1).integers(0, 256, 3 * code.block).astype(np.uint8)
    found = syndromes(code, stored)
    for block, word in itertools.product(range(3), range(8)):
        expected = 0
        for p, (byte, bit) in enumerate(bits_of_word(code, block, word)):
            assert p % 8 == bit
            if stored[block * code.block + byte] >> bit & 1:
                expected ^= code.columns[p]
        assert found[block, word] == expected
    assert not syndromes(code, encode(code, weights_of(code, 1000))).any()


def test_no_word_holds_two_bits_of_a_byte(code):
    for word in range(8):
        bytes_of = [byte for byte, _ in bits_of_word(code, 0, word)]
        assert sorted(bytes_of) == list(range(code.block))


def test_every_flip_of_a_block_is_corrected(code):
    stored = encode(code, weights_of(code, code.block))
    for byte, bit in itertools.product(range(code.block), range(8)):
        mask = flips(code, [(byte, bit)])
        corrected = correct(code, stored ^ mask)
        assert (corrected.stored == stored).all()
        word = (byte + bit) % 8
        position = byte - byte % 8 + bit
        idle = position in code.idle
        assert corrected.idle.sum() == corrected.idle[0, word] == idle
        assert corrected.status.sum() == corrected.status[0, word] == (Status.SOUND if idle else Status.CORRECTED)


@pytest.mark.parametrize("word", range(8))
def test_every_two_flips_of_a_word(code, word):
    places = bits_of_word(code, 0, word)
    pairs = list(itertools.combinations([place for p, place in enumerate(places) if p not in code.idle], 2))
    masks = np.stack([flips(code, pair) for pair in pairs])
    stored = encode(code, np.tile(weights_of(code, code.block), len(pairs)))
    corrected = correct(code, stored ^ masks.reshape(-1))
    left = left_by(code, masks)
    others = np.delete(corrected.status, word, axis=1)
    assert not others.any()
    if code.corrects == 2:
        assert (corrected.status[:, word] == Status.CORRECTED).all()
        assert (corrected.stored == stored).all()
        assert not left.any()
    else:
        assert (corrected.status[:, word] == Status.UNCORRECTABLE).all()
        assert (corrected.stored == stored ^ masks.reshape(-1)).all()
        assert (left == as_int8(code, masks)).all()


@pytest.mark.parametrize("word", [0, 5])
@pytest.mark.parametrize("name", ["dected", "dected-6"])
def test_three_flips_of_a_word_are_detected_and_stay(name, word):
    code = known_code(*CODES[name])
    places = [place for p, place in enumerate(bits_of_word(code, 0, word)) if p not in code.idle]
    random = np.random.default_rng(3)
    triples = [random.choice(len(places), 3, replace=False) for _ in range(3000)]
    masks = np.stack([flips(code, [places[p] for p in triple]) for triple in triples])
    corrected = correct(code, masks.reshape(-1))
    assert (corrected.status[:, word] == Status.UNCORRECTABLE).all()
    assert (left_by(code, masks) == as_int8(code, masks)).all()


def test_whatever_happens_to_one_byte_is_corrected(code):
    stored = encode(code, weights_of(code, code.block))
    changes = np.arange(1, 256, dtype=np.uint8)
    for byte in range(code.block):
        masks = np.zeros((255, code.block), dtype=np.uint8)
        masks[:, byte] = changes
        corrected = correct(code, np.tile(stored, 255) ^ masks.reshape(-1))
        assert (corrected.stored.reshape(255, -1) == stored).all()
        assert not (corrected.status == Status.UNCORRECTABLE).any()
        assert ((corrected.status != 0).sum(axis=1) + corrected.idle.sum(axis=1) == np.bitwise_count(changes)).all()


@pytest.mark.parametrize("length", range(2, 8))
def test_a_burst_of_up_to_seven_bits_is_corrected_wherever_it_begins(length):
    code = known_code("secded")
    bits = 3 * code.block * 8
    masks = np.zeros((bits - length, 3 * code.block), dtype=np.uint8)
    for start in range(bits - length):
        for bit in range(start, start + length):
            masks[start, bit // 8] |= 1 << bit % 8
    assert not left_by(code, masks).any()


def test_a_burst_of_eight_bits_over_the_border_of_two_bytes_is_not():
    code = known_code("secded")
    assert left_by(code, flips(code, [(4, 7), *((5, bit) for bit in range(7))])).any()


def test_more_blocks_than_are_worked_on_at_once():
    code = known_code("secded")
    weights = weights_of(code, 64 * 20_000 + 5)
    stored = encode(code, weights)
    bits = np.random.default_rng(7).choice(stored.size * 8, 20_000, replace=False)
    mask = np.zeros_like(stored)
    np.bitwise_xor.at(mask, bits // 8, (1 << bits % 8).astype(np.uint8))
    decoded = decode(code, stored ^ mask, weights.size)
    words = np.zeros((stored.size // 64, 8), dtype=int)
    np.add.at(words, (bits // 512, (bits // 8 + bits) % 8), 1)
    assert (decoded.status[words < 3] == words[words < 3]).all()
    assert (syndromes(code, stored ^ mask)[words == 0] == 0).all()
    assert (syndromes(code, stored ^ mask)[(words > 0) & (words < 4)] != 0).all()
    left = left_by(code, mask)[: weights.size]
    assert (decoded.weights.view(np.uint8) == weights.view(np.uint8) ^ left).all()
    assert 0 < np.count_nonzero(left) < 20_000


def test_bits_that_are_not_decoded_are_counted_and_cleared():
    code = known_code("dected", 6)
    stored = encode(code, weights_of(code, 64))
    mask = flips(code, [(40, 7), (41, 7), (56, 7), (3, 0)])
    corrected = correct(code, stored ^ mask)
    assert (corrected.stored == stored).all()
    assert corrected.idle.tolist() == [[1, 0, 0, 0, 0, 0, 0, 2]]
    assert corrected.status.tolist() == [[0, 0, 0, 1, 0, 0, 0, 0]]
    assert not left_by(code, mask).any()


def test_a_flip_named_twice_cancels_out():
    code = known_code("secded")
    left = left_by_flips(code, np.array([9000, 5, 9000, 13]))
    assert left.block.tolist() == [0, 17]
    assert left.status.sum() == Status.CORRECTED + Status.CORRECTED
    assert left.index.size == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(lambda code: encode(code, np.zeros(3, np.uint8)), "must be int8", id="type"),
        pytest.param(lambda code: encode(code, np.zeros((2, 2), np.int8)), "must be int8", id="shape"),
        pytest.param(lambda code: encode(code, np.array([0, 64], np.int8)), r"\[-64, 63\] to have 7 bits", id="large"),
        pytest.param(lambda code: encode(code, np.array([-65], np.int8)), r"\[-64, 63\] to have 7 bits", id="small"),
        pytest.param(lambda code: decode(code, np.zeros(63, np.uint8)), "multiple of 64", id="cut"),
        pytest.param(lambda code: decode(code, np.zeros(64, np.int8)), "not int8", id="signed"),
        pytest.param(lambda code: syndromes(code, np.zeros((1, 64), np.uint8)), "multiple of 64", id="blocks"),
        pytest.param(lambda code: left_by(code, np.zeros((64, 3), np.uint8)), "multiple of 64", id="masks"),
    ],
)
def test_what_is_no_weights_or_no_stored_bytes(call, words):
    with pytest.raises(ValueError, match=words):
        call(known_code("secded"))
