"""Things that serve one thread at a time, lent to many."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Makes one thing at once, and another whenever all are lent; there are as many as were ever used at a time."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._idle: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._idle.put(make())

    @contextmanager
    def lent(self) -> Iterator[T]:
        """One for this thread; it is thrown away where the caller raises."""
        try:
            thing = self._idle.get_nowait()
        except queue.Empty:
            thing = self._make()
        yield thing
        self._idle.put(thing)

    def clear(self) -> None:
        """Lets go of all that are not lent."""
        while True:
            try:
                self._idle.get_nowait()
            except queue.Empty:
                return
