"""Names of the files in an archive: those of the inputs, each once."""

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

#: What some file system cannot keep, or what would lead out of a folder.
_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]+')
_MOST: Final = 100


def archive_names(wanted: Iterable[tuple[str, str]]) -> Iterator[str]:
    """For each input's name and result's extension, a name that none before it has.

    `a.jpg` and `a.png`, both cut out to PNG, become `a.png` and `a-2.png`.
    """
    taken: set[str] = set()
    for name, extension in wanted:
        stem = _stem(name)
        found, number = f"{stem}.{extension}", 1
        # Some file systems know no difference between upper and lower case.
        while found.casefold() in taken:
            number += 1
            found = f"{stem}-{number}.{extension}"
        taken.add(found.casefold())
        yield found


def _stem(name: str) -> str:
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return _UNSAFE.sub("-", stem).strip(" .-")[:_MOST] or "image"
