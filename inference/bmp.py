"""Read the header of a BMP: how its pixels are stored, and whether they are all there.

No pixel is read here: `inference.bmp_pixels` does that.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from inference.color import SRGB, Chromaticities, make_gamma_profile

#: Headers in which masks stand, or which they follow: BITMAPINFOHEADER and V2 to V5.
_HEADERS: Final = frozenset({40, 52, 56, 108, 124})
#: Sizes of the headers that are read, that of OS/2 2.0 in full among them. Others leave off parts.
READ_HEADERS: Final = _HEADERS | {12, 64}
#: The first of them that has a mask of alpha.
_V3_HEADER: Final = 56
#: Masks stand in the same place for each header, or after the shortest.
_MASKS_AT: Final = 54
#: Bytes of a file up to the end of all masks.
HEAD_BYTES: Final = _MASKS_AT + 16
_BITFIELDS: Final = 3
_ALPHA_BITFIELDS: Final = 6
#: Compressions that are none: the length of the rows is known.
_UNPACKED: Final = frozenset({0, _BITFIELDS, _ALPHA_BITFIELDS})
_FOREIGN: Final[Mapping[int, str]] = MappingProxyType({4: "JPEG", 5: "PNG"})
_DEPTHS: Final = frozenset({1, 4, 8, 16, 24, 32})


@dataclass(frozen=True, slots=True)
class BmpLayout:
    """How the pixels of a BMP are stored."""

    width: int
    height: int
    top_down: bool
    bits: int
    compression: int
    offset: int
    #: Masks of red, green, blue and alpha; empty if the pixels are not divided by masks.
    masks: tuple[int, ...]

    @classmethod
    def read(cls, head: bytes) -> Self | None:
        """Read a file's first bytes; None if its header is older, short, or of no known kind."""
        if len(head) < HEAD_BYTES or int.from_bytes(head[14:18], "little") not in _HEADERS:
            return None
        offset, header, width, height, _, bits, compression = struct.unpack_from(
            "<IIiiHHI", head, 10
        )
        masks: tuple[int, ...] = ()
        if compression in {_BITFIELDS, _ALPHA_BITFIELDS} and bits in {16, 32} and offset:
            word = (1 << bits) - 1
            *colors, alpha = (each & word for each in struct.unpack_from("<4I", head, _MASKS_AT))
            with_alpha = header >= _V3_HEADER or compression == _ALPHA_BITFIELDS
            masks = (*colors, alpha if with_alpha else 0) if any(colors) else ()
        return cls(width, abs(height), height < 0, bits, compression, offset, masks)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, which is padded to four."""
        return (self.width * self.bits + 31) // 32 * 4

    def is_complete(self, length: int) -> bool:
        """Return whether a file of this length has all rows; some writers omit the last padding."""
        if self.compression not in _UNPACKED:
            return True
        last = (self.width * self.bits + 7) // 8
        return self.offset + (self.height - 1) * self.row_bytes + last <= length

    def describe_unreadable(self) -> str:
        """Name what no reader takes, or return an empty text."""
        if self.compression in _FOREIGN:
            return f"BMP files with {_FOREIGN[self.compression]} data"
        if self.bits not in _DEPTHS:
            return f"BMP files of {self.bits} bits a pixel"
        if any(_has_gaps(mask) for mask in self.masks):
            return "BMP files whose masks have gaps"
        return ""


def _has_gaps(mask: int) -> bool:
    """Return whether the bits of a mask do not lie side by side."""
    filled = mask | (mask - 1) if mask else 0
    return filled & (filled + 1) != 0


#: Headers that say how colors are meant: of calibrated ones, the primaries and the curve; V5, a
#: profile too. Where that stands in a file.
_V4_HEADER: Final = 108
_V5_HEADER: Final = 124
_COLOR_SPACE_AT: Final = 70
_PROFILE_AT: Final = 126
_HEADER_AT: Final = 14
_CALIBRATED: Final = 0
#: As a number in the file's byte order, and so backwards.
_EMBEDDED: Final = int.from_bytes(b"MBED", "big")


def read_profile(data: bytes) -> bytes | None:
    """Return the profile of a BMP's colors; None if they are sRGB, or what says so is broken."""
    header = int.from_bytes(data[_HEADER_AT:18], "little")
    if header not in {_V4_HEADER, _V5_HEADER} or len(data) < _HEADER_AT + header:
        return None
    kind, *numbers = struct.unpack_from("<13I", data, _COLOR_SPACE_AT)
    if kind == _EMBEDDED and header == _V5_HEADER:
        at, length = struct.unpack_from("<II", data, _PROFILE_AT)
        return data[_HEADER_AT + at : _HEADER_AT + at + length] or None
    if kind != _CALIBRATED or not all(numbers):
        return None
    # X, Y and Z of each primary with 30 bits behind the point, and a power with 16.
    primaries = [
        (x / (x + y + z), y / (x + y + z))
        for x, y, z in zip(numbers[0:9:3], numbers[1:9:3], numbers[2:9:3], strict=True)
    ]
    colors = Chromaticities(SRGB.white, *primaries)
    exponent = numbers[10] / (1 << 16)
    # Some writers give the inverse.
    return make_gamma_profile(colors, exponent if exponent >= 1 else 1 / exponent)
