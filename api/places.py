"""A caller's share of a process: places for what goes on at once, and the processor's time."""

import asyncio
import math
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

#: Share of the time that one caller has while others ask too.
_TIME_SHARE: Final = 0.25
#: Seconds of the time that a caller may use at once.
_TIME_AT_ONCE: Final = 0.03
#: Seconds after its latest request for which a caller counts as one that asks.
_ASKS_SECONDS: Final = 2.0
#: Weight of the latest call in what a caller's next one is expected to take.
_LATEST: Final = 0.2
#: Longest pause, in seconds, until calls that wait are looked at again: they begin when no other
#: caller asks any more.
_LOOK_SECONDS: Final = 0.25
#: Callers that are remembered; those without a debt are forgotten beyond it.
_KNOWN_CALLERS: Final = 4096

#: A function that `turn` calls with the future on which a task waits; canceling it ends the wait.
OnWait = Callable[[asyncio.Future[None]], object]


def _ignore(_: asyncio.Future[None]) -> None: ...


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

    @property
    def taken(self) -> int:
        """Places that callers have now."""
        with self._lock:
            return self._held.total()

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
    async def turn(self, caller: str, on_wait: OnWait = _ignore) -> AsyncIterator[None]:
        """Wait for a place of a caller, and hold it for the time of the block."""
        if caller in self._waiting or not self._places.take(caller):
            await self._wait(caller, on_wait)
        try:
            yield
        finally:
            self._give_back(caller)

    async def _wait(self, caller: str, on_wait: OnWait) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        on_wait(turn)
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


@dataclass(slots=True)
class _Used:
    """What a caller has used, and its calls that wait.

    Attributes:
        until: until when its share of the time is used up, by the clock.
        expected: seconds that its next call will probably take.
        waiting: its calls that wait, the first one first.
        looking: they are looked at again before long.
    """

    until: float = 0.0
    expected: float = 0.0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    looking: bool = False


class TimeShares:
    """Shares of a process's time, of which a caller has a quarter while others ask too.

    A caller that asks alone has all of it. One that has used up its share waits in the event loop,
    not in a thread, so that no number of requests keeps the others from being served.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[str, _Used] = {}
        # The caller of the latest request, its time, and that of any other caller's latest request.
        self._latest = ""
        self._latest_asked = self._other_asked = -math.inf

    @asynccontextmanager
    async def turn(
        self, caller: str, on_wait: OnWait = _ignore, *, asks: bool = True
    ) -> AsyncIterator[list[float]]:
        """Wait until a caller has time left, and count what its call takes of it.

        Args:
            caller: whose share it is.
            on_wait: see `OnWait`.
            asks: False for what leaves another caller that asks alone all of the time.

        Yields:
            A list to which the call adds the seconds that it took of the processor.
        """
        now, used = self._clock(), self._of(caller)
        if asks:
            if caller != self._latest:
                self._latest, self._other_asked = caller, self._latest_asked
            self._latest_asked = now
        if used.waiting or self._wait(caller, used) > 0:
            turn = asyncio.get_running_loop().create_future()
            used.waiting.append(turn)
            self._look_later(caller, used)
            on_wait(turn)
            await turn
        # The next one of a crowd sees what this one will probably take.
        reserved, taken = used.expected, list[float]()
        used.until = max(self._clock(), used.until) + reserved / _TIME_SHARE
        try:
            yield taken
            used.expected += _LATEST * (sum(taken) - reserved)
        finally:
            self.spend(caller, sum(taken) - reserved)

    def spend(self, caller: str, seconds: float) -> None:
        """Count what a caller has taken of the time, or give it back what was reserved."""
        self._of(caller).until += seconds / _TIME_SHARE

    def _wait(self, caller: str, used: _Used) -> float:
        """Return in how many seconds a caller may begin its next call."""
        now = self._clock()
        others = self._other_asked if caller == self._latest else self._latest_asked
        if now - others > _ASKS_SECONDS:  # it has the time for itself
            used.until = min(used.until, now)
        return max(0.0, used.until - _TIME_AT_ONCE / _TIME_SHARE - now)

    def _look_later(self, caller: str, used: _Used) -> None:
        if used.waiting and not used.looking:
            used.looking = True
            pause = min(_LOOK_SECONDS, self._wait(caller, used))
            asyncio.get_running_loop().call_later(pause, self._look, caller, used)

    def _look(self, caller: str, used: _Used) -> None:
        """Let the first call that waits begin, if its caller may."""
        used.looking = False
        while used.waiting and used.waiting[0].done():
            used.waiting.popleft()  # its request was given up
        if used.waiting and not self._wait(caller, used):
            used.waiting.popleft().set_result(None)
        self._look_later(caller, used)

    def _of(self, caller: str) -> _Used:
        if caller not in self._used and len(self._used) >= _KNOWN_CALLERS:
            now = self._clock()
            self._used = {
                name: each for name, each in self._used.items() if each.waiting or each.until > now
            }
        return self._used.setdefault(caller, _Used())
