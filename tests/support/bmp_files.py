"""BMPs whose pixels are divided by masks, or numbers of colors."""

import struct

import numpy as np
from numpy.typing import NDArray

#: Any levels of red, green, blue and alpha: (4, 5, 4).
LEVELS = np.random.default_rng(7).integers(0, 256, (4, 5, 4), dtype=np.uint8)
#: The usual masks of red, green, blue and alpha.
BGRA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def bmp_file(
    masks: tuple[int, ...] = BGRA,
    *,
    bits: int = 32,
    header: int = 124,
    compression: int = 3,
    top_down: bool = False,
    levels: NDArray[np.uint8] = LEVELS,
) -> bytes:
    """A BMP with these masks of red, green, blue and perhaps alpha."""
    words = np.zeros(levels.shape[:2], np.int64)
    for channel, mask in enumerate(masks):
        if mask:
            low = mask & -mask
            scaled = np.rint(levels[..., channel] / 255 * (mask // low)).astype(np.int64)
            words |= scaled * low & mask
    rows = words.astype(f"<u{bits // 8}")
    padding = bytes(-rows[0].nbytes % 4)
    stored = b"".join(row.tobytes() + padding for row in (rows if top_down else rows[::-1]))
    height, width = levels.shape[:2]
    height = -height if top_down else height
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, *[0] * 5)
    info += struct.pack(f"<{len(masks)}I", *masks)
    info += bytes(max(0, header - len(info)))
    return struct.pack("<2sIII", b"BM", 0, 0, 14 + len(info)) + info + stored


def indexed_bmp(bits: int, compression: int, rows: bytes, colors: int = 16) -> bytes:
    """A BMP of 4 x 3 pixels, the last row first, whose colors have their own number as red."""
    palette = b"".join(bytes([0, 9, each % 256, 0]) for each in range(colors))
    head = (40, 4, 3, 1, bits, compression, 0, 0, 0, colors, 0)
    info = struct.pack("<IiiHHIIiiII", *head)
    return struct.pack("<2sIII", b"BM", 0, 0, 14 + len(info + palette)) + info + palette + rows
