"""What test files share that takes long to start, and its end with the last of their tests."""

import re
from contextlib import ExitStack
from functools import cache
from typing import Final

import pytest

from tests.support.paths import ROOT

SERVICE: Final = "the service"
#: A parameter of a function, on a line of its own or not.
_SHARED: Final = re.compile(r"\b(service: RunningService|(lone|keyed)_api: RunningApi)\b")
_STACKS: Final = pytest.StashKey[dict[str, ExitStack]]()


@cache
def group_of(path: str) -> str:
    """Return `SERVICE` for a file that uses tests/acceptance/conftest.py, or the file's folder."""
    file = ROOT / path
    shares = file.parent.name == "acceptance" and bool(_SHARED.search(file.read_text()))
    return SERVICE if shares else path.rpartition("/")[0]


def stack_of(config: pytest.Config, group: str) -> ExitStack:
    """Return what runs for a group of files; it ends with the last of their tests, or the run."""
    stacks = config.stash.setdefault(_STACKS, {})
    if group not in stacks:
        stacks[group] = ExitStack()
        config.add_cleanup(stacks[group].close)
    return stacks[group]
