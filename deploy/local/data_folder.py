"""The data folder of `rmbg up`: its lock, its passwords, and files for other programs."""

import fcntl
import json
import os
import secrets
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from deploy.local.service import Service, SetupError

_BYTES: Final = 24


def load_credential(folder: Path, name: str) -> str:
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


#: The children of an `rmbg up` that was killed need a moment to follow it.
_LOCK_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A locked data folder.

    Attributes:
        path: the folder.
        lock: descriptor of the lock. A child that inherits it keeps the folder locked for as long
            as it lives: no second Valkey can come upon the files of a left-over one.
    """

    path: Path
    lock: int

    @property
    def sample_cutout(self) -> Path:
        """Where the start's self-check puts its result."""
        return self.path / "sample-cutout.png"

    def remember(self, name: str, facts: dict[str, Any]) -> None:
        """Keep some facts in a small file, whole or not at all."""
        draft = self.path / f".{name}.draft"
        draft.write_text(json.dumps(facts))
        draft.replace(self.path / name)

    def recall(self, name: str) -> dict[str, Any]:
        """The facts under that name; none if the file is missing or broken."""
        try:
            facts = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def forget(self, name: str) -> None:
        """Delete those facts."""
        (self.path / name).unlink(missing_ok=True)


@contextmanager
def open_data_folder(path: Path, *, patience: float = _LOCK_SECONDS) -> Iterator[DataFolder]:
    """Make the folder and hold its lock for as long as the block runs.

    Raises:
        SetupError: it cannot be written, or another `rmbg up` uses it.
    """
    with _open_lock(path) as file:
        if not _lock(file, patience):
            raise SetupError(
                f"The data folder {path} is in use by another `rmbg up`, or by a process that it "
                "left behind. End that one, or choose another folder: rmbg up --data FOLDER"
            )
        yield DataFolder(path.resolve(), file.fileno())


def _open_lock(path: Path) -> IO[str]:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (path / "lock").open("a")
    except OSError as error:
        raise SetupError(
            f"The data folder {path} cannot be written ({error.strerror}). "
            "Choose another: rmbg up --data FOLDER"
        ) from error


def _lock(file: IO[str], patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        else:
            return True


#: In the data folder.
SHELL_FILE: Final = "service.env"


def write_shell_file(folder: Path, environment: Mapping[str, str]) -> None:
    """Write the settings as exported variables; there are passwords among them."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    write_private(folder / SHELL_FILE, "\n".join([*lines, ""]))


#: In the data folder.
TARGETS_FILE: Final = "prometheus-targets.json"


def scrape_targets(services: Iterable[Service]) -> list[dict[str, Any]]:
    """The target groups of those that serve metrics, each labelled with its service's name."""
    return [
        {"targets": [service.metrics], "labels": {"service": service.name}}
        for service in services
        if service.metrics
    ]


def write_targets(folder: Path, services: Iterable[Service]) -> None:
    """Write them, whole or not at all: Prometheus reads the file whenever it changes."""
    draft = folder / f".{TARGETS_FILE}.draft"
    draft.write_text(json.dumps(scrape_targets(services), indent=2))
    draft.replace(folder / TARGETS_FILE)
