"""A few things that are costly to make, kept as long as they are used."""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Recent(Generic[_T]):
    """The values used last, by key; thread-safe, and each is made once while it is held.

    Args:
        size: how many are held. Sessions keep the memory of their largest batch, so that this bounds memory.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: collections.OrderedDict[Hashable, _T] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Return the value of a key, made if it is not held.

        Raises:
            Exception: whatever `make` raises.
        """
        with self._lock:
            if key not in self._held:
                self._held[key] = make()
                while len(self._held) > self._size:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]
