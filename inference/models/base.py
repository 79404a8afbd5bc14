"""What every matting model offers, whatever runs it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: (height, width, 3), sRGB, 0..255.
Rgb = NDArray[np.uint8]
#: (height, width), 0 (background) .. 1 (subject).
Alpha = NDArray[np.float32]
#: Called with a stage's name; the context lasts as long as the stage. It may raise on entry, to
#: end the job between two stages (a cancel, a deadline).
StageHook = Callable[[str], AbstractContextManager[None]]


def no_stages(_stage: str) -> AbstractContextManager[None]:
    """A stage hook that observes nothing."""
    return nullcontext()


class Matting(Protocol):
    """A loaded model: pictures in, mattes out."""

    #: The registry's name of the model, such as `u2netp`.
    name: str

    def warm_up(self) -> None:
        """Run once on a made-up picture, so that the first real one pays for nothing."""

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        """The alpha matte of each picture, at that picture's own size.

        Marks the stages `preprocess` and `inference`, each ended only when its work is done (a
        GPU is waited for). Raises `ModelError` when the model cannot run.
        """
