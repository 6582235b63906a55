"""Permutations and shares that never change: not with the run's seed, not with the version of numpy."""

import numpy as np
from numpy.typing import NDArray


def permutation(count: int, seed: int) -> NDArray[np.int64]:
    """Return a permutation of 0 ... count-1 that depends on `seed` (>= 0) alone.

    It sorts raw PCG64 words: numpy guarantees those across its versions, but not what `Generator.permutation`
    makes of them.
    """
    words = np.random.PCG64(seed).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64)


def split_off(
    labels: NDArray[np.int64], share: float, seed: int, groups: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide the indices of `labels` into (rest, part), class by class, both in a shuffled order.

    The part holds `share` of the groups of every class, rounded, at least one; a class of a single group stays in the
    rest.

    Args:
        labels: classes, shape [N].
        share: of every class.
        seed: of the order.
        groups: images of a group stay together, shape [N]; none is in two classes. None: each is by itself.
    """
    order = permutation(len(labels), seed)
    taken = np.zeros(len(labels), dtype=np.bool_)
    shuffled = labels[order]
    member = order if groups is None else groups[order]
    for label in np.unique(labels):
        places = np.flatnonzero(shuffled == label)
        members = member[places]
        distinct = list(dict.fromkeys(members.tolist()))  # in the order in which they come
        if len(distinct) > 1:
            taken[places[np.isin(members, distinct[: max(1, round(share * len(distinct)))])]] = True
    return order[~taken], order[taken]
