"""Read the pixels of a TIFF: samples of any depth, in pixels or planes, as an 8-bit picture.

The bytes of strips and tiles are unpacked by libtiff, through Pillow, as those of a gray picture of
8 bits, and what they mean is told here. A directory is written anew for that with the tags of the
pixels alone: what else a file holds reaches no reader.
"""

import struct
from collections.abc import Iterator, Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from inference.jpeg import END_OF_IMAGE, START_OF_IMAGE
from inference.jpeg_pixels import require_all_data
from inference.metadata import Metadata, read_tiff_metadata
from inference.tiff import (
    BYTE_COMPRESSIONS,
    COLOR_SAMPLES,
    JPEG,
    UNCOMPRESSED,
    Directory,
    Layout,
    Photometric,
    Tag,
    find_picture,
    read_layout,
)

Samples = NDArray[np.generic]

#: Samples handled at a time, so that their wider copies stay small.
_SAMPLES_AT_A_TIME: Final = 1 << 20
_MAX_8_BIT: Final = 255
#: Of floats, of which 1 is white; in a picture of 0 to 255, this is next to black.
_BRIGHTEST_HIGHLIGHT: Final = 16
_MAX_16_BIT: Final = 65535
_SIGNED: Final = 2
_FLOAT: Final = 3
_FLOATING_POINT: Final = 3  # predictor
_HORIZONTAL: Final = 2  # predictor
_REVERSED_BITS: Final = 2  # fill order
_NATIVE_BITS: Final = frozenset({8, 16, 32, 64})
#: Modes of Pillow by what the samples are, where that is not gray or RGB.
_MODES: Final[Mapping[int, str]] = MappingProxyType(
    {Photometric.CMYK: "CMYK", Photometric.LAB: "LAB", Photometric.ICC_LAB: "LAB"}
)
#: Tags that libtiff needs of a picture that it reads as it is.
_KEPT: Final = (
    *(Tag.WIDTH, Tag.HEIGHT, Tag.BITS, Tag.COMPRESSION, Tag.PHOTOMETRIC, Tag.FILL_ORDER),
    *(Tag.STRIP_OFFSETS, Tag.SAMPLES, Tag.ROWS_PER_STRIP, Tag.STRIP_BYTES, Tag.PLANES),
    *(Tag.T4_OPTIONS, Tag.T6_OPTIONS, Tag.TILE_WIDTH, Tag.TILE_HEIGHT, Tag.TILE_OFFSETS),
    *(Tag.TILE_BYTES, Tag.EXTRA_SAMPLES, Tag.JPEG_TABLES, *range(512, 522)),
    *(Tag.YCBCR_SUBSAMPLING, Tag.REFERENCE_BLACK_WHITE),
)
_BLOCKS: Final = frozenset({Tag.STRIP_OFFSETS, Tag.STRIP_BYTES, Tag.TILE_OFFSETS, Tag.TILE_BYTES})
_LONG: Final = 4
_BYTES: Final = 7
_RATIONAL: Final = 5


def load_tiff(data: bytes) -> tuple[Image.Image, Metadata]:
    """Read the picture of a TIFF that was probed, in 8 bits, and what is to be applied to it.

    Raises:
        OSError: the data of a strip or tile are damaged or end early.
        Exception: whatever Pillow's reader meets.
    """
    directory = find_picture(BytesIO(data))
    layout = None if directory is None else read_layout(directory)
    if directory is None or layout is None:
        raise OSError("no directory")
    metadata = read_tiff_metadata(directory)
    if layout.compression not in BYTE_COMPRESSIONS:
        if layout.compression == JPEG:
            _require_all_data(data, layout)
        return _load(data, directory.order, _kept_tags(directory)), metadata
    planes = [_read_plane(data, layout, number) for number in range(layout.planes)]
    return _Converter(layout, planes).convert(), metadata


def _require_all_data(data: bytes, layout: Layout) -> None:
    """Check each strip or tile of a TIFF in JPEG, the tables that they share before its own."""
    tables = layout.directory.data(Tag.JPEG_TABLES).removesuffix(END_OF_IMAGE) or START_OF_IMAGE
    for start, length in zip(layout.offsets, layout.lengths, strict=True):
        require_all_data(tables + data[start + len(START_OF_IMAGE) : start + length])


def _load(data: bytes, order: str, tags: Mapping[int, tuple[int, bytes]]) -> Image.Image:
    """Read a file's pixels by tags that replace its own: of each, the type and the bytes."""
    table, values, at = b"", b"", len(data) + len(data) % 2
    place = at + 2 + 12 * len(tags) + 4
    for tag, (kind, value) in sorted(tags.items()):
        width = {_LONG: 4, _BYTES: 1, _RATIONAL: 8}[kind]
        table += struct.pack(f"{order}HHI", tag, kind, len(value) // width)
        if len(value) <= 4:  # noqa: PLR2004 - fits where its place would stand
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", place + len(values))
            values += value + bytes(len(value) % 2)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    count = struct.pack(f"{order}H", len(tags))
    file = b"".join((head, data[8:], bytes(len(data) % 2), count, table, bytes(4), values))
    image = TiffImagePlugin.TiffImageFile(BytesIO(file))
    image.load()
    return image


def _longs(order: str, *numbers: int) -> tuple[int, bytes]:
    return _LONG, struct.pack(f"{order}{len(numbers)}I", *numbers)


def _kept_tags(directory: Directory) -> dict[int, tuple[int, bytes]]:
    tags = {}
    for tag in _KEPT:
        if tag == Tag.JPEG_TABLES:
            value = _BYTES, directory.data(tag)
        elif tag == Tag.REFERENCE_BLACK_WHITE:
            pairs = [each for number in directory.numbers(tag) for each in (round(number), 1)]
            value = _RATIONAL, struct.pack(f"{directory.order}{len(pairs)}I", *pairs)
        else:
            numbers = directory.places if tag in _BLOCKS else directory.integers
            value = _longs(directory.order, *numbers(tag))
        if value[1]:
            tags[int(tag)] = value
    return tags


def _read_plane(data: bytes, layout: Layout, number: int) -> NDArray[np.uint8]:
    """Return the bytes of a plane's rows, (rows, bytes); those of tiles side by side."""
    bits = layout.bits * (1 if layout.planar else layout.samples)
    block_bytes, rows = -(-layout.tile[0] * bits // 8), layout.tile[1]
    count = layout.blocks_of_a_plane
    which = slice(number * count, (number + 1) * count)
    offsets, lengths = layout.offsets[which], layout.lengths[which]
    across, height = layout.across, -(-count // layout.across) * rows
    if not layout.tiled:
        height = layout.height
    if layout.compression == UNCOMPRESSED:
        plane = np.empty((height, across * block_bytes), np.uint8)
        for at, (start, length) in enumerate(zip(offsets, lengths, strict=True)):
            top, left = at // across * rows, at % across * block_bytes
            block = np.frombuffer(data, np.uint8, length, start).reshape(-1, block_bytes)
            plane[top : top + len(block), left : left + block_bytes] = block
        if layout.directory.integer(Tag.FILL_ORDER, 1) == _REVERSED_BITS:
            plane = np.packbits(np.unpackbits(plane, axis=1, bitorder="little"), axis=1)
        return plane
    order = layout.directory.order
    tags: dict[int, tuple[int, bytes]] = {
        Tag.WIDTH: _longs(order, across * block_bytes),
        Tag.HEIGHT: _longs(order, height),
        Tag.BITS: _longs(order, 8),
        Tag.COMPRESSION: _longs(order, layout.compression),
        Tag.PHOTOMETRIC: _longs(order, Photometric.BLACK_IS_ZERO),
        Tag.FILL_ORDER: _longs(order, layout.directory.integer(Tag.FILL_ORDER, 1)),
        Tag.SAMPLES: _longs(order, 1),
    }
    if layout.tiled:
        tags |= {
            Tag.TILE_WIDTH: _longs(order, block_bytes),
            Tag.TILE_HEIGHT: _longs(order, rows),
            Tag.TILE_OFFSETS: _longs(order, *offsets),
            Tag.TILE_BYTES: _longs(order, *lengths),
        }
    else:
        tags |= {
            Tag.ROWS_PER_STRIP: _longs(order, rows),
            Tag.STRIP_OFFSETS: _longs(order, *offsets),
            Tag.STRIP_BYTES: _longs(order, *lengths),
        }
    return np.asarray(_load(data, order, tags))


class _Converter:
    """Converts a picture's samples to 8 bits, some rows at a time."""

    def __init__(self, layout: Layout, planes: list[NDArray[np.uint8]]) -> None:
        self._layout = layout
        self._planes = planes
        self._top = self._find_top()

    def convert(self) -> Image.Image:
        """Return the picture in a mode of Pillow's, its alpha not multiplied in."""
        layout = self._layout
        pixels = np.concatenate([self._to_8_bit(samples) for samples in self._samples()])
        alpha = None if layout.alpha is None else Image.fromarray(pixels[..., -1].copy())
        colors = pixels if alpha is None else pixels[..., :-1]
        if colors.shape[2] == 1:
            image = Image.fromarray(colors[..., 0].copy())
        else:
            mode = _MODES.get(layout.photometric, "RGB")
            image = Image.frombytes(mode, (layout.width, layout.height), colors.tobytes())
        if alpha is not None:
            image = image.convert("RGB") if image.mode == "LAB" else image
            image.putalpha(alpha)
        return image

    def _samples(self) -> Iterator[Samples]:
        """Yield the samples of some rows at a time: (rows, width, samples), in native order."""
        layout = self._layout
        rows = max(1, _SAMPLES_AT_A_TIME // (layout.width * layout.samples))
        for top in range(0, layout.height, rows):
            parts = [
                _unpack(plane[top : min(top + rows, layout.height)], layout)
                for plane in self._planes
            ]
            yield parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def _find_top(self) -> float:
        """Return the value that is brightest.

        Numbers of 32 bits and more, and signed ones, do not declare their range: the smallest of 1
        (floats only), 255, 65535 and 2^32 - 1 that holds the brightest value is assumed. Floats of
        up to 16 are those of highlights, which are cut at 1; infinite ones are brightest anyway.
        """
        layout = self._layout
        if layout.sample_format not in {_SIGNED, _FLOAT} and layout.bits <= 16:  # noqa: PLR2004
            return float((1 << layout.bits) - 1)
        if layout.photometric in _MODES and layout.photometric != Photometric.CMYK:
            return float((1 << layout.bits) - 1)
        used = max(COLOR_SAMPLES[layout.photometric], (layout.alpha or 0) + 1)
        brightest = max(
            float(_finite(np.asarray(samples[..., :used], np.float64), 0).max())
            for samples in self._samples()
        )
        if layout.sample_format == _FLOAT and brightest <= _BRIGHTEST_HIGHLIGHT:
            return 1.0
        maxima = (_MAX_8_BIT, _MAX_16_BIT)
        return float(next((top for top in maxima if brightest <= top), max(brightest, 2**32 - 1)))

    def _to_8_bit(self, samples: Samples) -> NDArray[np.uint8]:
        layout = self._layout
        kind, count = layout.photometric, COLOR_SAMPLES[layout.photometric]
        colors = samples[..., :count]
        alpha = None if layout.alpha is None else samples[..., layout.alpha : layout.alpha + 1]
        result: NDArray[np.uint8]
        if kind == Photometric.PALETTE:
            result = np.asarray(_read_color_map(layout)[colors[..., 0]])
        elif kind in {Photometric.LAB, Photometric.ICC_LAB}:
            result = _lab_to_8_bit(colors, layout)
        elif kind == Photometric.YCBCR:
            result = _ycbcr_to_rgb(colors, layout.directory, self._top)
        else:
            result = self._scale(colors, alpha)
        if kind == Photometric.WHITE_IS_ZERO:
            result = ~result
        if alpha is None:
            return result
        return np.concatenate([result, self._scale(alpha)], axis=2)

    def _scale(self, samples: Samples, alpha: Samples | None = None) -> NDArray[np.uint8]:
        """Scale samples to 0..255; colors that were multiplied by an alpha are divided by it."""
        if self._top == _MAX_8_BIT and samples.dtype == np.uint8 and alpha is None:
            return np.asarray(samples, np.uint8)
        levels = _finite(np.asarray(samples, np.float32), self._top)
        if alpha is not None and self._layout.associated_alpha:
            share = _finite(np.asarray(alpha, np.float32), self._top) / np.float32(self._top)
            levels = np.divide(levels, share, out=np.zeros_like(levels), where=share > 0)
        levels *= np.float32(_MAX_8_BIT / self._top)
        return _round(levels)


def _finite(levels: NDArray[np.floating], top: float) -> NDArray[np.floating]:
    finite: NDArray[np.floating] = np.nan_to_num(levels, posinf=top, neginf=0)
    return finite


def _round(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    result: NDArray[np.uint8] = np.clip(np.rint(levels), 0, _MAX_8_BIT).astype(np.uint8)
    return result


def _unpack(rows: NDArray[np.uint8], layout: Layout) -> Samples:
    """Unpack rows of bytes, with their tiles side by side, to (rows, width, samples)."""
    count = 1 if layout.planar else layout.samples
    tiles = rows.reshape(len(rows), layout.across, -1)
    wide = (len(rows), layout.across, layout.tile[0], count)
    if layout.bits not in _NATIVE_BITS:
        used = layout.tile[0] * count * layout.bits
        bits = np.unpackbits(tiles, axis=2)[..., :used].reshape(*wide, layout.bits)
        weights = 1 << np.arange(layout.bits, dtype=np.uint16)[::-1]
        samples: Samples = bits @ weights
    else:
        letter = {_SIGNED: "i", _FLOAT: "f"}.get(layout.sample_format, "u")
        number = np.dtype(f"{layout.directory.order}{letter}{layout.bits // 8}")
        if layout.predictor == _FLOATING_POINT:
            samples = _undo_float_predictor(tiles, wide, number)
        else:
            samples = np.ascontiguousarray(tiles).view(number).reshape(wide)
            samples = samples.astype(number.newbyteorder("="))
            if layout.predictor == _HORIZONTAL:
                whole = samples.view(f"u{number.itemsize}")
                samples = np.cumsum(whole, axis=2, dtype=whole.dtype).view(samples.dtype)
    return samples.reshape(len(rows), -1, count)[:, : layout.width]


def _undo_float_predictor(
    tiles: NDArray[np.uint8], wide: tuple[int, int, int, int], number: np.dtype[np.generic]
) -> Samples:
    """Undo the predictor of Adobe's Technical Note 3: differences of bytes, the highest first."""
    rows, across, width, count = wide
    bytes_ = tiles.reshape(rows, across, -1, count)
    bytes_ = np.cumsum(bytes_, axis=2, dtype=np.uint8)
    parted = bytes_.reshape(rows, across, number.itemsize, width * count)
    joined = np.ascontiguousarray(np.moveaxis(parted, 2, -1)).view(number.newbyteorder(">"))
    return joined.reshape(wide).astype(number.newbyteorder("="))


def _read_color_map(layout: Layout) -> NDArray[np.uint8]:
    """Return the palette, (colors, 3); entries that a broken one lacks are black."""
    count = 1 << layout.bits
    values = np.zeros(3 * count, np.uint32)
    stored = layout.directory.integers(Tag.COLOR_MAP)[: 3 * count]
    values[: len(stored)] = stored
    if values.max() > _MAX_8_BIT:  # else a writer took 8 bits for 16, as libtiff knows too
        values >>= 8
    return np.minimum(values, _MAX_8_BIT).astype(np.uint8).reshape(3, count).T


def _lab_to_8_bit(samples: Samples, layout: Layout) -> NDArray[np.uint8]:
    """Return L*, and a* and b* as signed bytes."""
    unsigned = samples.view(f"u{samples.dtype.itemsize}").astype(np.float32)
    offset = 1 << (layout.bits - 1)
    if layout.photometric == Photometric.LAB:  # a* and b* are signed
        unsigned[..., 1:] = (unsigned[..., 1:] + offset) % (2 * offset)
    if layout.bits > 8:  # noqa: PLR2004
        # 16 bits are 256 of the 8-bit steps; L* goes to the end of its own range, in ICC's not.
        unsigned[..., 1:] /= 256
        icc = layout.photometric == Photometric.ICC_LAB
        unsigned[..., 0] *= _MAX_8_BIT / (_MAX_8_BIT * 256 if icc else _MAX_16_BIT)
    levels = _round(unsigned)
    levels[..., 1:] ^= 128
    return levels


def _ycbcr_to_rgb(samples: Samples, directory: Directory, top: float) -> NDArray[np.uint8]:
    """Convert by the equations of TIFF 6.0, section 21."""
    red, green, blue = (*directory.numbers(Tag.YCBCR_COEFFICIENTS), 0, 0, 0)[:3]
    if not green:
        red, green, blue = 0.299, 0.587, 0.114
    half = (top + 1) / 2
    limits = directory.numbers(Tag.REFERENCE_BLACK_WHITE)
    if len(limits) != 6 or any(limits[at] == limits[at + 1] for at in (0, 2, 4)):  # noqa: PLR2004
        limits = (0, top, half, top, half, top)
    levels = np.asarray(samples, np.float32)
    luma = (levels[..., 0] - limits[0]) * (_MAX_8_BIT / (limits[1] - limits[0]))
    cb, cr = (
        (levels[..., each] - limits[2 * each]) * (127 / (limits[2 * each + 1] - limits[2 * each]))
        for each in (1, 2)
    )
    r, b = luma + (2 - 2 * red) * cr, luma + (2 - 2 * blue) * cb
    return _round(np.stack([r, (luma - blue * b - red * r) / green, b], axis=-1))
