"""Encoding: each format as Pillow reads it back, and PNG down to its chunks."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference.encode import encode, encode_png
from inference.options import Options, OutputFormat
from inference.pipeline import remove_background
from inference.version import PIPELINE_VERSION
from tests.support.cutouts import cut_out
from tests.support.models import FakeModel
from tests.support.paths import ROOT
from tests.support.pictures import (
    BLUE,
    find_red,
    picture_file,
    read_picture,
    subject_picture,
)

_WHITE = (255, 255, 255, 255)
_SHAPES = {"L": (), "RGB": (3,), "RGBA": (4,)}


@pytest.fixture
def cutout(photo: Image.Image) -> np.ndarray:
    image = photo.copy()
    image.putalpha(Image.radial_gradient("L").resize(photo.size).point(lambda level: 255 - level))
    pixels = np.array(image)
    pixels[:16] = 0
    return pixels


@pytest.mark.parametrize(("name", "lost"), [(OutputFormat.WEBP, 0), (OutputFormat.AVIF, 6)])
def test_webp_and_avif_keep_the_alpha_and_hide_nothing(
    name: OutputFormat, lost: int, cutout: np.ndarray
) -> None:
    image = read_picture(encode(cutout, Options(output_format=name)))
    pixels = np.asarray(image)
    assert (image.format, image.mode) == (name.name, "RGBA")
    assert np.abs(pixels[..., 3].astype(int) - cutout[..., 3]).max() <= lost
    weight = cutout[..., 3:] / 255
    assert (np.abs(pixels[..., :3].astype(int) - cutout[..., :3]) * weight).mean() < 5


def test_jpg_keeps_colors_at_full_resolution(photo: Image.Image) -> None:
    options = Options(output_format=OutputFormat.JPG, matte_color=_WHITE)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)  # columns of one pixel: half resolution would blend them
    image = read_picture(encode(pixels, options))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert np.abs(np.asarray(image, int) - pixels).mean() < 12
    assert (
        np.abs(np.asarray(read_picture(encode(np.asarray(photo), options)), int) - photo).mean() < 5
    )


@pytest.mark.parametrize("name", [OutputFormat.WEBP, OutputFormat.AVIF, OutputFormat.JPG])
def test_a_higher_quality_is_larger_and_nearer(name: OutputFormat, photo: Image.Image) -> None:
    pixels = np.asarray(photo)
    results = [
        encode(pixels, Options(output_format=name, matte_color=_WHITE, quality=quality))
        for quality in (20, 60, 95)
    ]
    errors = [np.abs(np.asarray(read_picture(each), int) - pixels).mean() for each in results]
    assert sorted(results, key=len) == results
    assert sorted(errors, reverse=True) == errors


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
    # ISA-L's routine for long input puts an address into its table, so that a file may depend on
    # where the compressor lies, once in some thousands; its routine for short input does not, and
    # must begin each stream. A synchronizing flush ends its block.
    pixels = np.zeros((24, 32, 4), np.uint8)
    pixels[:, 16:] = 200, 107, 0, 255
    files = {encode_png(pixels) for _ in range(50)}
    assert len(files) == 1
    (idat,) = (body for kind, body in _chunks(files.pop()) if kind == b"IDAT")
    flush = b"\0\0\xff\xff"
    first = zlib.decompressobj().decompress(idat[: idat.index(flush) + len(flush)])
    assert 1 <= len(first) <= 16


def test_a_zip_holds_what_the_png_shows_and_the_old_background() -> None:
    options = {"crop": True, "crop_margin": "20px", "scale": 60, "max_side": 90}
    _, expected = cut_out(**options)
    color, alpha = _read_zip(**options)
    assert np.array_equal(alpha, expected[..., 3])
    seen = expected[..., 3] > 0
    error = np.abs(color[seen] - expected[seen][:, :3])
    assert error.max() <= 24
    assert error.mean() <= 3
    color, _ = _read_zip()
    assert np.abs(color[0, 0] - BLUE).max() <= 4


def _read_zip(**options: object) -> tuple[np.ndarray, np.ndarray]:
    given = Options.from_dict({**options, "output_format": "zip"})
    result = remove_background(picture_file(subject_picture()), given, FakeModel(find=find_red))
    assert result.format.media_type == "application/zip"
    with zipfile.ZipFile(io.BytesIO(result.data)) as archive:
        entries = archive.infolist()
        color, alpha = (read_picture(archive.read(each)) for each in entries)
    assert [each.filename for each in entries] == ["color.jpg", "alpha.png"]
    assert {each.compress_type for each in entries} == {zipfile.ZIP_STORED}
    assert (color.mode, alpha.mode) == ("RGB", "L")
    return np.asarray(color, int), np.asarray(alpha)


def test_what_is_transparent_in_a_webp_is_nearly_black() -> None:
    pixels = np.asarray(
        read_picture((ROOT / f"tests/golden/coffee-u2netp-v{PIPELINE_VERSION}.png").read_bytes())
    )
    result = np.asarray(read_picture(encode(pixels, Options(output_format=OutputFormat.WEBP))))
    hidden = result[result[..., 3] == 0][:, :3].max(axis=1)
    assert np.percentile(hidden, 99) <= 32  # 160 as libwebp fills them, if it may
