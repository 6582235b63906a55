"""Sentences of a small grammar, and what each word is in them.

Half of the nouns are verbs as well, and some of them adjectives: which one is meant, only the words around tell.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

LENGTH = 16
"""Words of a sentence at most; shorter ones are filled up with word 0."""

TAGS = ("determiner", "adjective", "noun", "verb", "adverb", "preposition", "stop")

_BOTH = ("watch", "light", "guard", "drive", "store", "check", "plan", "match")
_WORDS = {
    "determiner": ("the", "a", "every", "this", "no"),
    "adjective": ("small", "old", "quiet", "broken", "new", "light", "square", "quick"),
    "noun": ("engine", "road", "sensor", "river", "bridge", "square", "signal", "brake", *_BOTH),
    "verb": ("sees", "meets", "passes", "stops", "holds", *_BOTH),
    "adverb": ("often", "here", "slowly", "again", "never"),
    "preposition": ("near", "under", "with", "behind", "past"),
    "stop": (".",),
}
VOCABULARY = ("", *sorted({word for words in _WORDS.values() for word in words}))
"""All words by number; the first is the filling."""

_FILLING = -1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sentences:
    """Sentences with what is right about them.

    Attributes:
        tokens: numbers of words in `VOCABULARY`, int64 [N, LENGTH].
        tags: numbers in `TAGS`, -1 for the filling, int64 [N, LENGTH].
    """

    tokens: NDArray[np.int64]
    tags: NDArray[np.int64]


def make_sentences(count: int, seed: int) -> Sentences:
    """Draw sentences.

    Args:
        count: how many.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    numbers = {word: number for number, word in enumerate(VOCABULARY)}
    tokens = np.zeros((count, LENGTH), np.int64)
    tags = np.full((count, LENGTH), _FILLING, np.int64)
    for row in range(count):
        kinds = [*_sentence(rng)]
        while len(kinds) > LENGTH:
            kinds = [*_sentence(rng)]
        for place, kind in enumerate(kinds):
            words = _WORDS[kind]
            tokens[row, place] = numbers[words[rng.integers(len(words))]]
            tags[row, place] = TAGS.index(kind)
    return Sentences(tokens=tokens, tags=tags)


def _sentence(rng: np.random.Generator) -> Iterator[str]:
    yield from _noun_phrase(rng)
    if rng.random() < 0.3:
        yield "adverb"
    yield "verb"
    if rng.random() < 0.7:
        yield from _noun_phrase(rng)
    if rng.random() < 0.3:
        yield "adverb"
    yield "stop"


def _noun_phrase(rng: np.random.Generator) -> Iterator[str]:
    if rng.random() < 0.8:
        yield "determiner"
    for _ in range(rng.integers(0, 3)):
        yield "adjective"
    yield "noun"
    if rng.random() < 0.3:
        yield "preposition"
        yield from _noun_phrase(rng)
