"""A file that lets a shell's commands find the running service: `. data/service.env`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.local.credentials import write_private

#: In the data folder.
SHELL_FILE: Final = "service.env"


def write_shell_file(folder: Path, environment: Mapping[str, str]) -> None:
    """Write the settings as exported variables; there are passwords among them."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    write_private(folder / SHELL_FILE, "\n".join([*lines, ""]))
