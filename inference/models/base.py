"""The interface of every matting model, and the types of its arrays."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from inference.stages import StageHook, no_stages

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
