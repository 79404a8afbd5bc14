"""File names of results: made of what callers named their pictures, safe for every file system."""

import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

#: Characters that a file system or a shell of Windows refuses, or that would lead out of a folder.
_REFUSED: Final = frozenset('<>:"/\\|?*')
#: Unicode's categories of what is not shown: control, format (as that which turns the order of
#: letters round), surrogate, private, unassigned, and separators of lines and paragraphs.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Names that Windows keeps for devices, whatever their extension.
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{kind}{n}" for kind in ("com", "lpt") for n in "123456789¹²³"}
)
#: Most bytes of a stem in UTF-8: with a number and an extension it stays below the 255 of most
#: file systems.
_MAX_BYTES: Final = 200
#: Only so much of a longer name is looked at, from its end.
_MAX_LETTERS: Final = 4096


def safe_stem(name: str) -> str:
    """Return the last part of a path without its extension, as a name that any system can hold.

    It is in Unicode's form NFC, of at most 200 bytes in UTF-8, and `image` if nothing is left.
    """
    last = name[-_MAX_LETTERS:].replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, dot, extension = last.rpartition(".")
    text = unicodedata.normalize("NFC", stem if dot and stem and extension else last)
    stem = _cut("".join(_shown(text))).strip(" .-")
    if stem.partition(".")[0].rstrip(" ").casefold() in _DEVICES:
        stem = f"_{stem}"
    return stem or "image"


def numbered_names(wanted: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a file name for each input's name and result's extension; no name comes twice.

    `a.jpg` and `a.png`, both cut out to PNG, become `a.png` and `a-2.png`.
    """
    taken: set[str] = set()
    # The last number of each name, so that 10,000 equal ones are not all counted again for each.
    numbers: dict[str, int] = {}
    for name, extension in wanted:
        stem = safe_stem(name)
        # Some file systems do not distinguish upper and lower case.
        plain = found = f"{stem}.{extension}"
        number = numbers.get(plain.casefold(), 1)
        while found.casefold() in taken:
            number += 1
            found = f"{stem}-{number}.{extension}"
        numbers[plain.casefold()] = number
        taken.add(found.casefold())
        yield found


def _shown(text: str) -> Iterator[str]:
    """Yield the letters, with one hyphen for each row of refused ones."""
    refused = False
    for letter in islice(text, _MAX_LETTERS):
        if letter in _REFUSED or unicodedata.category(letter) in _HIDDEN:
            if not refused:
                yield "-"
            refused = True
        else:
            yield letter
            refused = False


def _cut(text: str) -> str:
    return text.encode()[:_MAX_BYTES].decode(errors="ignore")
