"""Read a PNG: its chunks in bounded steps, and nothing but those of the pixels by a reader.

What stands in ancillary chunks is told here: a text of any length, a chunk that is short or whose
checksum is wrong never reaches the reader, and decides nothing.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Final

import numpy as np
from isal import isal_zlib
from PIL import Image, PngImagePlugin

from inference.color import (
    CURVES,
    PRIMARIES,
    SRGB,
    Chromaticities,
    make_coded_profile,
    make_gamma_profile,
)
from inference.errors import InvalidImageError
from inference.metadata import Metadata, read_exif

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: A profile's bytes at most; those of printers have 4 MB.
_MAX_PROFILE_BYTES: Final = 1 << 23
_PIECE_BYTES: Final = 1 << 20
#: Samples of a pixel by the color type.
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_GRAY_TYPES: Final = frozenset({0, 4})
_PALETTE: Final = 3
_RGB: Final = 2
_DEEP: Final = 16
#: How Pillow reads 16 bits of which the first byte is the lower one.
_LOW_BYTES: Final = "RGB;16L"
#: What says how colors are meant; without any of these EXIF data may.
_COLOR_CHUNKS: Final = frozenset({b"cICP", b"iCCP", b"sRGB", b"gAMA"})
#: Where each pass of Adam7 begins and how far its pixels are apart: x, y, x step, y step.
_PASSES: Final = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def load_png(data: bytes) -> tuple[Image.Image, Metadata]:
    """Read a PNG's pixels, and what is to be applied to them; a PNG that was probed.

    Raises:
        InvalidImageError: it has fewer pixels than it says.
        Exception: whatever Pillow's reader meets.
    """
    chunks = dict[bytes, bytes]()
    parts, pixels = [_SIGNATURE], []
    for kind, body, checked in _chunks(data):
        if kind in {b"IHDR", b"PLTE"} and kind not in chunks:
            parts.append(_chunk(kind, body, right=checked))
            chunks[kind] = body
        elif kind == b"IDAT":
            pixels.append(body)
        elif checked and (not pixels or kind == b"eXIf"):  # the others go before pixels
            chunks.setdefault(kind, body)
    header = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    _check_length(pixels, header)
    transparency = chunks.get(b"tRNS", b"")
    if _fits(transparency, header[3], chunks):
        parts.append(_chunk(b"tRNS", transparency))
    parts += [_chunk(b"IDAT", body) for body in pixels]
    file = b"".join([*parts, _chunk(b"IEND", b"")])
    image: Image.Image = _read(file)
    if image.info.get("transparency") is not None and header[2:4] == (_DEEP, _RGB):
        image = _with_deep_transparency(image, file, transparency)
    else:
        _scale_transparency(image, header[2], header[3])
    exif = read_exif(chunks.get(b"eXIf", b""))
    profile = _read_profile(chunks, gray=header[3] in _GRAY_TYPES)
    if not _COLOR_CHUNKS & chunks.keys():
        profile = exif.profile
    return image, Metadata(exif.orientation, profile)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield each chunk's kind and body, and whether its checksum is right; up to the end."""
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body, stored = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if kind == b"IEND":
            return
        # That of pixels is judged by their own checksum.
        known = kind == b"IDAT" or int.from_bytes(stored, "big") == zlib.crc32(kind + body)
        yield kind, body, known and len(body) == length
        at += 12 + length


def _chunk(kind: bytes, body: bytes, *, right: bool = True) -> bytes:
    checksum = zlib.crc32(kind + body) ^ (not right)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def _check_length(pixels: list[bytes], header: tuple[int, ...]) -> None:
    """Refuse pixels that end before the picture does: a reader would leave the rest black."""
    width, height, depth, kind, _, _, interlaced = header
    bits = depth * _CHANNELS.get(kind, 0)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * bits // 8))
    inflate, length = isal_zlib.decompressobj(), 0
    for body in pixels:
        rest = body
        while length < expected and not inflate.eof:
            length += len(inflate.decompress(rest, _PIECE_BYTES))
            rest = inflate.unconsumed_tail
            if not rest:
                break
    if length < expected:
        raise InvalidImageError.of_early_end()


def _fits(transparency: bytes, kind: int, chunks: dict[bytes, bytes]) -> bool:
    if kind == _PALETTE:
        return 0 < len(transparency) <= len(chunks.get(b"PLTE", b"")) // 3
    return len(transparency) == {0: 2, _RGB: 6}.get(kind, -1)


def _read(file: bytes, raw_mode: str | None = None) -> Image.Image:
    """Read the pixels, by a raw mode of Pillow's other than its own if one is named."""
    image = PngImagePlugin.PngImageFile(BytesIO(file))
    if raw_mode is not None:
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    image.load()
    return image


def _with_deep_transparency(image: Image.Image, file: bytes, color: bytes) -> Image.Image:
    """Make clear what has a color of 16 bits: all of them count (PNG, third edition, 13.15).

    The reader takes the high bytes alone, and the low ones where it takes them for the high ones.
    """
    clear = np.logical_and(
        (np.asarray(image) == tuple(color[::2])).all(axis=2),
        (np.asarray(_read(file, _LOW_BYTES)) == tuple(color[1::2])).all(axis=2),
    )
    image.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    del image.info["transparency"]
    return image


def _scale_transparency(image: Image.Image, depth: int, kind: int) -> None:
    """Scale the transparent color as the reader scales pixels: from 1, 2, 4 or 8 bits to 8."""
    color = image.info.get("transparency")
    top = (1 << depth) - 1
    if kind == 0 and isinstance(color, int) and depth < _DEEP:
        image.info["transparency"] = (color & top) * 255 // top
    elif kind == _RGB and isinstance(color, tuple):
        image.info["transparency"] = tuple(level & 255 for level in color)


def _read_profile(chunks: dict[bytes, bytes], *, gray: bool) -> bytes | None:
    """Return the profile of the colors; the first of these counts (PNG, third edition, 4.3)."""
    code = chunks.get(b"cICP", b"")
    if len(code) == 4 and code[0] in PRIMARIES and code[1] in CURVES:  # noqa: PLR2004
        return make_coded_profile(code[0], code[1], gray=gray)
    embedded = _inflate_profile(chunks.get(b"iCCP", b""))
    if embedded is not None or b"sRGB" in chunks:
        return embedded
    stored = chunks.get(b"gAMA", b"")
    gamma = int.from_bytes(stored, "big") if len(stored) == 4 else 0  # noqa: PLR2004
    if not gamma:
        return None
    colors = SRGB
    if len(chunks.get(b"cHRM", b"")) == 32:  # noqa: PLR2004 - eight numbers
        numbers = [each / 100_000 for each in struct.unpack(">8I", chunks[b"cHRM"])]
        colors = Chromaticities(*zip(numbers[::2], numbers[1::2], strict=True))
    return make_gamma_profile(colors, 100_000 / gamma, gray=gray)


def _inflate_profile(chunk: bytes) -> bytes | None:
    name, _, packed = chunk.partition(b"\0")
    if not name or not packed:
        return None
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(packed[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflate.eof else None
