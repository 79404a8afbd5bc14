"""Whatever the bytes: a picture, or one of this package's errors."""

import io

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from inference.decode import decode
from inference.errors import InferenceError

# What Pillow's writers take.
_MODES = {
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("L", "LA", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
}
_MAKES = st.sampled_from([(name, mode) for name, modes in _MODES.items() for mode in modes])
_SIDES = st.integers(2, 40)
_ORIENTATION = 0x0112


def _image(mode: str, width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    bands = {"LA": 2, "RGBA": 4, "RGBX": 4, "CMYK": 4, "RGB": 3, "YCbCr": 3, "LAB": 3}
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
    if mode in {"I", "F"}:
        dtype = np.int32 if mode == "I" else np.float32
        return Image.fromarray(rng.integers(0, 70_000, (height, width)).astype(dtype))
    levels = rng.integers(0, 256, (height, width, bands.get(mode, 1)), np.uint8)
    if mode in {"1", "P"}:
        return Image.fromarray(levels[..., 0]).convert(mode)
    return Image.frombytes(mode, (width, height), levels.tobytes())


def _file(make: tuple[str, str], width: int, height: int, seed: int, orientation: int) -> bytes:
    name, mode = make
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    file = io.BytesIO()
    extra = {"exif": exif} if name in {"JPEG", "PNG", "WEBP", "TIFF"} else {}
    _image(mode, width, height, seed).save(file, name, **extra)
    return file.getvalue()


_FILES = st.builds(_file, _MAKES, _SIDES, _SIDES, st.integers(0, 2**32 - 1), st.integers(1, 8))


@given(_MAKES, _SIDES, _SIDES, st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_a_whole_file_gives_a_picture_of_its_size(
    make: tuple[str, str], width: int, height: int, seed: int, orientation: int
) -> None:
    picture = decode(_file(make, width, height, seed, orientation))
    turned = orientation >= 5 and make[0] in {"JPEG", "PNG", "WEBP", "TIFF"}
    assert picture.rgb.shape == ((width, height, 3) if turned else (height, width, 3))
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.flags.c_contiguous
    if picture.alpha is not None:
        assert picture.alpha.shape == picture.rgb.shape[:2]
        assert picture.alpha.dtype == np.uint8


def _picture_or_error(data: bytes) -> None:
    try:
        picture = decode(data)
    except InferenceError as error:
        assert str(error)  # noqa: PT017 - some files are refused, not all
    else:
        assert picture.rgb.ndim == 3


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_FILES, st.floats(0, 1))
def test_a_cut_file_gives_a_picture_or_an_error(data: bytes, kept: float) -> None:
    _picture_or_error(data[: int(len(data) * kept)])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_FILES, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_gives_a_picture_or_an_error(
    data: bytes, damages: list[tuple[float, int]]
) -> None:
    damaged = bytearray(data)
    for place, level in damages:
        damaged[int(place * (len(data) - 1))] = level
    _picture_or_error(bytes(damaged))


@given(st.binary(max_size=200), st.sampled_from([b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b""]))
def test_any_bytes_give_a_picture_or_an_error(data: bytes, start: bytes) -> None:
    _picture_or_error(start + data)
