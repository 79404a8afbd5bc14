"""Files of PNGs, made chunk by chunk."""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def png_of_samples(kind: int, depth: int, samples: NDArray[Any], *chunks: bytes) -> bytes:
    """A PNG of a color type and so many bits a sample, with more chunks before its pixels.

    The samples are (height, width, channels).
    """
    bits = samples.astype(np.uint16)[..., None] >> np.arange(depth, dtype=np.uint16)[::-1] & 1
    packed = np.packbits(bits.astype(np.uint8).reshape(len(samples), -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    height, width, _ = samples.shape
    return png_file((width, height), zlib.compress(lines), *chunks, depth=depth, kind=kind)
