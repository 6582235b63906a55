"""A few things that are costly to make, kept as long as they are used."""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Recent(Generic[_T]):
    """The values used last, by key; thread-safe, and each is made once while it is held.

    Args:
        size: how many are held, whatever their bytes. Sessions hold what is stored, so that this bounds memory.
        room: bytes of values up to which more are held.
    """

    def __init__(self, size: int, room: int = 0) -> None:
        self._size, self._room = size, room
        self._held: collections.OrderedDict[Hashable, tuple[_T, int]] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _T], bytes_: int = 0) -> _T:
        """Return the value of a key, made if it is not held.

        Args:
            key: which one.
            make: makes it.
            bytes_: what it takes, about.

        Raises:
            Exception: whatever `make` raises.
        """
        with self._lock:
            if key not in self._held:
                self._held[key] = make(), bytes_
                self._bytes += bytes_
                while len(self._held) > self._size and (not self._room or self._bytes > self._room):
                    _, (_, gone) = self._held.popitem(last=False)
                    self._bytes -= gone
            self._held.move_to_end(key)
            return self._held[key][0]
