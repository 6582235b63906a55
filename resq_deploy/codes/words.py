"""Encoding and decoding of stored bytes, and what a set of flips leaves.

Everything works on bit planes (`layout`), eight words at a time, and on a few thousand blocks at once, so that memory
beyond arguments and results stays at some megabytes. Only words with a non-zero syndrome are looked at one by one.
"""

import dataclasses
import enum
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from resq_deploy.codes.code import WORDS, Code
from resq_deploy.codes.layout import Bytes, byte_of, from_planes, to_planes

_CHUNK = 1 << 13  # blocks


class Status(enum.IntEnum):
    """What decoding found of a word."""

    SOUND = 0
    CORRECTED = 1
    UNCORRECTABLE = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected:
    """Stored bytes after correction.

    Attributes:
        stored: the bytes, uint8 [bytes]; an uncorrectable word keeps its bits, those that are not decoded are 0.
        status: a `Status` for each word, uint8 [bytes / block, 8].
        idle: how many bits that are not decoded were set, for each word, uint8 [bytes / block, 8]: harmless flips.
    """

    stored: Bytes
    status: Bytes
    idle: Bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoded:
    """Weights after decoding.

    Attributes:
        weights: int8 [weights].
        status: a `Status` for each word, uint8 [blocks, 8].
    """

    weights: NDArray[np.int8]
    status: Bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Left:
    """What flips leave behind decoding.

    Attributes:
        index: weights that are changed, ascending, int64 [changed].
        change: XOR mask of each changed weight as the int8 it is decoded to, uint8 [changed], never 0.
        block: blocks that were hit, ascending, int64 [hit].
        status: a `Status` for each word of these, uint8 [hit, 8].
    """

    index: NDArray[np.int64]
    change: Bytes
    block: NDArray[np.int64]
    status: Bytes


def stored_size(code: Code, weights: int) -> int:
    """Return in how many bytes so many weights are stored: whole blocks."""
    return -(-weights // code.block) * code.block


def encode(code: Code, weights: NDArray[np.int8]) -> Bytes:
    """Return the bytes that store some weights: uint8 [stored_size], padded with zeros.

    Args:
        code: the code.
        weights: int8 [weights], within what its weight bits hold.

    Raises:
        ValueError: if they are not int8, not flat, or too large.
    """
    if weights.dtype != np.int8 or weights.ndim != 1:
        raise ValueError(f"weights must be int8 [weights], not {weights.dtype} {list(weights.shape)}")
    low, high = -code.largest - 1, code.largest
    if weights.size and not low <= int(weights.min()) <= int(weights.max()) <= high:
        raise ValueError(f"weights must lie in [{low}, {high}] to have {code.weight_bits} bits")
    stored = np.zeros(stored_size(code, weights.size), dtype=np.uint8)
    stored[: weights.size] = weights.view(np.uint8) & np.uint8(code.data_mask)
    for _, blocks in _chunks(code, stored):
        planes = to_planes(blocks)
        syndrome = _sums(code.parity_check, planes)
        planes[code.checks] = _sums(code.check_of_syndrome, syndrome)
        blocks[:] = from_planes(planes)
    return stored


def syndromes(code: Code, stored: Bytes) -> NDArray[np.uint16]:
    """Return the syndrome of each word, uint16 [bytes / block, 8]; 0 where it is sound.

    Args:
        code: the code.
        stored: uint8 [bytes], whole blocks.

    Raises:
        ValueError: if these are not whole blocks of bytes.
    """
    _check_stored(code, stored)
    found = np.empty((len(stored) // code.block, WORDS), dtype=np.uint16)
    for here, blocks in _chunks(code, stored):
        found[here] = _as_numbers(_sums(code.parity_check, to_planes(blocks)))
    return found


def correct(code: Code, stored: Bytes) -> Corrected:
    """Return stored bytes with all correctable words corrected.

    Args:
        code: the code.
        stored: uint8 [bytes], whole blocks; not changed.

    Raises:
        ValueError: if these are not whole blocks of bytes.
    """
    _check_stored(code, stored)
    result = stored.copy()
    shape = (len(stored) // code.block, WORDS)
    status, idle = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    for here, blocks in _chunks(code, result):
        planes = to_planes(blocks)
        _clear_idle(code, blocks, planes, idle[here])
        _correct_blocks(code, blocks, _sums(code.parity_check, planes), status[here])
    return Corrected(stored=result, status=status, idle=idle)


def decode(code: Code, stored: Bytes, count: int | None = None) -> Decoded:
    """Return the weights that some bytes store.

    A weight is rebuilt from its own bits, sign included, never from the spare ones.

    Args:
        code: the code.
        stored: uint8 [bytes], whole blocks.
        count: how many weights there are; None: as many as bytes.

    Raises:
        ValueError: if these are not whole blocks of bytes.
    """
    corrected = correct(code, stored)
    weights = _sign_extended(code, corrected.stored[:count])
    return Decoded(weights=weights.view(np.int8), status=corrected.status)


def left_by(code: Code, masks: Bytes) -> Bytes:
    """Return what flips leave in the decoded weights, as XOR masks of the int8 they are decoded to.

    The code is linear: what decoding does to flips does not depend on what is stored, and the weights decoded from
    `stored ^ masks` are those decoded from sound `stored`, XOR the result.

    Args:
        code: the code.
        masks: XOR masks of the stored bytes, uint8 [..., bytes], whole blocks.

    Returns:
        uint8, shape of `masks`.

    Raises:
        ValueError: if these are not whole blocks of bytes.
    """
    if masks.ndim == 0 or masks.shape[-1] % code.block:
        raise ValueError(f"masks must be uint8 [..., bytes], bytes a multiple of {code.block}")
    corrected = correct(code, np.ascontiguousarray(masks).reshape(-1))
    return _sign_extended(code, corrected.stored).reshape(masks.shape)


def left_by_flips(code: Code, bits: NDArray[np.int64]) -> Left:
    """Return what flips of single stored bits leave, at a cost that grows with the flips and not with the tensor.

    Args:
        code: the code.
        bits: addresses of the flipped bits, 8 byte + bit, in any order, int64 [flips]; one named twice cancels out.
    """
    block, place = np.unique(bits // (8 * code.block), return_inverse=True)
    masks = np.zeros((len(block), code.block), dtype=np.uint8)
    within = bits // 8 % code.block
    np.bitwise_xor.at(masks, (place, within), (1 << (bits % 8)).astype(np.uint8))
    corrected = correct(code, masks.reshape(-1))
    change = _sign_extended(code, corrected.stored).reshape(masks.shape)
    hit, byte = np.nonzero(change)
    return Left(index=block[hit] * code.block + byte, change=change[hit, byte], block=block, status=corrected.status)


def _check_stored(code: Code, stored: Bytes) -> None:
    if stored.dtype != np.uint8 or stored.ndim != 1 or len(stored) % code.block:
        raise ValueError(
            f"stored bytes must be uint8 [bytes], a multiple of {code.block} of them, "
            f"not {stored.dtype} {list(stored.shape)}"
        )


def _chunks(code: Code, stored: Bytes) -> Iterator[tuple[slice, Bytes]]:
    """Yield some thousand blocks at a time: which of all, and a view of them, [N, block]."""
    blocks = stored.reshape(-1, code.block)
    for start in range(0, len(blocks), _CHUNK):
        here = slice(start, start + _CHUNK)
        yield here, blocks[here]


def _sums(matrix: NDArray[np.bool_], planes: Bytes) -> Bytes:
    """Return the product of a matrix over GF(2) with bit planes, [J, P] x [P, N] -> [J, N]."""
    product = np.empty((len(matrix), planes.shape[1]), dtype=np.uint8)
    for row, chosen in enumerate(matrix):
        np.bitwise_xor.reduce(planes[chosen], axis=0, out=product[row])
    return product


def _as_numbers(planes: Bytes) -> NDArray[np.uint16]:
    """Return syndromes as numbers for their bit planes, [check_bits, N] -> uint16 [N, 8]."""
    numbers = np.zeros((planes.shape[1], WORDS), dtype=np.uint16)
    for place, plane in enumerate(planes):
        numbers |= np.unpackbits(plane[:, None], axis=1, bitorder="little").astype(np.uint16) << np.uint16(place)
    return numbers


def _clear_idle(code: Code, blocks: Bytes, planes: Bytes, idle: Bytes) -> None:
    """Set the bits of blocks that are not decoded to 0, in place, and count for each word how many were not."""
    place, block = np.nonzero(planes[code.idle])
    for word in range(WORDS):
        some = planes[code.idle[place], block] >> np.uint8(word) & np.uint8(1) == 1
        bit, here = code.idle[place[some]], block[some]
        _flip(blocks, here, bit, np.full_like(bit, word))
        np.add.at(idle[:, word], here, np.uint8(1))


def _flip(blocks: Bytes, block: NDArray[np.intp], bit: NDArray[np.integer], word: NDArray[np.intp]) -> None:
    """Flip bits of words in place; the words of a block share its bytes."""
    np.bitwise_xor.at(blocks, (block, byte_of(bit, word)), (1 << (bit % 8)).astype(np.uint8))


def _correct_blocks(code: Code, blocks: Bytes, syndrome: Bytes, status: Bytes) -> None:
    """Correct blocks in place, and set the status of their words, given the bit planes of their syndromes."""
    suspect = np.flatnonzero(np.bitwise_or.reduce(syndrome, axis=0))
    if not suspect.size:
        return
    numbers = _as_numbers(syndrome[:, suspect])
    flips, count = code.leaders
    broken, word = np.nonzero(numbers)
    block, number = suspect[broken], numbers[broken, word]
    hopeless = count[number] > code.corrects
    status[block, word] = np.where(hopeless, Status.UNCORRECTABLE, Status.CORRECTED)
    for bit in flips[number].T:
        some = bit >= 0
        _flip(blocks, block[some], bit[some], word[some])


def _sign_extended(code: Code, stored: Bytes) -> Bytes:
    """Return bytes with their spare bits replaced by the sign, the highest bit of the weight."""
    spare = 8 - code.weight_bits
    return ((stored << np.uint8(spare)).view(np.int8) >> np.int8(spare)).view(np.uint8)
