"""A PNG of each type and depth keeps its transparency and colors, and metadata decide nothing."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.decode import decode
from tests.support.pictures import picture_file
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


@pytest.mark.parametrize(("kind", "depth"), _TYPES)
def test_colors_and_transparency_of_each_type(kind: int, depth: int) -> None:
    samples, top = _samples(kind, depth), (1 << depth) - 1
    table = np.arange(3 << depth) * 7 % 256
    chunks = [png_chunk(b"PLTE", bytes(table.tolist()))] if kind == 3 else []
    levels = np.rint(samples * 255 / top)
    alpha = levels[..., -1] if kind in {4, 6} else None
    if kind == 3:
        colors = table.reshape(-1, 3)[samples[..., 0]]
    else:
        colors = levels[..., :1].repeat(3, 2) if kind in {0, 4} else levels[..., :3]
    picture = decode(png_of_samples(kind, depth, samples, *chunks))
    assert np.abs(picture.rgb - colors).max() <= 1
    assert (picture.alpha is None) is (alpha is None)
    if picture.alpha is not None:
        assert np.abs(picture.alpha - alpha).max() <= 1
        return
    for level in sorted({0, 1, top}):
        if kind == 3:
            body, hidden = b"\xff" * level + b"\0", samples[..., 0] == level
        else:
            color = samples[0, level % _SIZE] if kind == 2 else [level]
            body, hidden = struct.pack(f">{len(color)}H", *color), (samples == color).all(axis=2)
        clear = png_of_samples(kind, depth, samples, *chunks, png_chunk(b"tRNS", body))
        found = decode(clear).alpha
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


def test_the_static_image_is_taken_also_if_the_animation_leaves_it_out() -> None:
    """PNG, third edition: viewers without animation show it."""
    rgb = _RGB.astype(np.uint8)
    frames = [Image.fromarray(255 - rgb), Image.fromarray(rgb // 2)]
    for static in (False, True):
        data = picture_file(
            Image.fromarray(rgb), save_all=True, append_images=frames, default_image=static
        )
        assert (data.index(b"IDAT") < data.index(b"fcTL")) is static
        assert np.array_equal(decode(data).rgb, _RGB)


def test_what_follows_the_pixels_is_neither_needed_nor_harmful() -> None:
    late = (png_chunk(b"tRNS", struct.pack(">3H", *_RGB[0, 0])), png_chunk(b"cICP", b"\1\x08\0\1"))
    more = (_PLAIN[:-12] + each + _PLAIN[-12:] for each in late)
    for data in (_PLAIN[:-1], _PLAIN[:-12], _PLAIN[:-16], _PLAIN + bytes(50_000), *more):
        assert decode(data).alpha is None
        assert np.array_equal(decode(data).rgb, _RGB)
