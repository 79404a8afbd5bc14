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
#: Of so many, a few MB of pixels at most.
_CODES_AT_A_TIME: Final = 1 << 12
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
    runs = _RunLengths(data[layout.offset :], layout)
    while runs.y < layout.height and runs.at < runs.count:
        runs.unpack_some()
    if (runs.y, runs.x) < (layout.height - 1, layout.width):
        raise InvalidImageError.of_early_end()
    return runs.pixels.reshape(-1, layout.width)


class _RunLengths:
    """Unpacks run lengths, some thousand codes at a time: what takes a step for each is slow."""

    def __init__(self, data: bytes, layout: BmpLayout) -> None:
        self._layout = layout
        self._bytes = np.frombuffer(data, np.uint8)
        #: Pairs of bytes: codes, and what belongs to them. Behind the last may be a step's, as 0.
        self.count = len(data) // 2
        self._pairs = np.append(self._bytes[: 2 * self.count], np.zeros(2, np.uint8)).reshape(-1, 2)
        self.pixels = np.zeros(layout.width * layout.height, np.uint8)
        #: The pair that is the next code, and the place of its first pixel.
        self.at = self.x = self.y = 0

    def unpack_some(self) -> None:
        """Write the pixels of the next codes, and step over them."""
        layout, numbers = self._layout, self._find_codes()
        counts, kinds = self._pairs[numbers].T.astype(np.int64)
        kinds[counts > 0] = -1
        ends = np.flatnonzero(kinds == _END_OF_PICTURE)
        if len(ends):
            numbers, counts, kinds = (each[: ends[0]] for each in (numbers, counts, kinds))
        literal, step, row_end = kinds > _STEP, kinds == _STEP, kinds == _END_OF_ROW
        first = 2 * numbers + 1 + literal
        stored = (len(self._bytes) - first) * _BYTE // layout.bits
        counts = np.where(literal, np.minimum(kinds, stored), counts)
        right, down = counts.copy(), row_end.astype(np.int64)
        right[step], down[step] = self._pairs[numbers[step] + 1].T
        # How far all codes go to the right, less how far those before the row went.
        past = np.append(0, np.cumsum(right))
        before = np.append(-self.x, np.where(row_end, past[1:], -self.x))
        x = past - np.maximum.accumulate(before)
        y = self.y + np.append(0, np.cumsum(down))
        room = np.where(y < layout.height, layout.width - x, 0)[:-1]
        self._copy(np.clip(room, 0, counts), (y * layout.width + x)[:-1], first, literal)
        self.x, self.y = (0, layout.height) if len(ends) else (int(x[-1]), int(y[-1]))

    def _find_codes(self) -> NDArray[np.int64]:
        """Return which of the next pairs are codes, and step over them."""
        start, end = self.at, min(self.at + _CODES_AT_A_TIME, self.count)
        counts, kinds = self._pairs[start:end].T
        literals = 1 - (-kinds.astype(np.int64) * self._layout.bits) // 16
        sizes = np.where(kinds > _STEP, literals, 1 + kinds // _STEP)
        steps, found, at = np.where(counts, 1, sizes).tolist(), [], 0
        while at < len(steps):
            found.append(at)
            at += steps[at]
        self.at += at
        return start + np.array(found)

    def _copy(
        self,
        counts: NDArray[np.int64],
        places: NDArray[np.int64],
        first: NDArray[np.int64],
        literal: NDArray[np.bool],
    ) -> None:
        """Copy so many pixels of each code to its place, from its first byte on or that alone."""
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        beyond = nth * self._layout.bits // _BYTE
        colors = self._bytes[np.repeat(first, counts) + np.repeat(literal, counts) * beyond]
        if self._layout.bits < _BYTE:  # two in each byte, the upper half first
            colors = np.where(nth % 2, colors & 15, colors >> 4)
        self.pixels[np.repeat(places, counts) + nth] = colors


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
