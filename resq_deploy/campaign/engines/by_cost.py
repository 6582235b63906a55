"""What is costly to make, kept while there is room: that goes first which costs least to make again for its size.

GreedyDual-Size: Cao and Irani, Cost-Aware WWW Proxy Caching Algorithms (USENIX 1997), section 3. Each thing is given
credit, its cost over its size on top of the credit of what went last, and again whenever it is used. That with least
credit goes.
"""

import collections
import threading
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

_T = TypeVar("_T")


class _Held(NamedTuple, Generic[_T]):
    value: _T
    size: int
    credit: float


class ByCost(Generic[_T]):
    """Things by kind and key; thread-safe. Things of a kind have the same cost for their size.

    Args:
        room: bytes that may be held.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._bytes = 0
        self._gone = 0.0  # credit of what went last
        self._worth: dict[Hashable, float] = {}
        self._kinds: dict[Hashable, collections.OrderedDict[int, _Held[_T]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def get(self, kind: Hashable, key: int) -> _T | None:
        """Return what is held; None if it is not."""
        with self._lock:
            of_kind = self._kinds.get(kind)
            if of_kind is None or key not in of_kind:
                return None
            held = of_kind.pop(key)
            of_kind[key] = held._replace(credit=self._gone + self._worth[kind])
            return held.value

    def put(self, kind: Hashable, key: int, value: _T, size: int, cost: float) -> None:
        """Hold something, and let others go until all that is held has room; nothing larger than that.

        Args:
            kind: of what it is.
            key: which one.
            value: the thing.
            size: its bytes.
            cost: of making it again, in any unit.
        """
        if size > self._room:
            return
        with self._lock:
            of_kind = self._kinds.setdefault(kind, collections.OrderedDict())
            worth = self._worth.setdefault(kind, cost / max(size, 1))
            if key in of_kind:
                self._bytes -= of_kind.pop(key).size
            of_kind[key] = _Held(value, size, self._gone + worth)
            self._bytes += size
            while self._bytes > self._room:
                # Credit only grows, so that of a kind what was used longest ago has least. What was put now stays: the
                # next fault asks for it again.
                others = (held for held in self._kinds.values() if len(held) > (held is of_kind))
                poorest = min(others, key=lambda held: next(iter(held.values())).credit)
                _, gone = poorest.popitem(last=False)
                self._bytes -= gone.size
                self._gone = max(self._gone, gone.credit)
