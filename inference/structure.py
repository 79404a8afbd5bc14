"""Walk the structure of an image file: its size, its end, and how much work it asks of a reader.

The walks read with their own few lines instead of Pillow's plugins: those keep, unpack and join
what they meet before the first pixel, so that a small file can make them use seconds and gigabytes.
Each walk takes a bounded number of steps, whatever the file says.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import BinaryIO, Final

from inference.bmp import READ_HEADERS, BmpLayout
from inference.errors import ImageTooComplexError
from inference.heif import walk_heif
from inference.jpeg import walk_jpeg
from inference.tiff import (
    JPEG,
    Layout,
    describe_unreadable,
    find_picture,
    is_camera_raw,
    read_layout,
)
from inference.webp import walk_webp

#: Chunks of a PNG; 60 MB of the usual 8 KiB chunks are 7,700.
MAX_PARTS: Final = 32_768
#: The tiles of a HEIC, AVIF or TIFF may have this many times the picture's pixels, and some more,
#: since a small picture takes whole tiles. That includes its alpha, depth and similar maps.
MAX_TILE_RATIO: Final = 4
_SPARE_TILE_PIXELS: Final = 1 << 22

#: Bytes of a JPEG at most for a sample, and beside those for its tables.
_JPEG_BYTES: Final = 8
_JPEG_HEAD_BYTES: Final = 1 << 12

#: What a file is called that holds what a sensor saw, not yet a picture.
CAMERA_RAW: Final = "Camera raw files (such as DNG, NEF, CR2, ARW)"


@dataclass(frozen=True, slots=True)
class Structure:
    """What the walk over a file found."""

    #: Width and height as stored; None if the header is damaged.
    size: tuple[int, int] | None
    #: False if the file certainly ends before its picture does. Bytes after the picture, as cameras
    #: and editors append them, are ignored.
    complete: bool = True
    #: What no reader takes, such as "12-bit JPEG files"; empty for the kinds that are read.
    unreadable: str = ""
    #: The format, where the first bytes leave it open or name another; empty where they tell.
    format: str = ""


def walk_structure(file: BinaryIO, name: str, prefix: bytes) -> Structure:
    """Walk a file of an accepted format.

    Raises:
        ImageTooComplexError: the file has more parts than any honest writer makes.
    """
    return _WALKS[name](file, prefix)


def _check_tiles(pixels: int, size: tuple[int, int]) -> None:
    """Refuse a picture whose tiles have many times its pixels, all of which are decoded."""
    if pixels > MAX_TILE_RATIO * size[0] * size[1] + _SPARE_TILE_PIXELS:
        raise ImageTooComplexError(
            f"The image is put together from tiles of more than {MAX_TILE_RATIO} times its pixels, "
            "and would take too long to decode. Save it again in an image editor."
        )


def _walk_jpeg(file: BinaryIO, _: bytes) -> Structure:
    found = walk_jpeg(file)
    if found.frame is None:
        return Structure(None, complete=False)
    size = found.frame.width, found.frame.height
    return Structure(size, complete=found.complete, unreadable=found.frame.unreadable)


def _walk_png(file: BinaryIO, prefix: bytes) -> Structure:
    size = None
    if prefix[12:16] == b"CgBI":
        return Structure((1, 1), unreadable="PNG files made for iPhone apps (CgBI)")
    if prefix[12:16] == b"IHDR" and len(prefix) >= 24:  # noqa: PLR2004 - up to the height
        size = int.from_bytes(prefix[16:20], "big"), int.from_bytes(prefix[20:24], "big")
    at, end, pixels = 8, file.seek(0, 2), False
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            # The last chunks may be missing, but no pixels: chunks of them were whole so far.
            return Structure(size, complete=pixels)
        file.seek(at)
        head = file.read(8)
        if head[4:] == b"IEND":
            return Structure(size)
        at += 8 + int.from_bytes(head[:4], "big")
        if head[4:] == b"IDAT":
            pixels = at <= end
            if not pixels:
                return Structure(size, complete=False)
        at += 4
    raise ImageTooComplexError.of_parts("chunks", MAX_PARTS)


def _walk_webp(file: BinaryIO, _: bytes) -> Structure:
    found = walk_webp(file)
    return Structure(found.size, complete=found.complete)


def _walk_gif(file: BinaryIO, prefix: bytes) -> Structure:
    if len(prefix) < 13:  # noqa: PLR2004 - the logical screen descriptor's end
        return Structure(None)
    size = int.from_bytes(prefix[6:8], "little"), int.from_bytes(prefix[8:10], "little")
    return Structure(size if all(size) else _read_frame_size(file, prefix[10]))


def _read_frame_size(file: BinaryIO, flags: int) -> tuple[int, int] | None:
    """Return the size of a GIF's first frame: where its canvas has none, viewers show that."""
    file.seek(13 + (3 << (flags & 7) + 1 if flags >> 7 else 0))  # behind the color table
    within = False
    for _ in range(MAX_PARTS):
        byte = file.read(1)
        if within:  # an extension, which is parted into blocks up to an empty one
            within = byte > b"\0"
            file.seek(int.from_bytes(byte), 1)
        elif byte == b"!":
            within = bool(file.read(1))
        elif byte == b"," and len(place := file.read(8)) == 8:  # noqa: PLR2004 - four numbers
            left, top, width, height = struct.unpack("<4H", place)
            return left + width, top + height
        else:
            return None
    raise ImageTooComplexError.of_parts("blocks", MAX_PARTS)


def _walk_bmp(file: BinaryIO, prefix: bytes) -> Structure:
    header = int.from_bytes(prefix[14:18], "little")
    if header == 12 and len(prefix) >= 22:  # noqa: PLR2004 - BITMAPCOREHEADER, up to the height
        return Structure(
            (int.from_bytes(prefix[18:20], "little"), int.from_bytes(prefix[20:22], "little"))
        )
    if not 16 <= header <= 124 or len(prefix) < 26:  # noqa: PLR2004 - the later headers' sizes
        return Structure(None)
    if header not in READ_HEADERS:
        return Structure((1, 1), unreadable=f"BMP files of OS/2 with a header of {header} bytes")
    width = int.from_bytes(prefix[18:22], "little", signed=True)
    # A negative height says that the top row comes first.
    size = width, abs(int.from_bytes(prefix[22:26], "little", signed=True))
    layout = BmpLayout.read(prefix)
    if layout is None:
        return Structure(size)
    return Structure(
        size,
        complete=layout.is_complete(file.seek(0, 2)),
        unreadable=layout.describe_unreadable(),
    )


def _walk_tiff(file: BinaryIO, _: bytes) -> Structure:
    """Find the picture among the directories; of its tags, only those of its pixels are read."""
    if is_camera_raw(file):
        return Structure((1, 1), unreadable=CAMERA_RAW)
    directory = find_picture(file)
    layout = None if directory is None else read_layout(directory)
    if layout is None:
        return Structure(None)
    size = layout.width, layout.height
    if layout.tiled:
        _check_tiles(layout.tile[0] * layout.tile[1], size)
    length = file.seek(0, 2)
    if layout.compression == JPEG:
        _check_blocks(layout, length)
    return Structure(
        size,
        complete=layout.is_complete(length),
        unreadable=describe_unreadable(layout),
    )


def _check_blocks(layout: Layout, length: int) -> None:
    """Refuse strips or tiles that lie within each other: of a JPEG, all bytes are read.

    Equal ones, such as white tiles, may be stored once, but have few bytes for their pixels.
    """
    few = _JPEG_BYTES * layout.samples * layout.tile[0] * layout.tile[1] + _JPEG_HEAD_BYTES
    if sum(layout.lengths) > length + few * len(layout.lengths):
        raise ImageTooComplexError(
            "The image is put together from strips or tiles that lie within each other, and would "
            "take too long to decode. Save it again in an image editor."
        )


def _walk_heif(file: BinaryIO, _: bytes) -> Structure:
    found = walk_heif(file)
    if found.size is None:
        return Structure(None)
    _check_tiles(found.pixels, found.size)
    return Structure(
        found.size, complete=found.complete, unreadable=found.unreadable, format=found.format
    )


_WALKS: Final[Mapping[str, Callable[[BinaryIO, bytes], Structure]]] = MappingProxyType(
    {
        "JPEG": _walk_jpeg,
        "PNG": _walk_png,
        "WEBP": _walk_webp,
        "GIF": _walk_gif,
        "BMP": _walk_bmp,
        "TIFF": _walk_tiff,
        "HEIC": _walk_heif,
        "AVIF": _walk_heif,
    }
)
