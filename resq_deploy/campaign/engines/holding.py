"""Which golden values to hold of all images, where memory has no room for all values.

A fault is fed with what its segment reads and gives; what is not held of that is computed once more, behind the nearest
values that are. What that costs can be told for any choice of values. So they are chosen one after the other, by how
much each of their bytes saves: the greedy way with a knapsack, which saves 90 % or so of what the best choice does.
"""

from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

from resq_deploy.campaign.engines.segments import KINDS, Kind

Held = Set[tuple[int, Kind]]
"""Segments, by number, with what is held of each."""


class Price(NamedTuple):
    """What a segment's values cost and take.

    Attributes:
        seconds: of running it once.
        faults: how many of all faults lie in it, about.
        reads: the earlier segments that it reads from.
        border: bytes of what later ones read.
        inner: bytes of the others.
    """

    seconds: float
    faults: float
    reads: Sequence[int]
    border: int
    inner: int

    def size(self, kind: Kind) -> int:
        """Return the bytes of one kind."""
        return self.border if kind == "border" else self.inner


def chosen(prices: Sequence[Price], room: int) -> Held:
    """Return what to hold of each batch of images.

    Args:
        prices: of the segments, in their order; sizes are those of one batch.
        room: bytes for a batch.
    """
    items: list[tuple[int, Kind]] = [(place, kind) for place in range(len(prices)) for kind in KINDS]
    held = {item for item in items if not _size(prices, [item])}
    # All of a segment at once, too: what a fault asks for is computed together, if any of it has to be.
    choices = [{item} for item in items] + [{(place, kind) for kind in KINDS} for place in range(len(prices))]
    while True:
        now = _seconds_a_fault(prices, held)
        best, most = held, 0.0
        for choice in choices:
            more = choice - held
            size = _size(prices, more)
            if more and size <= room and (saved := (now - _seconds_a_fault(prices, held | more)) / size) > most:
                best, most = held | more, saved
        if best is held:
            return held
        room -= _size(prices, best - held)
        held = best


def _size(prices: Sequence[Price], items: Iterable[tuple[int, Kind]]) -> int:
    return sum(prices[place].size(kind) for place, kind in items)


def _seconds_a_fault(prices: Sequence[Price], held: Held) -> float:
    """Return what the golden values of a fault cost on a batch, over all faults, up to a factor."""
    return sum(
        price.faults * sum(prices[place].seconds for place in _run(prices, held, number))
        for number, price in enumerate(prices)
    )


def _run(prices: Sequence[Price], held: Held, number: int) -> Iterable[int]:
    """Return the segments that are run for the values that faults in one of them ask for."""
    ready = (number, "border") in held and (number, "inner") in held
    found = set() if ready else {number}
    waiting = list(prices[number].reads)
    while waiting:
        place = waiting.pop()
        if place not in found and (place, "border") not in held:
            found.add(place)
            waiting += prices[place].reads
    return found
