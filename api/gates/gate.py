"""Refuses at once while a server is known not to answer, and finds out soon when it does again.

A server that is away by refusing connections costs nobody anything. One that takes them and answers
nothing costs everybody its timeout, call by call; here one caller pays for all.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from tasks.errors import TaskError

#: After a probe without an answer, everybody is refused for so long.
PAUSE_SECONDS: Final = 1.0


class ClosedError(Exception):
    """The server does not answer; nothing was sent to it."""


class Gate:
    """One server's, for all threads of a process.

    Args:
        probe: asks the server over a connection of its own, with a short timeout; raises
            `TaskError` if it does not answer.
        trust: seconds for which an answer counts; without a newer one, the next caller probes.
        clock: in seconds, from any beginning.
    """

    def __init__(
        self,
        probe: Callable[[], None],
        *,
        trust: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._trust = trust
        self._clock = clock
        self._good_until = -math.inf
        self._bad_until = -math.inf
        self._reason = ""
        self._lock = threading.Lock()

    def check(self) -> None:
        """Pass, at the price of a look at the clock; or find out, as the first of many.

        Raises:
            ClosedError: the server does not answer.
        """
        if self._clock() >= self._good_until:
            self._find_out()

    def answered(self) -> None:
        """The server did."""
        self._good_until = self._clock() + self._trust

    def failed(self) -> None:
        """A call came to nothing: the next caller is to probe."""
        self._good_until = -math.inf

    def _find_out(self) -> None:
        self._refuse()
        # While it is known to be away, one asks, and the others need not wait for that.
        if not self._lock.acquire(blocking=not self._reason):
            raise ClosedError(self._reason)
        try:
            if self._clock() >= self._good_until:
                self._refuse()
                self._ask()
        finally:
            self._lock.release()

    def _refuse(self) -> None:
        if self._clock() < self._bad_until:
            raise ClosedError(self._reason)

    def _ask(self) -> None:
        try:
            self._probe()
        except TaskError as error:
            self._reason = str(error)
            self._bad_until = self._clock() + PAUSE_SECONDS
            raise ClosedError(self._reason) from error
        self._reason = ""
        self.answered()
