"""Places: how many requests of a process may do one slow thing at once, and an owner's share."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Places:
    """A number of places that owners share.

    An owner has half of them at most. The last quarter is kept for owners that have none yet, so
    that no number of busy owners leaves the others without one.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    @property
    def share(self) -> int:
        """Most places that one owner can have."""
        return self.number // 2

    def take(self, owner: str) -> bool:
        """Take a place for an owner, if there is one for it."""
        with self._lock:
            own, free = self._held[owner], self.number - self._held.total()
            kept = self.number // 4 if own else 0
            if free <= kept or own >= max(1, self.share):
                return False
            self._held[owner] += 1
            return True

    def give_back(self, owner: str) -> None:
        """Give a place back that an owner has."""
        with self._lock:
            self._held[owner] -= 1
            self._held += Counter()  # drops owners without a place

    @contextmanager
    def hold(self, owner: str) -> Iterator[bool]:
        """Take a place for the time of the block; yield whether there was one."""
        taken = self.take(owner)
        try:
            yield taken
        finally:
            if taken:
                self.give_back(owner)
