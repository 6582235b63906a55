"""Portions of faults in order, shared out to workers so that each mostly goes on where it was."""

import collections
from collections.abc import Iterable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Stretches(Generic[_T]):
    """A row of items that several workers take from.

    Each worker takes the items of its own stretch one after the other. One that has none left, or comes new, takes the
    back half of the longest stretch there is. Neighbours share golden activations and sessions, which a worker then
    makes once, and nobody is idle while there is work.

    Args:
        items: the row.
    """

    def __init__(self, items: Iterable[_T]) -> None:
        self._nobodys = collections.deque(items)
        self._own: dict[str, collections.deque[_T]] = {}

    def __len__(self) -> int:
        return len(self._nobodys) + sum(map(len, self._own.values()))

    def take(self, worker: str) -> _T:
        """Return a worker's next item.

        Raises:
            IndexError: if none is left.
        """
        own = self._own.setdefault(worker, collections.deque())
        if not own:
            if self._nobodys:
                self._own[worker] = own = self._nobodys
                self._nobodys = collections.deque()
            else:
                longest = max(self._own.values(), key=len)
                half = [longest.pop() for _ in range((len(longest) + 1) // 2)]
                own.extend(reversed(half))
        return own.popleft()
