"""Random numbers from raw generator words.

numpy promises that a bit generator's words stay the same between versions, but not that its distributions do.
Faults must be the same years later, so everything here is derived from the words alone.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_WORD_RANGE = 1 << 64
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def stream(purpose: str, *parts: object, counter: int = 0) -> np.random.Philox:
    """Return a Philox bit generator whose key is the SHA-256 of a purpose and its parts.

    Args:
        purpose: what the numbers are for; streams of different purposes never meet.
        parts: seed, chip, tensor name ...
        counter: start block, to give one key several independent streams.
    """
    text = "\0".join([purpose, *map(str, parts)])
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Philox(key=key, counter=counter << 192)


def integers(bits: np.random.Philox, bound: int, count: int) -> NDArray[np.int64]:
    """Return `count` independent integers, uniform on [0, bound), free of modulo bias by rejection."""
    limit = _WORD_RANGE - _WORD_RANGE % bound
    kept: list[NDArray[np.uint64]] = []
    have = 0
    while have < count:
        words = bits.random_raw(count - have)
        if limit < _WORD_RANGE:
            words = words[words < np.uint64(limit)]
        kept.append(words)
        have += len(words)
    return (np.concatenate(kept or [np.empty(0, np.uint64)]) % np.uint64(bound)).astype(np.int64)


def words(bits: np.random.Philox, width: int, count: int) -> NDArray[np.uint64]:
    """Return `count` independent patterns of `width` bits, uniform."""
    return bits.random_raw(count) >> np.uint64(64 - width)


def uniforms(bits: np.random.Philox, count: int) -> NDArray[np.float64]:
    """Return `count` independent numbers, uniform on [0, 1), with 53 bits each."""
    return (bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def placed(purpose: str, *parts: object, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the number that belongs to each of some places, uniform on [0, 1) with 53 bits, whatever others are asked.

    It is SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), begun at a
    word made of the purpose and its parts, whose outputs can be read in any order.

    Args:
        purpose: what the numbers are for, as for `stream`.
        parts: seed, tensor name ...
        at: the places, 0 or more, of any shape.
    """
    start = stream("placed", purpose, *parts).random_raw(1)[0]
    word = np.uint64(start) + (at.astype(np.uint64) + np.uint64(1)) * _GAMMA
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    word ^= word >> np.uint64(31)
    return np.asarray((word >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def sample(bits: np.random.Philox, population: int, count: int) -> NDArray[np.int64]:
    """Draw `count` different integers from [0, population), in random order.

    The order belongs to the stream: a smaller sample is a prefix of a larger one. Up to one half of the population
    is drawn by rejecting repeats; what is beyond is a shuffle of the numbers left, at the cost of the whole population.

    Raises:
        ValueError: if more is asked for than the population holds.
    """
    if count > population:
        raise ValueError(f"cannot draw {count} of {population} without replacement")
    half = population // 2
    drawn = _distinct(bits, population, min(count, half))
    if count <= half:
        return drawn
    left = np.setdiff1d(np.arange(population, dtype=np.int64), drawn)
    shuffled = left[np.argsort(bits.random_raw(len(left)), kind="stable")]
    return np.concatenate([drawn, shuffled])[:count]


def _distinct(bits: np.random.Philox, population: int, count: int) -> NDArray[np.int64]:
    """Return the first `count` different integers of a stream, in order of first appearance."""
    drawn = integers(bits, population, count)
    while True:
        _, first = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(first)]
        if len(drawn) >= count:
            return drawn
        drawn = np.concatenate([drawn, integers(bits, population, count - len(drawn))])
