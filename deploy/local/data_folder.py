"""The data folder of `rmbg up`: its lock, its passwords, and files for other programs."""

import fcntl
import json
import os
import secrets
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import structlog

from deploy.local.service import Service, SetupError

#: The settings as shell variables: `. data/service.env`.
SHELL_FILE: Final = "service.env"
#: The result of the self-check.
SAMPLE_CUTOUT: Final = "sample-cutout.png"
#: The processes that serve metrics, for Prometheus's `file_sd_configs`.
TARGETS_FILE: Final = "prometheus-targets.json"
#: The processes of an `rmbg up` that was killed need a moment to exit after it.
_LOCK_SECONDS: Final = 3.0
_CREDENTIAL_BYTES: Final = 24

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A locked data folder."""

    path: Path
    #: File descriptor of the lock. The folder stays locked while a child that inherited it runs, so
    #: that no second Valkey opens the files of one that was left behind.
    lock: int

    @property
    def sample_cutout(self) -> Path:
        """The result of the self-check."""
        return self.path / SAMPLE_CUTOUT

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Write a small JSON file."""
        _replace(self.path / name, json.dumps(document))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file; an empty one if it is missing or damaged."""
        try:
            document = json.loads((self.path / name).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def delete(self, name: str) -> None:
        """Delete a file, if it exists and the disk takes changes."""
        with suppress(OSError):
            (self.path / name).unlink()


@contextmanager
def open_data_folder(path: Path, *, timeout: float = _LOCK_SECONDS) -> Iterator[DataFolder]:
    """Create the folder, and lock it for as long as the context lasts, after `timeout` at most.

    Raises:
        SetupError: the folder cannot be written, or is locked by another `rmbg up`.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (path / "lock").open("a")
    except OSError as error:
        raise SetupError(
            f"The data folder {path} cannot be written ({error.strerror}). "
            "Choose another: rmbg up --data FOLDER"
        ) from error
    with file:
        if not _lock(file, timeout):
            raise SetupError(
                f"The data folder {path} is in use by another `rmbg up`, or by a process that it "
                "left behind. Stop that one, or choose another folder: rmbg up --data FOLDER"
            )
        yield DataFolder(path.resolve(), file.fileno())


def _lock(file: IO[str], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def load_credential(folder: Path, name: str) -> str:
    """Return the random password kept in a file, which the first call creates.

    A file without a password, which a power failure may leave, gets a new one.

    Raises:
        SetupError: the file can be neither read nor written.
    """
    path = folder / name
    try:
        held = path.read_bytes() if path.exists() else None
        found = (held or b"").decode("ascii", errors="ignore").strip()
        if found and found.isprintable():
            return found
        if held is not None:
            _log.warning("credential.replaced", file=str(path), reason="it held no password")
        made = secrets.token_hex(_CREDENTIAL_BYTES)
        write_private(path, made)
    except OSError as error:
        raise SetupError(f"{path} cannot be read or written: {error.strerror}.") from error
    return made


def make_private_folder(path: Path) -> None:
    """Create a folder, or take what other users may do with it: their way to its files.

    The data folder may have been there before, with any rights; programs create files in it that
    all users may read, such as pictures and Redis's file with the secrets of webhooks.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(PermissionError):  # another user's, whose choice it is
        path.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    _replace(path, text, mode=0o600)


def write_shell_file(folder: Path, environment: Mapping[str, str]) -> None:
    """Write the settings, passwords included, as variables that a shell exports."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    write_private(folder / SHELL_FILE, "\n".join([*lines, ""]))


def write_targets(folder: Path, services: Iterable[Service]) -> None:
    """Write the processes that serve metrics, each labelled with its service's name."""
    groups = [
        {"targets": [service.metrics], "labels": {"service": service.name}}
        for service in services
        if service.metrics
    ]
    _replace(folder / TARGETS_FILE, json.dumps(groups, indent=2))


def _replace(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    It is on the disk then, and so is its name: a power failure leaves no empty file.

    Raises:
        OSError: the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    # A path of another charset, which Python keeps in surrogates, is written as it was.
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
