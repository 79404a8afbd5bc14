"""Which files of folders are sent, which are left out and why, and the names of the cutouts."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.removal.done_file import cutouts_below

#: The files of a folder that are sent. A file that is named itself is sent with any suffix.
PICTURE_SUFFIXES: Final = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif"),
        *(".heic", ".heif", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    }
)
#: Folders and files that systems and disk stations keep beside pictures.
_SYSTEM_NAMES: Final = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
        *("lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    }
)
#: Bytes of a file's name on the common file systems.
_NAME_BYTES: Final = 255
#: Digits of the digest in a name that had to be shortened.
_DIGEST_DIGITS: Final = 10


@dataclass(frozen=True, slots=True)
class Picture:
    """A file to cut out.

    Attributes:
        folder: where its cutout goes, relative to the output folder.
        version: size and time of the last change, by which a complete file is told.
    """

    path: Path
    folder: Path
    version: tuple[int, int]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that is not sent.

    Attributes:
        named: whether it was asked for itself, and not found in a folder.
    """

    path: Path
    reason: str
    named: bool = False


def shown(path: Path | str) -> str:
    """Return a path as printable text, with escapes for all else, also bytes that are no UTF-8."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def find_pictures(
    named: Iterable[Path], out: Path, cutouts: frozenset[Path] = frozenset()
) -> Iterator[Picture | LeftOut]:
    """Yield what is sent and what is left out of files and folders, each file once, by name.

    Cutouts in the output folders of other runs are left out, too.

    Args:
        named: files, and folders that are searched with all folders below.
        out: the output folder, which is not searched.
        cutouts: files that an earlier run has written.
    """
    walk = _Walk(_identity(out), cutouts)
    for path in named:
        yield from walk.visit(path, Path(), named=True)


def is_folder(path: Path) -> bool:
    """Return whether this is a folder, as far as the user may see."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib fails in a folder that may not be searched


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(slots=True)
class _Walk:
    out: tuple[int, int] | None
    cutouts: frozenset[Path]
    visited: set[tuple[int, int]] = field(default_factory=set)
    taken: set[Path] = field(default_factory=set)

    def visit(self, path: Path, folder: Path, *, named: bool) -> Iterator[Picture | LeftOut]:
        if not named and (reason := _unwanted(path.name)):
            yield LeftOut(path, reason)
            return
        try:
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                yield from self._visit_folder(path, found, folder, named=named)
                return
        except OSError as error:
            yield LeftOut(path, f"cannot be read: {error.strerror}", named)
            return
        absolute = _absolute(path)
        reason = self._reason(absolute, found, named=named)
        if reason:
            yield LeftOut(path, reason, named)
        elif absolute not in self.taken:
            self.taken.add(absolute)
            yield Picture(path, folder, (found.st_size, found.st_mtime_ns))

    def _visit_folder(
        self, path: Path, found: os.stat_result, folder: Path, *, named: bool
    ) -> Iterator[Picture | LeftOut]:
        identity = found.st_dev, found.st_ino
        if identity == self.out and not named:
            yield LeftOut(path, "the output folder")
        elif identity in self.visited:
            yield LeftOut(path, "a folder that was searched already, by another way")
        else:
            self.visited.add(identity)
            absolute = _absolute(path)
            for holder in (absolute, *absolute.parents) if named else (absolute,):
                if _identity(holder) != self.out:
                    self.cutouts |= cutouts_below(holder)
            for entry in sorted(path.iterdir()):
                inner = folder if named else folder / path.name
                yield from self.visit(entry, inner, named=False)

    def _reason(self, path: Path, found: os.stat_result, *, named: bool) -> str:
        """Return why a file is not sent; empty if it is."""
        if not stat.S_ISREG(found.st_mode):
            return "no regular file"
        if not os.access(path, os.R_OK):
            return "cannot be read: Permission denied"
        if named:
            return ""
        if path in self.cutouts:
            return "a cutout of an earlier run; name the file itself to send it"
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            return "no picture, by the end of its name"
        return ""


def _unwanted(name: str) -> str:
    if name.lower() in _SYSTEM_NAMES:
        return "a file or folder of the system's own"
    return "hidden" if name.startswith(".") else ""


def choose_target(
    picture: Picture, out: Path, extension: str, taken: Mapping[Path, Path]
) -> tuple[Path, bool]:
    """Return a free path for a cutout, and whether its name had to be shortened.

    Pictures with equal stems, such as `a.jpg` and `a.png`, keep their suffix in the cutout's name.

    `taken` has the pictures by the cutouts that are theirs.
    """
    folder, path = out / picture.folder, picture.path
    kind = path.suffix.lstrip(".") or "cutout"
    number = 0
    while True:
        number += 1
        mark = ("", f"-{kind}", f"-{kind}-{number - 1}")[min(number - 1, 2)]
        name, shortened = _fitted(path.stem, f"{mark}.{extension}", _longest_name(folder))
        target = folder / name
        owner = taken.get(target)
        if owner == path or (owner is None and not _same(target, path)):
            return target, shortened


def _same(target: Path, path: Path) -> bool:
    found = _identity(target)
    return found is not None and found == _identity(path)


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return _NAME_BYTES


def _fitted(stem: str, end: str, most: int) -> tuple[str, bool]:
    """Return a name of at most so many bytes; a long stem ends with its digest instead."""
    raw = os.fsencode(stem)
    if len(raw) + len(end) <= most:
        return stem + end, False
    digest = hashlib.sha256(raw).hexdigest()[:_DIGEST_DIGITS]
    kept = raw[: most - len(end) - len(digest) - 1]
    # No character is cut in its middle; bytes that were no UTF-8 stay as they are.
    while kept and raw[len(kept)] & 0xC0 == 0x80:  # noqa: PLR2004 - continues a character in UTF-8
        kept = kept[:-1]
    return f"{os.fsdecode(kept)}~{digest}{end}", True
