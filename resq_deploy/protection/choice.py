"""Which of some tensors to protect, and how: for the fewest bytes, or for the least risk that some bytes can buy."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """A stored tensor that can be protected.

    Attributes:
        tensor: its name.
        role: what it is for.
        bits: how many it stores.
        gain: what protection takes away: its part of the expected SDC-1 over bit error rate.
        vote: bytes that a vote adds; None where it cannot be voted.
        code: bytes that a code adds, besides those of the decoder; None where it cannot be coded.
    """

    tensor: str
    role: str = ""
    bits: int = 0
    gain: float = 0.0
    vote: int | None = None
    code: int | None = None

    def cost(self, *, decoder: bool) -> int | None:
        """Return the bytes that protecting it adds; None where it cannot be, without a decoder in the file."""
        costs = [cost for cost in (self.vote, self.code if decoder else None) if cost is not None]
        return min(costs, default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Which tensors are coded and which are voted, and how many bytes that adds."""

    coded: frozenset[str]
    voted: frozenset[str]
    bytes_added: int


def smallest(items: Sequence[Item], fixed: int, *, coded: bool = False) -> Choice:
    """Return the choice that protects all that can be, for the fewest bytes.

    Args:
        items: what can be protected.
        fixed: bytes of the decoder, which all coded tensors share.
        coded: whether there is to be a code even where votes on all would take fewer bytes, as in tiny files.
    """
    with_decoder = _taken(items, fixed)
    if coded or any(item.vote is None for item in items):
        return with_decoder
    return min(with_decoder, _taken(items, None), key=lambda choice: choice.bytes_added)


def safest(items: Sequence[Item], fixed: int, room: float) -> Choice:
    """Return the choice that leaves the least risk within some bytes; the one of fewer bytes where two leave the same.

    Tensors are taken by falling gain for a byte, as long as they fit, once with the decoder's bytes spent and once
    without a decoder. That greedy choice for the knapsack problem misses the best one by less than the gain of the one
    tensor that first did not fit (Dantzig, Operations Research 5, 1957); with hundreds of small tensors that is little.

    Args:
        items: what can be protected.
        fixed: bytes of the decoder, which all coded tensors share.
        room: bytes that may be added.
    """
    choices = [_taken(_greedy(items, room, decoder=False), None)]
    if fixed <= room:
        choices.append(_taken(_greedy(items, room - fixed, decoder=True), fixed))
    return min(choices, key=lambda choice: (_risk_left(items, choice), choice.bytes_added))


def _taken(chosen: Sequence[Item], fixed: int | None) -> Choice:
    """Return the cheapest way to protect what was chosen; `fixed` is None where there is no decoder."""
    coded = frozenset(item.tensor for item in chosen if fixed is not None and _is_coded(item))
    added = sum(item.cost(decoder=fixed is not None) or 0 for item in chosen) + (fixed or 0 if coded else 0)
    return Choice(coded=coded, voted=frozenset(item.tensor for item in chosen) - coded, bytes_added=added)


def _is_coded(item: Item) -> bool:
    """Return whether a code adds fewer bytes to a tensor than a vote."""
    return item.code is not None and (item.vote is None or item.code < item.vote)


def _greedy(items: Sequence[Item], room: float, *, decoder: bool) -> list[Item]:
    """Return items by falling gain for a byte, as long as they fit; equal ones in the order they came."""
    costs = [(item, cost) for item in items if item.gain > 0 and (cost := item.cost(decoder=decoder)) is not None]
    chosen = []
    for item, cost in sorted(costs, key=lambda entry: -entry[0].gain / max(entry[1], 1)):
        if cost <= room:
            chosen.append(item)
            room -= cost
    return chosen


def _risk_left(items: Sequence[Item], choice: Choice) -> float:
    protected = choice.coded | choice.voted
    return sum(item.gain for item in items if item.tensor not in protected)
