"""When a model's process counts as silent."""

import time
from collections.abc import Callable


class Silence:
    """Tells a process that no longer answers from one whose answers could not be heard.

    An answer is heard by way of Redis, and counts there for a while. Once it no longer does, its
    process has been silent for all that while, if Redis could be asked all the time; after an
    outage of Redis the same while is waited for again.

    Args:
        seconds: how long an answer counts.
        gap: longer than this between two looks, and something may have been missed.
        clock: gives seconds that no change of the system's time touches.
    """

    def __init__(
        self, seconds: float, gap: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._gap = gap
        self._clock = clock
        self._looked = clock()
        # What was said before, a former process of the same number may have said.
        self._patient_until = self._looked + seconds

    def look(self, *, answered: bool) -> bool:
        """Note whether an answer counts at this moment; True if the process is silent."""
        now = self._clock()
        if now - self._looked > self._gap:
            self._patient_until = now + self._seconds
        self._looked = now
        return not answered and now >= self._patient_until
