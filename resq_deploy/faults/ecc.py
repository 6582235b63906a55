"""Memory with error-correcting codes, laid over any fault model."""

import numpy as np

from resq_deploy.faults.bits import Bytes

_WORD_BYTES = 8


def secded(mask: Bytes) -> tuple[Bytes, bool]:
    """Apply single-error correction and double-error detection to the changed bits of one tensor.

    Words are 64 bits, counted from the tensor's first byte. One changed bit in a word is corrected, two are detected.
    Three and more are passed on as they are: the code may miscorrect them, but does not reliably detect them. Flips
    of the check bits themselves are not modelled.

    Args:
        mask: XOR mask of the tensor's stored bytes, shape [bytes].

    Returns:
        What reaches the reader, shape [bytes], and whether any word was detected as broken.
    """
    padded = np.zeros(-(-len(mask) // _WORD_BYTES) * _WORD_BYTES, dtype=np.uint8)
    padded[: len(mask)] = mask
    words = padded.reshape(-1, _WORD_BYTES)
    changed = np.bitwise_count(words).sum(axis=1)
    words[changed == 1] = 0
    return words.reshape(-1)[: len(mask)].copy(), bool((changed == 2).any())
