"""What a file says about its picture beside the pixels: which way is up, and what its colors are.

Metadata never decide whether a picture is taken: what is broken counts as absent.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Final

from inference.color import (
    ADOBE_RGB,
    SRGB,
    Chromaticities,
    gamma_curve,
    is_like_srgb,
    make_profile,
    srgb_curve,
    table_curve,
)
from inference.tiff import Directory, Photometric, Tag, TiffReader

_UPRIGHT: Final = 1
_ORIENTATIONS: Final = range(1, 9)
_ADOBE_RGB: Final = 2
_UNCALIBRATED: Final = 65_535
#: Kinds of a TIFF whose samples are levels of light.
_LIGHT_KINDS: Final = frozenset({Photometric.BLACK_IS_ZERO, Photometric.RGB, Photometric.YCBCR})
_DEEP: Final = 16


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
        orientation=_read_orientation(directory),
        profile=directory.data(Tag.ICC_PROFILE)
        or _read_primaries(directory)
        or _read_color_space(directory),
    )


def read_exif(data: bytes) -> Metadata:
    """Read EXIF data, which are a TIFF without pixels, with or without the letters before it.

    The profile is that of Adobe RGB, if they say that colors are so.
    """
    reader = TiffReader(BytesIO(data.removeprefix(b"Exif\0\0")))
    first = reader.sound_directory(reader.first)
    if first is None:
        return Metadata()
    return Metadata(_read_orientation(first), _read_color_space(first))


def _read_color_space(first: Directory) -> bytes | None:
    """Return the profile of Adobe RGB, if EXIF says so (Exif 3.0, 4.6.6; DCF 2.0, 5.9.2).

    Cameras say that colors are uncalibrated, and that the file follows the rules R03; some programs
    write a number of their own.
    """
    exif = first.subdirectory(Tag.EXIF)
    space = 0 if exif is None else exif.integer(Tag.COLOR_SPACE, 0)
    if exif is not None and space == _UNCALIBRATED:
        rules = exif.subdirectory(Tag.INTEROPERABILITY)
        if rules is not None and rules.data(Tag.INTEROPERABILITY_INDEX)[:3] == b"R03":
            space = _ADOBE_RGB
    return make_profile(ADOBE_RGB, gamma_curve(563 / 256)) if space == _ADOBE_RGB else None


def _read_primaries(directory: Directory) -> bytes | None:
    """Return the profile of the primaries and the curve that a TIFF states (TIFF 6.0, section 20).

    Of three curves, the first counts for all.
    """
    kind = directory.integer(Tag.PHOTOMETRIC, 0)
    if kind not in _LIGHT_KINDS:
        return None
    white, primaries = directory.numbers(Tag.WHITE_POINT), directory.numbers(Tag.PRIMARIES)
    colors = SRGB
    if len(white) == 2 and len(primaries) == 6:  # noqa: PLR2004 - x and y of each
        numbers = (*white, *primaries)
        colors = Chromaticities(*zip(numbers[::2], numbers[1::2], strict=True))
    # A table for each level, of one channel or three; of 16 bits it has 65,536 entries.
    levels = directory.integer(Tag.BITS, 1)
    table = directory.integers(Tag.TRANSFER_FUNCTION, 3 << levels) if levels <= _DEEP else ()
    if len(table) in {1 << levels, 3 << levels}:
        curve = table_curve(table[: 1 << levels])
    elif colors == SRGB or is_like_srgb(colors):
        return None
    else:
        curve = srgb_curve
    return make_profile(colors, curve, gray=kind == Photometric.BLACK_IS_ZERO)


def _read_orientation(directory: Directory) -> int:
    number = directory.integer(Tag.ORIENTATION, _UPRIGHT)
    return number if number in _ORIENTATIONS else _UPRIGHT
