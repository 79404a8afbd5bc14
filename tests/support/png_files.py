"""Files of PNGs, made chunk by chunk."""

import struct
import zlib


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    size: tuple[int, int], pixels: bytes, *more: bytes, depth: int = 8, kind: int = 0
) -> bytes:
    """A PNG of compressed rows, gray of 8 bits unless said, with more chunks before its pixels."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    parts = (head, *more, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
