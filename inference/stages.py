"""The stages of the pipeline: their names, the hook that observes them, and a timer."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

#: Every stage of the pipeline, in the order in which a picture passes them.
STAGES = ("decode", "preprocess", "inference", "compose", "encode")

#: Called with a stage's name; the context lasts as long as the stage. It may raise on entry to end
#: the job between two stages, on a cancel or a deadline.
StageHook = Callable[[str], AbstractContextManager[None]]


def no_stages(_stage: str) -> AbstractContextManager[None]:
    """Observe nothing: the stage hook for callers that need none."""
    return nullcontext()


class StageTimer:
    """A stage hook that measures how long each stage takes.

    The times of a stage that is entered twice are added; a stage that fails counts until it failed.

    Args:
        before: called with the stage's name on entry; what it raises ends the job.
        clock: seconds from any fixed point, never going back.
    """

    def __init__(
        self,
        before: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._before = before
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure one stage for as long as the context lasts."""
        if self._before is not None:
            self._before(stage)
        started = self._clock()
        try:
            yield
        finally:
            elapsed = self._clock() - started
            self._seconds[stage] = self._seconds.get(stage, 0.0) + elapsed

    @property
    def timings(self) -> dict[str, int]:
        """Whole milliseconds of each stage so far, in the order of entry: `{"decode_ms": 21}`."""
        return {f"{stage}_ms": round(seconds * 1000) for stage, seconds in self._seconds.items()}
