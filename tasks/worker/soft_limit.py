"""Keeps the soft time limit from striking where it would leave something half done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import structlog
from billiard import pool

_log = structlog.get_logger(__name__)


@contextmanager
def soft_limit_deferred() -> Iterator[None]:
    """For steps that are short, and whose own timeouts bound them; in a main thread only.

    The soft limit is a signal whose handler raises. In the middle of a PUT that leaves an object
    which the store may finish after whatever was done to remove it. Once the block has run to its
    end there is nothing left to be stopped, so the signal is forgotten.
    """

    def note(_number: int, _frame: FrameType | None) -> None:
        _log.warning("job.soft_limit_deferred")

    before = signal.signal(pool.SIG_SOFT_TIMEOUT, note)
    try:
        yield
    finally:
        signal.signal(pool.SIG_SOFT_TIMEOUT, before)
