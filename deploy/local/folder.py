"""The data folder: writable, and used by one `rmbg up` at a time."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from deploy.local.errors import SetupError

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
def data_folder(path: Path, *, patience: float = _LOCK_SECONDS) -> Iterator[DataFolder]:
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
