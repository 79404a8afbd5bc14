"""What a file says about its picture beside the pixels: which way is up, and what its colors are.

Metadata never decide whether a picture is taken: what is broken counts as absent.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Final

from inference.errors import ImageTooComplexError
from inference.tiff import Directory, Tag, TiffReader

_UPRIGHT: Final = 1
_ORIENTATIONS: Final = range(1, 9)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is applied to the pixels."""

    #: As EXIF numbers it (Exif 3.0, 4.6.5.1.6), 1 to 8.
    orientation: int = _UPRIGHT
    #: An ICC profile; None if the colors are sRGB.
    profile: bytes | None = None


def read_tiff_metadata(directory: Directory) -> Metadata:
    """Read the metadata of a TIFF's picture."""
    return Metadata(
        orientation=_read_orientation(directory), profile=directory.data(Tag.ICC_PROFILE) or None
    )


def read_exif(data: bytes) -> Metadata:
    """Read EXIF data, which are a TIFF without pixels, with or without the letters before it."""
    try:
        found = TiffReader(BytesIO(data.removeprefix(b"Exif\0\0")))
        first = found.directory(found.first)
    except ImageTooComplexError:
        first = None
    return Metadata() if first is None else Metadata(orientation=_read_orientation(first[0]))


def _read_orientation(directory: Directory) -> int:
    number = directory.integer(Tag.ORIENTATION, _UPRIGHT)
    return number if number in _ORIENTATIONS else _UPRIGHT
