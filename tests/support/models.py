"""Stand-ins for models: one without weights and time, and what the table says of small files."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.models.registry import ModelSpec, get_spec


def spec_of(model: str, data: bytes, **changes: Any) -> ModelSpec:  # noqa: ANN401 - of the table
    """What the table would say of a model if its file held this."""
    digest = hashlib.sha256(data).hexdigest()
    return replace(get_spec(model), size_bytes=len(data), sha256=digest, **changes)


class FakeModel:
    """Finds a subject everywhere, or where `find` says.

    Attributes:
        find: makes the matte of a picture.
        calls: how often it was asked.
        faults: called in turn, one a call, before it answers; each may raise.
        error: raised by every call for as long as it is set.
        opacity: of each pixel of its mattes, 0 to 1.
    """

    def __init__(self, name: str = "u2netp", find: Callable[[Rgb], Alpha] | None = None) -> None:
        self.name = name
        self.find = find or self._everywhere
        self.calls = 0
        self.faults: list[Callable[[], object]] = []
        self.error: Exception | None = None
        self.opacity = 1.0

    def warm_up(self) -> None:
        pass

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"):
            pass
        with stages("inference"):
            self.calls += 1
            if self.faults:
                self.faults.pop(0)()
            if self.error is not None:
                raise self.error
            return [self.find(image) for image in images]

    def _everywhere(self, image: Rgb) -> Alpha:
        return np.full(image.shape[:2], self.opacity, np.float32)

    def fail(self, error: Exception, times: int = 1) -> None:
        """Raise an error in the next calls."""

        def throw() -> None:
            raise error

        self.faults += [throw] * times
