"""What flips do that gather in one word, or in two copies of a value, between two scrubs of the storage.

Each stored bit flips as a Poisson process of rate r an hour, all independently. A word of n bits gets a Poisson number
of flips within T hours, of mean m = n r T; a code that corrects k of them fails at k + 1:

    P(T) = 1 - exp(-m) sum_{i <= k} m^i / i!

Where storage is scrubbed every T hours - healed in place, or written anew from a sound copy - every stretch begins
without flips, and W words fail W P(T) / T times an hour: to first order W (n r)^(k + 1) T^k / (k + 1)!, so that with
one flip corrected half the time means half the failures. (Deterministic scrubbing: Saleh, Serrano and Patel,
"Reliability of scrubbing recovery-techniques for memory systems", IEEE Trans. Reliability 39(1), 1990.) Without, it is
W P(L) / L over a lifetime of L hours. A value that is stored three times is lost once two copies of it were hit; copies
of w bits are, each with p = 1 - exp(-w r T), so that P(T) = 3 p^2 - 2 p^3.

A bit that flips twice is right again, and counts as two flips all the same; two copies may be hit in ways that leave
the vote right. Both make the figures upper bounds of what is wrong.
"""

import math

from scipy.special import gammainc

HOURS = 1e9
"""Failures in time (FIT) are failures in so many hours."""


def word_fails(bits: int, corrects: int, rate: float, hours: float) -> float:
    """Return the probability that more flips meet in a word than its code corrects.

    Args:
        bits: bits of the word that its code reads.
        corrects: flips that are corrected.
        rate: flips of a bit an hour.
        hours: how long flips gather.
    """
    return float(gammainc(corrects + 1, bits * rate * hours))


def vote_fails(bits: int, rate: float, hours: float) -> float:
    """Return the probability that two copies of three, or all, are hit.

    Args:
        bits: bits of one copy of a value.
        rate: flips of a bit an hour.
        hours: how long flips gather.
    """
    hit = -math.expm1(-bits * rate * hours)
    return hit * hit * (3.0 - 2.0 * hit)
