"""Encoding: each format as Pillow reads it back, and PNG down to its chunks."""

import io
import signal
import struct
import threading
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference import encode as encode_module
from inference.encode import encode, encode_png
from inference.errors import InvalidOptionError
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


class _OutOfTimeError(Exception):
    pass


def test_a_time_limit_ends_the_wait_for_a_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker's soft limit does: it raises in the main thread, and the job fails once."""
    codec, main = encode_module._save_with_pillow, threading.main_thread().ident or 0

    def called(*given: Any, **parameters: Any) -> bytes:  # noqa: ANN401 - the codec's
        signal.pthread_kill(main, signal.SIGALRM)
        return codec(*given, **parameters)

    def strike(_number: int, _frame: object) -> None:
        raise _OutOfTimeError

    monkeypatch.setattr(encode_module, "_save_with_pillow", called)
    noise = np.random.default_rng(3).integers(0, 255, (1500, 1500, 3), dtype=np.uint8)
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with pytest.raises(_OutOfTimeError):
            encode(noise, Options(output_format=OutputFormat.AVIF, quality=100))
        left = [each for each in threading.enumerate() if each.name == "encode"]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert left, "the codec's call had ended before"
    for each in left:
        each.join()


def test_a_webp_that_cannot_hold_its_details_is_refused_with_what_to_do() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (5000, 5000), dtype=np.uint8)
    with pytest.raises(InvalidOptionError, match="more detail than a webp of its size"):
        encode(noise, Options(output_format=OutputFormat.WEBP, quality=100))


def test_jpg_keeps_colors_at_full_resolution() -> None:
    options = Options(output_format=OutputFormat.JPG, matte_color=_WHITE)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)  # columns of one pixel: half resolution would blend them
    image = read_picture(encode(pixels, options))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert np.abs(np.asarray(image, int) - pixels).mean() < 12


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
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


@pytest.mark.parametrize("mode", _SHAPES)
@pytest.mark.parametrize("size", [(1, 1), (100, 1), (1, 60), (500, 700)])
@pytest.mark.parametrize("top", [1, 2, 256])
def test_pillow_reads_back_what_was_written(mode: str, size: tuple[int, int], top: int) -> None:
    height, width = size
    pixels = np.random.default_rng(top).integers(0, top, (height, width, *_SHAPES[mode]), np.uint8)
    for array in (pixels, pixels[::-2, ::3]):  # the second is not contiguous
        data = encode_png(array)
        assert np.array_equal(np.asarray(read_picture(data)), array)
        assert [kind for kind, _ in _chunks(data)] == [b"IHDR", b"sRGB", b"IDAT", b"IEND"]


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
