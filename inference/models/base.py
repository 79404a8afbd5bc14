"""What every matting model offers, whatever runs it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from inference.stages import StageHook, no_stages

__all__ = ["Alpha", "MattingModel", "Rgb", "StageHook", "no_stages"]

#: (height, width, 3), sRGB, 0..255.
Rgb = NDArray[np.uint8]
#: (height, width), 0 (background) .. 1 (subject).
Alpha = NDArray[np.float32]


class MattingModel(Protocol):
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
        ...


@runtime_checkable
class HasExecutionPath(Protocol):
    """A model that can be run in more than one way."""

    @property
    def path(self) -> str:
        """The way that is taken."""
        ...

    @property
    def path_reason(self) -> str:
        """Why it is not a quicker one; empty if there is none."""
        ...
