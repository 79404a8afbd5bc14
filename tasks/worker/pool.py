"""The processes of this worker's pool, as its parent sees them."""

import os
import signal
from contextlib import suppress


def children() -> set[int]:
    """Their pids."""
    from billiard.process import active_children  # noqa: PLC0415 - of the running pool

    return {child.pid for child in active_children()}


def kill(pid: int) -> None:
    """Kill one of them, unless it is gone; a call of native code heeds nothing gentler."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
