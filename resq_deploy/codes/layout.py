"""Where the bits of a word lie in its block: bytes to bit planes and back.

The plane of bit p is one byte a block, whose bit w is that bit of word w. For eight bytes r = 0 ... 7 of one row q,
planes come from transposing their 8 x 8 bits - byte b then holds bit b of all, byte r at bit r - and turning byte b
by b bits, which brings byte r = (w - b) mod 8 to bit w. Both are done on eight bytes at a time as one integer
(transposition: H. S. Warren, Hacker's Delight, 2nd ed., 7-3).
"""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_Rows = NDArray[np.uint64]

_SWAPS = ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))
_TURNS = ((1, 0xFF00FF00FF00FF00), (2, 0xFFFF0000FFFF0000), (4, 0xFFFFFFFF00000000))  # bytes b with this bit of b


def to_planes(blocks: Bytes) -> Bytes:
    """Return the bit planes of some blocks, [N, block] -> [block, N]."""
    rows = _transposed(np.ascontiguousarray(blocks).view("<u8"))
    return np.ascontiguousarray(_turned(rows).astype("<u8", copy=False).view(np.uint8).T)


def from_planes(planes: Bytes) -> Bytes:
    """Return the blocks that have some bit planes, [block, N] -> [N, block]."""
    rows = _turned(np.ascontiguousarray(planes.T).view("<u8"), back=True)
    return _transposed(rows).astype("<u8", copy=False).view(np.uint8)


def byte_of(bit: NDArray[np.integer], word: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return in which byte of its block bit p = 8 q + b of word w lies (as bit b): 8 q + (w - b) mod 8."""
    position, within = bit.astype(np.int64), bit.astype(np.int64) % 8
    return position - within + (word - within) % 8


def _transposed(rows: _Rows) -> _Rows:
    """Return 8 x 8 bits transposed, each eight bytes one integer, the first byte the lowest."""
    result = rows.copy()
    for shift, mask in _SWAPS:
        swapped = (result ^ (result >> np.uint64(shift))) & np.uint64(mask)
        result ^= swapped ^ (swapped << np.uint64(shift))
    return result


def _turned(rows: _Rows, *, back: bool = False) -> _Rows:
    """Return rows of eight bytes with the bits of byte b turned upwards by b, or back."""
    result = rows.copy()
    for places, chosen in _TURNS:
        left = 8 - places if back else places
        low = np.uint64(0x0101010101010101 * ((1 << left) - 1))  # where bits that leave a byte at its top come in
        turned = ((result << np.uint64(left)) & ~low) | ((result >> np.uint64(8 - left)) & low)
        result ^= (result ^ turned) & np.uint64(chosen)
    return result
