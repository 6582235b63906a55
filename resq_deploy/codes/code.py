"""A linear code whose check bits lie in the spare bits of the weights it protects.

A weight of 7 (or 6) bits leaves one (two) bits of its byte spare. The weights of a tensor, flat and padded with zeros,
are cut into blocks of bytes, a block into 8 **words**: bit b of byte i belongs to word (b + i) mod 8, so that no word
holds two bits of one byte, and whatever happens to one byte is at most one flip a word. With i = 8 q + r, a word
holds each pair (q, b) exactly once, at r = (w - b) mod 8: its bits are numbered p = 8 q + b, alike in all eight words.

A code is then one parity-check column for each p. The syndrome of a word is the sum over GF(2) of the columns of the
bits that are set; it is 0 for code words, and since the code is linear it depends on the flips alone, not on what is
stored. (In-place zero-space ECC: Guan et al., NeurIPS 2019, who keep a (64, 57) Hamming code in 8-byte words.)
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

WORDS = 8
"""Words of a block, one a bit of a byte."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Code:
    """A code over one word.

    Attributes:
        name: what it is called.
        weight_bits: low bits of a byte that hold a weight, two's complement; those above are spare.
        check_bits: bits of a syndrome.
        corrects: flips of one word that are corrected; one more is detected.
        columns: for each bit p = 8 q + b of a word, its parity-check column as an integer; 0: the bit is not decoded
            and always 0.
    """

    name: str
    weight_bits: int
    check_bits: int
    corrects: int
    columns: tuple[int, ...]

    @property
    def block(self) -> int:
        """Bytes of a block, which are bits of a word."""
        return len(self.columns)

    @property
    def data_mask(self) -> int:
        """The bits of a byte that hold the weight."""
        return (1 << self.weight_bits) - 1

    @property
    def largest(self) -> int:
        """The largest weight; the least is `-largest - 1`."""
        return int(self.data_mask >> 1)

    @functools.cached_property
    def data(self) -> NDArray[np.intp]:
        """Bits of a word that hold weights, ascending."""
        return np.flatnonzero(np.arange(self.block) % 8 < self.weight_bits)

    @functools.cached_property
    def checks(self) -> NDArray[np.intp]:
        """Bits of a word that hold the code, ascending: spare bits with a column, as many as a syndrome has."""
        return np.flatnonzero((np.arange(self.block) % 8 >= self.weight_bits) & (np.array(self.columns) != 0))

    @functools.cached_property
    def idle(self) -> NDArray[np.intp]:
        """Spare bits of a word that no check reads, ascending; they are stored as 0."""
        return np.flatnonzero(np.array(self.columns) == 0)

    @functools.cached_property
    def parity_check(self) -> NDArray[np.bool_]:
        """The parity-check matrix H, shape [check_bits, block]: bit j of each column."""
        return (np.array(self.columns) >> np.arange(self.check_bits)[:, None] & 1).astype(bool)

    @functools.cached_property
    def check_of_syndrome(self) -> NDArray[np.bool_]:
        """The matrix A, [check_bits, check_bits], that gives the check bits for the syndrome s of the data bits: A s.

        With H = [H_d | H_c] a code word has H_d d = H_c c, so that A is the inverse of H_c over GF(2).
        """
        return inverse(self.parity_check[:, self.checks])

    @functools.cached_property
    def leaders(self) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """What decoding takes each syndrome for: its coset leader, found by trying every correctable set of flips.

        Returns:
            Flipped bits of the word, int16 [2^check_bits, corrects], -1 for none; and how many there are, uint8
            [2^check_bits], 255 for a syndrome of none of these sets: the word cannot be corrected.
        """
        size = 1 << self.check_bits
        flips = np.full((size, self.corrects), -1, dtype=np.int16)
        count = np.full(size, 255, dtype=np.uint8)
        columns = np.array(self.columns)
        decoded = np.flatnonzero(columns)
        sums, sets = np.zeros(1, dtype=np.int64), np.empty((1, 0), dtype=np.int16)
        for errors in range(self.corrects + 1):
            flips[sums, :errors] = sets
            count[sums] = errors
            sums, sets = _one_more(sums, sets, decoded, columns)
        return flips, count


def _one_more(
    sums: NDArray[np.int64], sets: NDArray[np.int16], decoded: NDArray[np.intp], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """Return the sets of flips with one more bit, each set once, and the sums of their columns."""
    set_of, bit = np.divmod(np.arange(len(sums) * len(decoded)), len(decoded))
    kept = np.ones(len(set_of), dtype=bool) if sets.shape[1] == 0 else decoded[bit] > sets[set_of, -1]
    set_of, added = set_of[kept], decoded[bit[kept]]
    return sums[set_of] ^ columns[added], np.column_stack([sets[set_of], added.astype(np.int16)])


def inverse(matrix: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the inverse of a square matrix over GF(2), by Gauss and Jordan.

    Raises:
        ValueError: if it has none.
    """
    size = len(matrix)
    work = np.concatenate([matrix, np.eye(size, dtype=bool)], axis=1)
    for place in range(size):
        below = np.flatnonzero(work[place:, place])
        if not below.size:
            raise ValueError("the matrix is singular")
        work[[place, place + below[0]]] = work[[place + below[0], place]]
        others = work[:, place].copy()
        others[place] = False
        work[others] ^= work[place]
    return work[:, size:]
