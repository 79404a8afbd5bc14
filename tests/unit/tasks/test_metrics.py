"""Where the processes of one parent count."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tasks import metrics

_Usage = namedtuple("_Usage", "total used free")  # noqa: PYI024 - as of shutil


@pytest.mark.parametrize(
    ("free", "writable", "used"),
    [(2**26, True, True), (2**16, True, False), (2**26, False, False), (None, True, False)],
    ids=["usual", "full", "another user's", "none"],
)
def test_memory_is_used_where_there_is_some(
    *, free: int | None, writable: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(_: Path) -> _Usage:
        if free is None:
            raise FileNotFoundError
        return _Usage(free, 0, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(os, "access", lambda *_: writable)
    assert (metrics.memory_folder() is not None) == used
