"""The file in an output folder that says what is cut out, so that a later run skips it.

One JSON object a line, appended after the cutout is in place: a crash costs at most a line, whose
picture is cut out again. Content and parameters decide, never a date.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

#: Its name in the output folder.
DONE_FILE: Final = ".rmbg-done.jsonl"
#: Parameters that change no pixel.
_WITHOUT_PIXELS: Final = frozenset(
    {"priority", "metadata", "webhook_url", "webhook_events", "expires_in", "cache"}
)


class FolderInUseError(Exception):
    """Another run writes to the output folder."""


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_parameters(parameters: Mapping[str, Any]) -> str:
    """Return a digest of the parameters that change pixels; equal for equal cutouts."""
    relevant = {
        name: digest_file(value) if isinstance(value, Path) else value
        for name, value in sorted(parameters.items())
        if name not in _WITHOUT_PIXELS
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Done:
    """A picture that was cut out, or cannot be.

    Attributes:
        source: the picture's path, absolute.
        target: the cutout's path, relative to the output folder.
        content: SHA-256 of the picture.
        parameters: their digest.
        size: of the cutout, in bytes.
        reason: why there is no cutout, and will be none; else empty.
    """

    source: str
    target: str
    content: str
    parameters: str
    size: int
    reason: str = ""


def cutouts_below(out: Path) -> frozenset[Path]:
    """Return the cutouts that the file of an output folder names, as they were made; none without.

    The folder is an absolute path. Another run may be writing there.
    """
    try:
        with (out / DONE_FILE).open(encoding="ascii", errors="replace") as file:
            found = DoneFile(out, file)
            for line in file:
                found.note_line(line)
    except OSError:
        return frozenset()
    return frozenset(found.targets())


@dataclass(slots=True)
class DoneFile:
    """What is cut out into a folder; one run at a time has it open.

    Attributes:
        by_source: the latest of each picture.
        by_content: one for each content and parameters.
    """

    out: Path
    file: IO[str]
    by_source: dict[str, Done] = field(default_factory=dict)
    by_content: dict[tuple[str, str], Done] = field(default_factory=dict)

    @classmethod
    def open(cls, out: Path) -> Self:
        """Read the file of an output folder, and keep it to this run.

        Raises:
            FolderInUseError: another run has it.
            OSError: it cannot be written.
        """
        path = out / DONE_FILE
        file = path.open("a+", encoding="ascii", errors="replace")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise FolderInUseError(
                f"Another run writes to {out}; wait for its end, or name another folder with -o."
            ) from error
        found = cls(out, file)
        file.seek(0)
        text = file.read()
        for line in text.splitlines():
            found.note_line(line)
        if text and not text.endswith("\n"):
            file.write("\n")  # a crash left half a line
        for draft in out.rglob(".rmbg-*.part"):
            draft.unlink(missing_ok=True)
        return found

    def note_line(self, line: str) -> None:
        """Note the picture that a line of the file names; of other lines, none."""
        try:
            self._note(Done(**json.loads(line)))
        except (ValueError, TypeError):
            return  # half a line, or another version's: that picture is cut out again

    def _note(self, done: Done) -> None:
        self.by_source[done.source] = done
        self.by_content[done.content, done.parameters] = done

    def add(self, done: Done) -> None:
        """Record a cutout that is in place."""
        self.file.write(json.dumps(asdict(done)) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self._note(done)

    def is_there(self, done: Done, content: str, parameters: str) -> bool:
        """Return whether a cutout of this content is where it was put, as large as it was."""
        return (done.content, done.parameters) == (content, parameters) and self._has(done)

    def _has(self, done: Done) -> bool:
        try:
            return bool(done.target) and (self.out / done.target).stat().st_size == done.size
        except OSError:
            return False

    def targets(self) -> dict[Path, Path]:
        """Return the pictures by the paths of their cutouts."""
        return {
            self.out / done.target: Path(done.source)
            for done in self.by_source.values()
            if self._has(done)
        }

    def close(self) -> None:
        """Let other runs write to the folder."""
        self.file.close()
