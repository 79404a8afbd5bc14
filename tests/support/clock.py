"""The clock of the tests, which stands still until a test sets it, and waiting by the real one."""

import time
from collections.abc import Callable
from dataclasses import dataclass


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@dataclass
class Clock:
    """Tells the unix time that it was set to."""

    now: float = 1.7e9

    def __call__(self) -> float:
        return self.now
