"""Bit arithmetic on stored tensors.

A stored tensor is its bytes, little-endian and row-major as ONNX keeps `raw_data`. Element `index` of a type
`width` bits wide begins at bit `index * width` of that string of bits, the least significant bit first; packed
4-bit types (low nibble first) follow the same rule. One address therefore serves every type.
"""

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.fault import Edit, Op

Bytes = NDArray[np.uint8]
Addresses = NDArray[np.int64]


def bit_addresses(index: Addresses, bit: Addresses, width: int) -> Addresses:
    """Return the address of each (element, bit) pair within a tensor's string of bits."""
    return index * width + bit


def change_mask(stored: Bytes, edit: Edit, width: int) -> Bytes:
    """Return the XOR mask, one byte a stored byte, that an edit means for these stored bytes.

    A flip of a bit named twice cancels out, as it would in memory; `set0` and `set1` change only the bits that
    have the other value; `word` replaces whole elements.

    Args:
        stored: the tensor's bytes, shape [bytes].
        edit: what to do, to which elements and bits.
        width: bits of one element.
    """
    mask = np.zeros_like(stored)
    if edit.op is Op.WORD:
        for position in range(width):
            addresses = bit_addresses(edit.index, np.full_like(edit.index, position), width)
            wanted = (edit.value >> np.uint64(position)) & np.uint64(1)
            _set_bits(stored, mask, addresses, wanted.astype(np.uint8))
        return mask
    addresses = bit_addresses(edit.index, edit.bit, width)
    if edit.op is Op.FLIP:
        np.bitwise_xor.at(mask, addresses >> 3, (1 << (addresses & 7)).astype(np.uint8))
    else:
        _set_bits(stored, mask, addresses, np.full(addresses.shape, int(edit.op is Op.SET1), dtype=np.uint8))
    return mask


def _set_bits(stored: Bytes, mask: Bytes, addresses: Addresses, wanted: Bytes) -> None:
    """Add to `mask` the bits at `addresses` whose stored value is not the wanted one."""
    shift = (addresses & 7).astype(np.uint8)
    differs = ((stored[addresses >> 3] >> shift) & 1) ^ wanted
    np.bitwise_or.at(mask, addresses >> 3, (differs << shift).astype(np.uint8))


def bit_positions(mask: Bytes) -> Addresses:
    """Return the addresses of the bits that are set in a mask, ascending."""
    return np.flatnonzero(np.unpackbits(mask, bitorder="little")).astype(np.int64)


def count_bits(mask: Bytes) -> int:
    """Return how many bits are set in a mask."""
    return int(np.bitwise_count(mask).sum(dtype=np.int64))
