"""What every model offers to the pipeline."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

#: Called with the name of a stage: decode, preprocess, inference, compose, encode, in that order.
#: The context lasts as long as the stage. It may raise on entry to end the job between two stages,
#: on a cancel or a deadline.
StageHook = Callable[[str], AbstractContextManager[None]]


def no_stages(_stage: str) -> AbstractContextManager[None]:
    """Observe nothing: the stage hook for callers that need none."""
    return nullcontext()


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

    #: The path in use.
    path: str
    #: Why no faster path is in use; empty if there is none.
    path_reason: str


@runtime_checkable
class HasGpuMemory(Protocol):
    """A model that may run on a GPU."""

    def gpu_memory(self) -> tuple[int, int] | None:
        """Return the bytes of its GPU that are in use, by anyone, and all; None without a GPU."""
        ...
