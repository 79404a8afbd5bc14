import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference.encode import encode_png

_SHAPES = {"L": (), "RGB": (3,), "RGBA": (4,)}


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        found.append((kind, body))
        at += 12 + length
    return found


@given(
    mode=st.sampled_from(sorted(_SHAPES)),
    height=st.integers(1, 100),
    width=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    top=st.sampled_from([1, 2, 256]),
)
def test_pillow_reads_back_what_was_written(
    mode: str, height: int, width: int, seed: int, top: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, top, (height, width, *_SHAPES[mode]), np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.mode == mode
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(("channels", "color_type"), [(1, 0), (3, 2), (4, 6)])
def test_the_chunks_are_these_and_no_others(channels: int, color_type: int) -> None:
    pixels = np.arange(5 * 7 * channels, dtype=np.uint8).reshape(5, 7, channels)
    chunks = _chunks(encode_png(pixels))
    assert [kind for kind, _ in chunks] == [b"IHDR", b"sRGB", b"IDAT", b"IEND"]
    assert chunks[0][1] == struct.pack(">IIBBBBB", 7, 5, 8, color_type, 0, 0, 0)
    assert chunks[1][1] == b"\0"
    assert len(zlib.decompress(chunks[2][1])) == 5 * (1 + 7 * channels)


def test_arrays_that_are_not_contiguous_are_written_right() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)[::-2, ::3]
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_rows_that_cannot_be_packed_are_written_right() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (500, 700, 4), np.uint8)
    with Image.open(io.BytesIO(encode_png(noise))) as image:
        assert np.array_equal(np.asarray(image), noise)


def test_equal_pixels_are_equal_files_wherever_the_compressor_lies() -> None:
    # ISA-L's slip shows at one address in some thousands, and only its 64 KiB counts.
    pixels = np.zeros((24, 32, 4), np.uint8)
    pixels[:, :16] = 200, 107, 0, 255
    others = pixels[:, ::-1]
    fillers, files = [], set()
    for _ in range(30_000):
        fillers.append(np.empty(1 << 16, np.uint8))  # moves what is allocated next; never touched
        files |= {encode_png(pixels), encode_png(others)}
    assert len(files) == 2
