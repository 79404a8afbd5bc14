"""The calls of a process to one server: a bound of those at once, and a queue for the others."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from urllib3.exceptions import HTTPError


class CallQueueTimeoutError(HTTPError):
    """The call waited too long for others to end; nothing was sent."""


class CallQueue:
    """Lets so many calls run at once. The others wait, and owners take turns.

    A server that is merely busy so gets no more work at once than it can do in time.

    Args:
        limit: calls at once.
        seconds: longest that a call waits.
    """

    def __init__(self, limit: int, *, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._changed = threading.Condition()
        self._running: set[int] = set()
        # Threads that wait, by owner; the owner that comes first is next.
        self._waiting: dict[str, deque[int]] = {}

    @contextmanager
    def turn(self, owner: str, skip: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn of an owner, and hold it for the time of the block.

        A call within another one needs no turn of its own.

        Args:
            owner: on whose behalf the call is made.
            skip: says that there is nothing to wait for. After a change of what it says,
                `look_again` is to be called.

        Raises:
            CallQueueTimeoutError: too many calls were before it.
        """
        me = threading.get_ident()
        if me in self._running:
            yield
            return
        with self._changed:
            self._wait(owner, me, skip)
            self._running.add(me)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(me)
                self._changed.notify_all()

    def look_again(self) -> None:
        """Have all that wait ask whether there is something to wait for."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, owner: str, me: int, skip: Callable[[], bool]) -> None:
        line = self._waiting.setdefault(owner, deque())
        line.append(me)
        try:
            if self._changed.wait_for(lambda: skip() or self._is_next(me), self._seconds):
                return
            raise CallQueueTimeoutError(
                f"{self._limit} calls run at once, and none ended within {self._seconds:g} s."
            )
        finally:
            line.remove(me)
            # Its other calls come after one of each other owner.
            del self._waiting[owner]
            if line:
                self._waiting[owner] = line

    def _is_next(self, me: int) -> bool:
        return len(self._running) < self._limit and next(iter(self._waiting.values()))[0] == me
