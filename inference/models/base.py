"""What every model offers to the pipeline, and the stages that are timed around it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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


#: (height, width, 3), sRGB, 0..255.
Rgb = NDArray[np.uint8]

#: (height, width), 0 (background) .. 1 (subject).
Alpha = NDArray[np.float32]


class MattingModel(Protocol):
    """A loaded model: pictures in, mattes out."""

    #: The registry's name of the model, such as `u2netp`.
    name: str

    def warm_up(self) -> None:
        """Run once on a synthetic picture, so that the first real one does not take longer."""

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        """Return the matte of each picture, at that picture's own size.

        Marks the stages `preprocess` and `inference`; each ends only when its work is done, on a
        GPU too. Raises `ModelError` if the model cannot run.
        """
        ...


@runtime_checkable
class HasExecutionPath(Protocol):
    """A model that has more than one execution path."""

    @property
    def path(self) -> str:
        """The path in use."""
        ...

    @property
    def path_reason(self) -> str:
        """Why no faster path is in use; empty if there is none."""
        ...
