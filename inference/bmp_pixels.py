"""Read the pixels of a BMP that are divided into colors and alpha by masks of bits, or run lengths.

Of masks, Pillow reads some, and takes the alpha of fewer; of run lengths, it reads those that reach
each pixel. The other kinds of BMP are its.
"""

import struct
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.bmp import HEAD_BYTES, BmpLayout, read_profile
from inference.errors import InvalidImageError
from inference.metadata import Metadata
from inference.probe import open_image

#: Pixels converted at a time.
_STRIP_PIXELS: Final = 1 << 18
_TOP: Final = 255
#: Compressions in run lengths, and the bits of a pixel that each is for.
_RUN_LENGTHS: Final = frozenset({(1, 8), (2, 4)})
_BYTE: Final = 8
_FEW_BYTES: Final = 64
_HEXADECIMAL: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))
#: What follows a run of no pixels: the end of a row or of the picture, a step to another place, or
#: so many pixels as they are.
_END_OF_ROW: Final = 0
_END_OF_PICTURE: Final = 1
_STEP: Final = 2
#: Where a header says how many colors a palette has; the palette follows the header.
_COLORS_AT: Final = 46
_HEADER_AT: Final = 14
_ENTRY_BYTES: Final = 4


def load_bmp(data: bytes) -> tuple[Image.Image, Metadata]:
    """Read a BMP that was probed, and what is to be applied to its pixels.

    An alpha that is 0 everywhere becomes opaque: so writers leave it that do not know it.

    Raises:
        InvalidImageError: run lengths end before the picture does.
        ValueError: the file has fewer pixels than it says.
        Exception: whatever Pillow's reader meets.
    """
    layout = BmpLayout.read(data[:HEAD_BYTES])
    if layout is not None and layout.masks:
        image = _load_masked(data, layout)
    elif layout is not None and (layout.compression, layout.bits) in _RUN_LENGTHS:
        rows = _unpack_runs(data, layout)
        colors = _read_palette(data, layout)
        image = Image.fromarray(colors[rows if layout.top_down else rows[::-1]])
    else:
        image = open_image(BytesIO(_fit_palette(data, layout)), "BMP")
        image.load()
    return image, Metadata(profile=read_profile(data))


def _fit_palette(data: bytes, layout: BmpLayout | None) -> bytes:
    """Return a file whose palette has as many colors as a pixel can name, if it had more."""
    if layout is None or struct.unpack_from("<I", data, _COLORS_AT)[0] <= 1 << layout.bits:
        return data
    return data[:_COLORS_AT] + bytes(4) + data[_COLORS_AT + 4 :]  # as many as it can


def _load_masked(data: bytes, layout: BmpLayout) -> Image.Image:
    """Read pixels in mode RGB or RGBA."""
    rows = np.ndarray(
        (layout.height, layout.width),
        f"<u{layout.bits // 8}",
        data,
        layout.offset,
        (layout.row_bytes, layout.bits // 8),
    )
    masks = layout.masks if layout.masks[3] else layout.masks[:3]
    pixels = _split(rows if layout.top_down else rows[::-1], masks)
    if layout.masks[3] and not pixels[..., 3].any():
        pixels[..., 3] = _TOP
    return Image.fromarray(pixels)


def _read_palette(data: bytes, layout: BmpLayout) -> NDArray[np.uint8]:
    """Return red, green and blue of all 256 colors; those that a palette lacks are black."""
    start = _HEADER_AT + int.from_bytes(data[_HEADER_AT : _HEADER_AT + 4], "little")
    count = struct.unpack_from("<I", data, _COLORS_AT)[0] or 1 << layout.bits
    stored = data[start : start + min(count, 1 << layout.bits) * _ENTRY_BYTES]
    entries = np.frombuffer(stored.ljust(256 * _ENTRY_BYTES, b"\0"), np.uint8)
    return entries.reshape(-1, _ENTRY_BYTES)[:, 2::-1]


def _unpack_runs(data: bytes, layout: BmpLayout) -> NDArray[np.uint8]:
    """Return the colors' numbers, (height, width), in the order of the file.

    Pixels that are stepped over, or behind an end, have the first color.

    Raises:
        InvalidImageError: the data end before the picture does.
    """
    width, bits = layout.width, layout.bits
    rows = bytearray(width * layout.height)
    codes = data[layout.offset :]
    counts = np.frombuffer(codes, np.uint8)[: len(codes) // 2 * 2 : 2]
    escapes = (2 * np.flatnonzero(counts == 0)).data
    x = y = at = number = 0
    while y < layout.height:
        while number < len(escapes) and escapes[number] < at:
            number += 1  # a zero among pixels as they are
        escape = escapes[number] if number < len(escapes) else 2 * len(counts)
        pixels = _repeat(codes[at:escape], width - x, bits) if at < escape else b""
        x += _put(rows, y * width + x, pixels, width - x)
        if escape == 2 * len(counts):
            break
        kind, at = codes[escape + 1], escape + 2
        if kind == _END_OF_ROW:
            x, y = 0, y + 1
        elif kind == _END_OF_PICTURE:
            y = layout.height
        elif kind == _STEP:
            right, down = codes[at : at + 2] if at + 1 < len(codes) else (0, 0)
            x, y, at = x + right, y + down, at + 2
        else:
            size = -(-kind * bits // _BYTE)
            pixels = _unpack(codes[at : at + size], bits)[:kind]
            x += _put(rows, y * width + x, pixels, width - x)
            at += size + size % 2
    if (y, x) < (layout.height - 1, width):
        raise InvalidImageError.of_early_end()
    return np.frombuffer(rows, np.uint8).reshape(-1, width)


def _put(rows: bytearray, at: int, pixels: bytes, room: int) -> int:
    """Write the pixels that there is room for, and return how many."""
    count = max(0, min(len(pixels), room))
    rows[at : at + count] = pixels[:count]
    return count


def _repeat(runs: bytes, room: int, bits: int) -> bytes:
    """Return the pixels of counts and colors, not many more than there is room for."""
    if len(runs) <= _FEW_BYTES:  # numpy would take longer
        pairs = zip(runs[::2], runs[1::2], strict=True)
        return b"".join([(_unpack(bytes([color]), bits) * count)[:count] for count, color in pairs])
    table = np.frombuffer(runs, np.uint8).reshape(-1, 2)
    ends = np.cumsum(table[:, 0], dtype=np.int64)
    counts, colors = table[: np.searchsorted(ends, max(room, 0)) + 1].T
    pixels = np.repeat(colors, counts)
    if bits < _BYTE:  # two colors by turns, in each run from the upper half of its byte on
        starts = np.repeat(ends[: len(counts)] - counts, counts)
        pixels = np.where((np.arange(len(pixels)) - starts) % 2, pixels & 15, pixels >> 4)
    return pixels.tobytes()


def _unpack(data: bytes, bits: int) -> bytes:
    """Return the numbers of colors in bytes, one or two in each, as a byte each."""
    return data if bits == _BYTE else data.hex().encode().translate(_HEXADECIMAL)


def _split(words: NDArray[np.unsignedinteger], masks: tuple[int, ...]) -> NDArray[np.uint8]:
    """Divide (height, width) words into (height, width, masks) levels; an empty mask gives 0."""
    height, width = words.shape
    pixels = np.zeros((height, width, len(masks)), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for channel, mask in enumerate(masks):
        if not mask:
            continue
        # Of more than 8 bits, the highest count.
        shift = max((mask & -mask).bit_length() - 1, mask.bit_length() - 8)
        top = mask >> shift
        levels = np.rint(np.arange(top + 1) * (_TOP / top)).astype(np.uint8)
        for start in range(0, height, rows):
            strip = slice(start, start + rows)
            pixels[strip, :, channel] = levels[(words[strip] & mask) >> shift]
    return pixels
