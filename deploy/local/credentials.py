"""Passwords and keys of the embedded servers, made once and kept in the data folder."""

import os
import secrets
from pathlib import Path
from typing import Final

from deploy.local.errors import SetupError

_BYTES: Final = 24


def credential(folder: Path, name: str) -> str:
    """The credential of this name: made at the first call, the same ever after.

    Raises:
        SetupError: it can be neither read nor written.
    """
    path = folder / name
    try:
        if not path.exists():
            write_private(path, secrets.token_hex(_BYTES))
        return path.read_text().strip()
    except OSError as error:
        raise SetupError(f"{path} cannot be used: {error.strerror}.") from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    draft.replace(path)
