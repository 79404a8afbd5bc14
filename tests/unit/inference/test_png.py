"""A PNG of each type and depth keeps its transparency and colors, and metadata decide nothing."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest

from inference.decode import decode
from inference.errors import InvalidImageError
from tests.support.png_files import png_chunk, png_of_samples

Array = np.ndarray[Any, Any]

_SIZE = 16
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_TYPES = [
    *((0, depth) for depth in (1, 2, 4, 8, 16)),
    *((3, depth) for depth in (1, 2, 4, 8)),
    *((kind, depth) for kind in (2, 4, 6) for depth in (8, 16)),
]


def _samples(kind: int, depth: int) -> Array:
    count = _SIZE * _SIZE * _CHANNELS[kind]
    levels = np.arange(count).reshape(_SIZE, _SIZE, -1) * (1 if depth < 16 else 251)
    return levels % (1 << depth)


def _palette(depth: int) -> bytes:
    return png_chunk(b"PLTE", bytes(each * 7 % 256 for each in range(3 << depth)))


@pytest.mark.parametrize(("kind", "depth"), _TYPES)
def test_colors_and_transparency_of_each_type(kind: int, depth: int) -> None:
    samples, top = _samples(kind, depth), (1 << depth) - 1
    chunks = [_palette(depth)] if kind == 3 else []
    levels = np.rint(samples * 255 / top)
    if kind == 3:
        table = np.array([each * 7 % 256 for each in range(3 << depth)]).reshape(-1, 3)
        colors, alpha = table[samples[..., 0]], None
    else:
        colors = levels[..., :1].repeat(3, 2) if kind in {0, 4} else levels[..., :3]
        alpha = levels[..., -1] if kind in {4, 6} else None
    picture = decode(png_of_samples(kind, depth, samples, *chunks))
    assert np.abs(picture.rgb - colors).max() <= 1
    assert (picture.alpha is None) is (alpha is None)
    if picture.alpha is not None:
        assert np.abs(picture.alpha - alpha).max() <= 1
    if kind in {4, 6}:
        return
    for level in sorted({0, 1, top}):
        if kind == 3:
            body, hidden = b"\xff" * level + b"\0", samples[..., 0] == level
        else:
            color = samples[0, level % _SIZE] if kind == 2 else [level]
            body, hidden = struct.pack(f">{len(color)}H", *color), (samples == color).all(axis=2)
        found = decode(
            png_of_samples(kind, depth, samples, *chunks, png_chunk(b"tRNS", body))
        ).alpha
        assert found is not None
        assert np.array_equal(found == 0, hidden), level


_RGB = _samples(2, 8)
_PLAIN = png_of_samples(2, 8, _RGB)


def _broken(kind: bytes, body: bytes) -> bytes:
    chunk = png_chunk(kind, body)
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(bytes(3_000_000))),
        png_chunk(b"iTXt", b"XML\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(3_000_000))),
        png_chunk(b"iCCP", b"name\0\0broken"),
        *(
            make(kind, bytes(length))
            for kind in (b"pHYs", b"cHRM", b"gAMA", b"tIME", b"sBIT", b"tRNS", b"eXIf", b"acTL")
            for make, length in ((_broken, 32), (png_chunk, 1))
        ),
        png_chunk(b"cICP", b"\1\2"),
        png_chunk(b"gAMA", bytes(4)),
        png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        png_chunk(b"abCd", b"?"),
    ],
)
def test_metadata_decide_nothing(chunk: bytes) -> None:
    picture = decode(png_of_samples(2, 8, _RGB, chunk))
    assert np.array_equal(picture.rgb, _RGB)
    assert picture.alpha is None


@pytest.mark.parametrize("rows", [0, 8, 15])
def test_rows_that_are_missing_are_found_though_the_file_has_its_end(rows: int) -> None:
    with pytest.raises(InvalidImageError, match="ends before the picture does"):
        decode(png_of_samples(2, 8, _RGB, rows=rows))


def test_a_png_without_its_last_chunks_is_whole() -> None:
    for cut in (1, 12, 16):
        assert np.array_equal(decode(_PLAIN[:-cut]).rgb, _RGB)


def _to_srgb(light: Array) -> Array:
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("chunks", "exponent"),
    [
        ([png_chunk(b"gAMA", struct.pack(">I", 100_000))], 1.0),
        ([png_chunk(b"gAMA", struct.pack(">I", 55_556))], 1.8),
        ([png_chunk(b"cICP", b"\1\x08\0\1")], 1.0),
        ([png_chunk(b"cICP", b"\1\4\0\1"), png_chunk(b"gAMA", struct.pack(">I", 1))], 2.2),
    ],
)
@pytest.mark.parametrize("kind", [0, 2, 6])
def test_a_stated_curve_is_applied(kind: int, chunks: list[bytes], exponent: float) -> None:
    samples = _samples(kind, 8)
    picture = decode(png_of_samples(kind, 8, samples, *chunks))
    expected = _to_srgb((samples[..., : 1 if kind == 0 else 3] / 255) ** exponent)
    assert np.abs(picture.rgb - expected)[samples[..., :1].repeat(3, 2) > 8].max() <= 2
    marked = decode(png_of_samples(kind, 8, samples, png_chunk(b"sRGB", b"\0"), *chunks[1:]))
    assert len(chunks) > 1 or np.abs(marked.rgb - samples[..., :3]).max() == 0


def test_stated_primaries_are_applied() -> None:
    # sRGB's pure colors and a gray, as Display P3 stores them.
    display_p3 = [[234, 51, 35], [117, 251, 76], [0, 0, 245], [128, 128, 128]]
    samples = np.resize(np.array(display_p3), (_SIZE, _SIZE, 3))
    picture = decode(png_of_samples(2, 8, samples, png_chunk(b"cICP", b"\x0c\x0d\0\1")))
    expected = np.resize([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128] * 3], (_SIZE, _SIZE, 3))
    assert np.abs(picture.rgb.astype(int) - expected).max() <= 4
