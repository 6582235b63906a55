"""What an attacker must flip to change weights that are stored under a code: the cheapest sets, by first-order gain.

One flip more than a word corrects is the least: it is then uncorrectable, all its bits stay as they are stored, and
the attacker gets every one of them that holds a weight; where fewer of a word's bits gain, check bits make up the
number. In a word that was hit before, a further flip may have the decoder correct a bit that is right: what it leaves
is looked up, by decoding. Every flip of a stored bit counts, whatever it changes. Who can flip some of the stored bits
alone, words and check bits alike, breaks the words that have enough of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.codes.code import WORDS, Code
from resq_deploy.codes.layout import Bytes, byte_of
from resq_deploy.codes.words import left_by
from resq_deploy.deployed.decoding import Group
from resq_deploy.twin.flip_gains import Flip

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class _Set:
    """Flips of one word that are made together: what they gain, and their bits, counted over the group."""

    gain: float
    bits: NDArray[np.int64]

    @property
    def price(self) -> tuple[float, int]:
        """What sets are ordered by: the gain of a flip, the best first."""
        return -self.gain / len(self.bits), int(self.bits[0])


def by_words(code: Code, by_bit: NDArray[Any]) -> NDArray[Any]:
    """Return what each stored bit has by words, [bytes, 8] -> [blocks, 8, block]."""
    place = np.arange(code.block)
    of_byte = byte_of(place[None, :], np.arange(WORDS)[:, None])  # of each word and place, [8, block]
    return by_bit.reshape(-1, code.block, 8)[:, of_byte, place % 8]


def breakable(group: Group, template: Mapping[str, Flags]) -> bool:
    """Return whether some word has more bits that can be flipped than its code corrects.

    Args:
        group: the weights, and the words they are stored in.
        template: which bits can be flipped in each tensor that holds words, shape [elements, bits].
    """
    return bool((_free(group, template).sum(axis=2) > group.code.corrects).any())


def _free(group: Group, template: Mapping[str, Flags] | None) -> Flags:
    """Return which bits can be flipped, by words, shape [blocks, 8, block]; bits that no word uses cannot."""
    allowed = np.full((len(group.values), 8), template is None)
    for name, bits in (template or {}).items():
        start, count = group.stored[name], bits.size // 8
        allowed[start : start + count] = bits.reshape(-1, 8)
    found: Flags = by_words(group.code, allowed)
    found[..., group.code.idle] = False
    return found


class CodedFlips:
    """The flips that gain most in weights of one group, given what is flipped already.

    Args:
        group: the weights, and the words they are stored in.
        slopes: derivative of the attacker's objective with respect to each value of each weight, shape [values]; a
            weight without one is of no interest.
        done: what is flipped.
        template: which bits can be flipped at all in each tensor that holds words, shape [elements, bits]; None for
            all.
    """

    def __init__(
        self,
        group: Group,
        slopes: Mapping[str, Floats],
        done: Sequence[Flip],
        template: Mapping[str, Flags] | None = None,
    ) -> None:
        self._group = group
        self._slope = np.zeros(len(group.values))
        for weight in group.weights:
            if weight.weight in slopes:
                self._slope[weight.start : weight.start + weight.count] = slopes[weight.weight]
        bits = [8 * (group.stored[flip.tensor] + flip.index) + flip.bit for flip in done if flip.tensor in group.stored]
        self._done = np.zeros(len(group.values), dtype=np.uint8)
        np.bitwise_xor.at(self._done, np.array(bits, dtype=np.int64) // 8, _bit(np.array(bits, dtype=np.int64)))
        self._hit = by_words(group.code, np.unpackbits(self._done[:, None], axis=1, bitorder="little").astype(bool))
        self._free = _free(group, template)
        self._now = self._numbers(group.values, self._done)
        self._sets = sorted([*self._fresh(), *self._further()], key=lambda each: each.price)

    def best(self, weight: str, count: int) -> tuple[Flip, ...]:
        """Return the flips of the sets with the largest gains a flip, among those in words that store a weight.

        Args:
            weight: its name.
            count: how many sets, each in a word of its own.
        """
        where = next(each for each in self._group.weights if each.weight == weight)
        size = 8 * self._group.code.block
        first, last = 8 * where.start // size, (8 * (where.start + where.count) - 1) // size
        chosen: dict[tuple[int, int], _Set] = {}
        for each in self._sets:
            block, bit = int(each.bits[0]) // size, int(each.bits[0])
            if first <= block <= last:
                chosen.setdefault((block, (bit // 8 + bit) % WORDS), each)
            if len(chosen) == count:
                break
        if not chosen:
            return ()
        bits = np.sort(np.concatenate([each.bits for each in chosen.values()]))
        return tuple(
            Flip(edit.tensor, int(index), int(bit))
            for edit in self._group.as_edits(bits)
            for index, bit in zip(edit.index, edit.bit, strict=True)
        )

    def _numbers(self, golden: Bytes, masks: Bytes) -> NDArray[np.int16]:
        """Return the weights that flips of stored bits leave, as numbers, given those without flips; same shape."""
        values = golden ^ self._group.as_read(left_by(self._group.code, masks))
        return (values if self._group.unsigned else values.view(np.int8)).astype(np.int16)

    def _fresh(self) -> list[_Set]:
        """Return the best set of each word that no flip has hit."""
        code, wanted = self._group.code, self._group.code.corrects + 1
        gains = np.zeros((len(self._slope), 8))
        for bit in range(code.weight_bits):
            mask = np.uint8((1 << bit) if bit < code.weight_bits - 1 or self._group.unsigned else -(1 << bit) & 0xFF)
            now = self._now.astype(np.uint8)
            flipped = (now ^ mask) if self._group.unsigned else (now ^ mask).view(np.int8)
            gains[:, bit] = self._slope * (flipped.astype(np.int16) - self._now)
        by_word = np.where(self._free, by_words(code, gains), -np.inf)
        clean = ~self._hit.any(axis=2)
        places = np.argpartition(by_word, -wanted, axis=2)[..., -wanted:]
        total = np.take_along_axis(by_word, places, axis=2).sum(axis=2)
        block, word = np.nonzero(clean & (total > 0))
        bits = self._address(block[:, None], word[:, None], places[block, word])
        return [_Set(float(gain), np.sort(each)) for gain, each in zip(total[block, word], bits, strict=True)]

    def _further(self) -> list[_Set]:
        """Return each single flip that gains in a word that was hit before."""
        code = self._group.code
        block, word = np.nonzero(self._hit.any(axis=2))
        if not len(block):
            return []
        at, place = np.nonzero((self._free & ~self._hit)[block, word])
        masks = self._done.reshape(-1, code.block)[block[at]].copy()
        bits = self._address(block[at], word[at], place)
        masks[np.arange(len(at)), bits // 8 % code.block] ^= _bit(bits)
        numbers = self._numbers(self._group.values.reshape(-1, code.block)[block[at]], masks)
        change = numbers - self._now.reshape(-1, code.block)[block[at]]
        gain = (change * self._slope.reshape(-1, code.block)[block[at]]).sum(axis=1)
        return [_Set(float(gain[one]), bits[[one]]) for one in np.flatnonzero(gain > 0)]

    def _address(
        self, block: NDArray[np.int64], word: NDArray[np.int64], place: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the addresses of bits of words, counted over the group."""
        return 8 * (block * self._group.code.block + byte_of(place, word)) + place % 8


def _bit(address: NDArray[np.int64]) -> Bytes:
    return (1 << address % 8).astype(np.uint8)
