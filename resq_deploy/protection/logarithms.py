"""Tables by which the decoder of `bch.dected` finds up to two flips of a word: products are sums of logarithms."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from resq_deploy.codes.bch import half_roots, powers
from resq_deploy.codes.code import Code

NONE, UNUSED = 255, 254
"""Positions: none, the word is kept; and none, though there is another flip to correct."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logarithms:
    """Tables of the algebra over GF(2^m), n = 2^m - 1 elements of which are not 0.

    Attributes:
        log: logarithm of each element; of 0, any. [2^m]
        multiple: for both flips, what they are in units of s1, as logarithm; n: the element 0, and n + 1: the word is
            hopeless, n + 2: there is no such flip. [2 (n + 1) + 4]: for s1 not 0 first those of an even syndrome, by
            the logarithm of s3 / s1^3 (n: s3 is 0), then those of an odd one; for s1 = 0 those of an even and an odd
            one with s3 = 0 and with another.
        position: bit of a word for a logarithm, n for the element 0. [n + 3]
    """

    log: NDArray[np.integer]
    multiple: tuple[NDArray[np.integer], NDArray[np.integer]]
    position: NDArray[np.integer]


def logarithms(code: Code) -> Logarithms:
    """Return the tables of a code of `bch.dected`."""
    m = code.weight_bits
    elements, units = powers(m), (1 << m) - 1
    hopeless, unused = units + 1, units + 2
    log = np.zeros(units + 1, dtype=np.int64)
    log[list(elements)] = np.arange(units)
    log_or_zero = log.copy()
    log_or_zero[0] = units
    roots = half_roots(m)[[1 ^ ratio for ratio in (*elements, 0)]]
    first = np.where(roots < 0, hopeless, log_or_zero[roots])
    second = np.where(roots < 0, hopeless, log_or_zero[roots ^ 1])
    single = np.where(np.arange(units + 1) == 0, 0, hopeless)
    position = np.full(units + 3, NONE)
    for bit, column in enumerate(code.columns):
        if column:
            position[log_or_zero[column & units]] = bit
    position[unused] = UNUSED
    return Logarithms(
        log=log,
        multiple=(
            np.concatenate([first, single, [unused, units, hopeless, hopeless]]),
            np.concatenate([second, np.full(units + 1, unused), [unused, unused, unused, unused]]),
        ),
        position=position,
    )
