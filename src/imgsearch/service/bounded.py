"""Memory of what was answered, with a limit: the least recently used goes first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Bounded(Generic[Key, Value]):
    """A mapping for many threads whose values weigh no more than `most` together."""

    def __init__(self, most: int, weight: Callable[[Value], int]) -> None:
        self._most = most
        self._weight = weight
        self._held = 0
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """Return what is kept under a key, which is then the most recently used."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, unless it alone weighs too much."""
        weight = self._weight(value)
        with self._lock:
            if key in self._values:
                self._held -= self._weight(self._values.pop(key))
            if weight > self._most:
                return
            self._values[key] = value
            self._held += weight
            while self._held > self._most:
                self._held -= self._weight(self._values.popitem(last=False)[1])
