"""What the tests of both engines share."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Stages(list[str]):
    """A hook that records where each stage begins, and that it ended."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.append(stage)
        yield
        self.append("end")


@pytest.fixture
def stages() -> Stages:
    return Stages()
