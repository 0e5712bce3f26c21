"""Bounded cache that drops the least recently used entries."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class RecentlyUsed(Generic[_Key, _Value]):
    """Cache of a fixed number of values by key. Safe to share between threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: _Key) -> bool:
        """Tell whether the key is cached. This does not count as a use."""
        with self._lock:
            return key in self._values

    def get(self, key: _Key) -> _Value | None:
        """Return the value of a key, or None if it is not cached."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: _Key, value: _Value) -> None:
        """Cache a value; drop the least recently used entries beyond the capacity."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)

    def get_or_make(self, key: _Key, make: Callable[[_Key], _Value]) -> _Value:
        """Return the value of a key; compute and cache it if it is missing.

        Threads that miss the same key at the same time each compute it.
        """
        value = self.get(key)
        if value is None:
            value = make(key)
            self.put(key, value)
        return value
