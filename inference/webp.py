"""Walk the chunks of a WebP (RFC 9649) in bounded steps: its size, its first picture, its metadata.

No pixel is read here. A reader gets nothing but the chunks of the first picture.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, Final, NamedTuple

from inference.errors import ImageTooComplexError

#: Chunks of a file. Frames of an animation behind the first are not looked at.
MAX_CHUNKS: Final = 1_024
#: Metadata that are looked for: a profile's chunk stands before the picture, EXIF data behind it.
PROFILE: Final = b"ICCP"
EXIF: Final = b"EXIF"

_EXTENDED: Final = b"VP8X"
_LOSSY: Final = b"VP8 "
_LOSSLESS: Final = b"VP8L"
_ALPHA: Final = b"ALPH"
_FRAME: Final = b"ANMF"
_PICTURES: Final = frozenset({_LOSSY, _LOSSLESS})
_KNOWN: Final = frozenset({*_PICTURES, _EXTENDED, _ALPHA, _FRAME, b"ANIM", PROFILE, EXIF, b"XMP "})
_HEAD_BYTES: Final = 12
_FRAME_HEAD_BYTES: Final = 16
_ANIMATION_FLAG: Final = 0x02
_ALPHA_FLAG: Final = 0x10
#: No background, and no end of repeating.
_ANIMATION: Final = bytes(6)
#: Bytes that say the size of each picture.
_SIZE_BYTES: Final = 10


class Chunk(NamedTuple):
    """Where a chunk's data are."""

    kind: bytes
    start: int
    end: int


@dataclass(slots=True)
class WebP:
    """What the walk over a file found."""

    #: Width and height; None if the header is damaged.
    size: tuple[int, int] | None
    #: The chunks of the first picture, its alpha before its colors.
    picture: list[Chunk] = field(default_factory=list)
    #: The frame that it is in, if the file is an animation.
    frame: Chunk | None = None
    #: The first of each kind of metadata.
    metadata: dict[bytes, Chunk] = field(default_factory=dict)
    #: Whether all bytes of the picture are there.
    complete: bool = False


def walk_webp(file: BinaryIO) -> WebP:
    """Walk the chunks of a file.

    Raises:
        ImageTooComplexError: the file has more chunks than any honest writer makes.
    """
    length, found, loose = file.seek(0, 2), WebP(None), list[Chunk]()
    limit = length
    file.seek(4)
    claimed = 8 + int.from_bytes(file.read(4), "little")
    for chunk in _chunks(file, _HEAD_BYTES, length):
        if chunk.start > claimed and (found.frame or _find_picture(loose)):
            break  # what is appended to the file
        if chunk.kind == _EXTENDED and found.size is None:
            found.size = _read_size(file, chunk)
        elif chunk.kind == _FRAME and found.frame is None:
            found.frame = chunk
            inside = _chunks(file, chunk.start + _FRAME_HEAD_BYTES, min(chunk.end, length))
            found.picture = _find_picture(list(inside))
            limit = min(length, chunk.end)
        elif chunk.kind in {PROFILE, EXIF} and chunk.end <= length:
            found.metadata.setdefault(chunk.kind, chunk)
        else:
            loose.append(chunk)
    if found.frame is None:
        found.picture = _find_picture(loose)
        found.size = _read_size(file, found.picture[-1]) if found.picture else found.size
    if found.picture:
        # Encoders count the padding byte to lossy data, and some files lack it.
        spare = found.picture[-1].kind == _LOSSY
        found.complete = found.picture[-1].end <= limit + spare
    return found


def first_picture(data: bytes, found: WebP) -> bytes:
    """Return a file of the first picture of a complete file alone.

    One of an animation stays a frame on its canvas, which is clear: writers crop what is clear off
    a frame, and leave the flag of alpha unset if the rest is opaque.
    """
    chunks = b"".join(_chunk(each.kind, data[each.start : each.end]) for each in found.picture)
    if found.frame is not None and found.size is not None:
        head = data[found.frame.start : found.frame.start + _FRAME_HEAD_BYTES]
        flags = _ANIMATION_FLAG | _ALPHA_FLAG
        chunks = (
            _extension(flags, found.size)
            + _chunk(b"ANIM", _ANIMATION)
            + _chunk(_FRAME, head + chunks)
        )
    elif len(found.picture) > 1:
        size = _read_size(BytesIO(data), found.picture[-1]) or (1, 1)
        chunks = _extension(_ALPHA_FLAG, size) + chunks
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _find_picture(chunks: list[Chunk]) -> list[Chunk]:
    """Return the first colors among some chunks, after the alpha that precedes them."""
    at = next((at for at, chunk in enumerate(chunks) if chunk.kind in _PICTURES), None)
    if at is None:
        return []
    alpha = [chunk for chunk in chunks[:at] if chunk.kind == _ALPHA][-1:]
    return [*(alpha if chunks[at].kind == _LOSSY else []), chunks[at]]


def _chunks(file: BinaryIO, start: int, end: int) -> Iterator[Chunk]:
    at = start
    for _ in range(MAX_CHUNKS):
        if at + 8 > end:
            return
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        at += 8 + length
        yield Chunk(kind, at - length, at)
        if length % 2:
            file.seek(at)
            # Some writers omit the padding after an odd number of bytes.
            at += file.read(4) not in _KNOWN
    raise ImageTooComplexError.of_parts("chunks", MAX_CHUNKS)


def _read_size(file: BinaryIO, chunk: Chunk) -> tuple[int, int] | None:
    """Read width and height from a chunk's first bytes; None if they are not there.

    For the lossy kind they are where RFC 6386, section 9.1, has them.
    """
    file.seek(chunk.start)
    body = file.read(_SIZE_BYTES)
    if chunk.kind == _LOSSLESS and body[:1] == b"\x2f" and len(body) >= 5:  # noqa: PLR2004 - fixed
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if len(body) < _SIZE_BYTES:
        return None
    if chunk.kind == _EXTENDED:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:], "little")
    if chunk.kind == _LOSSY and body[3:6] == b"\x9d\x01\x2a":
        width, height = body[6:8], body[8:10]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    return None


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _extension(flags: int, size: tuple[int, int]) -> bytes:
    width, height = ((each - 1).to_bytes(3, "little") for each in size)
    return _chunk(_EXTENDED, bytes([flags, 0, 0, 0]) + width + height)
