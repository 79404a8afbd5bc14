"""Places: how many things of a process may go on at once, and a caller's share of them."""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress


class Places:
    """A number of places that callers share.

    A caller has half of them at most. The last quarter is kept for callers that have none yet, so
    that two busy ones, or more, leave the others some.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    @property
    def share(self) -> int:
        """Most places that one caller can have."""
        return self.number // 2

    def take(self, caller: str) -> bool:
        """Take a place for a caller, if there is one for it."""
        with self._lock:
            own, free = self._held[caller], self.number - self._held.total()
            kept = self.number // 4 if own else 0
            if free <= kept or own >= max(1, self.share):
                return False
            self._held[caller] += 1
            return True

    def give_back(self, caller: str) -> None:
        """Give a place back that a caller has."""
        with self._lock:
            self._held[caller] -= 1
            self._held += Counter()  # drops callers without a place

    @contextmanager
    def hold(self, caller: str) -> Iterator[bool]:
        """Take a place for the time of the block; yield whether there was one."""
        taken = self.take(caller)
        try:
            yield taken
        finally:
            if taken:
                self.give_back(caller)


class Turns:
    """Places of an event loop that its tasks wait for: callers take turns for what becomes free."""

    def __init__(self, number: int) -> None:
        self._places = Places(number)
        # The tasks that wait, by caller; callers in the order of their turns.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for a place of a caller, and hold it for the time of the block."""
        if caller in self._waiting or not self._places.take(caller):
            await self._wait(caller)
        try:
            yield
        finally:
            self._give_back(caller)

    async def _wait(self, caller: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(caller, turn)
            else:
                self._give_back(caller)
            raise

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        """Take a task off its line; one that came after it may have a place at once."""
        with suppress(KeyError, ValueError):  # it was passed over
            self._waiting[caller].remove(turn)
        if caller in self._waiting:
            self._grant(caller)

    def _give_back(self, caller: str) -> None:
        """Give a place back, and to the first caller that waits and may have it."""
        self._places.give_back(caller)
        any(map(self._grant, list(self._waiting)))
        if caller in self._waiting:  # with one place less, it may have one of those kept
            self._grant(caller)

    def _grant(self, caller: str) -> bool:
        """Give a caller that waits a place, if it may have one; return whether it got it."""
        line = self._waiting[caller]
        while line and line[0].done():
            line.popleft()  # its request was given up
        placed = bool(line) and self._places.take(caller)
        if placed:
            line.popleft().set_result(None)
        if placed or not line:
            del self._waiting[caller]
            if line:
                self._waiting[caller] = line  # after all others
        return placed
