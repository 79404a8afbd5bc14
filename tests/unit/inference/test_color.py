"""Colors that a file states by other means than an ICC profile are converted to sRGB."""

import struct

import numpy as np
import pytest
from PIL import Image

from inference.decode import decode
from tests.support.icc_profiles import BLUE, GREEN, RED, rgb_profile
from tests.support.pictures import picture_file
from tests.support.png_files import png_chunk, png_of_samples

_COLOR = (150, 200, 100)
#: The same color where it is Adobe RGB's, whose green is beyond sRGB's at half of its light. By the
#: published matrices: Adobe RGB (1998), 4.3.5.3, and IEC 61966-2-1.
_ADOBE_RGB = (124, 201, 92)
_LINEAR = (202, 229, 168)
_FLAT = Image.new("RGB", (16, 16), _COLOR)


def _jpeg(space: int, rules: bytes) -> bytes:
    """A JPEG whose EXIF data say how colors are meant."""
    first = struct.pack("<HHHIII", 1, 34665, 4, 1, 26, 0)
    exif = struct.pack("<HHHIIHHIII", 2, 40961, 3, 1, space, 40965, 4, 1, 56, 0)
    rights = struct.pack("<HHHI4sI", 1, 1, 2, 4, rules, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + first + exif + rights
    return picture_file(_FLAT, "JPEG", exif=exif, quality=100, subsampling=0)


def _check(data: bytes, expected: tuple[int, ...]) -> None:
    assert np.abs(decode(data).rgb.astype(int) - expected).max() <= 3


_D65 = (0.3127, 0.329)
_PRIMARIES = {318: _D65, 319: (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)}
_CURVE = tuple(round((level / 255) ** 2.2 * 65535) for level in range(256))


def _tiff(tags: dict[int, tuple[float, ...]]) -> bytes:
    return picture_file(_FLAT, "TIFF", tiffinfo=tags)


def _bmp(kind: bytes, gamma: float, profile: bytes) -> bytes:
    """A BMP of the V5 header that states primaries, those of Adobe RGB, and a gamma."""
    whole = picture_file(_FLAT, "BMP")
    primaries = (0.64, 0.33, 0.03, 0.21, 0.71, 0.08, 0.15, 0.06, 0.79)
    numbers = [round(each * (1 << 30)) for each in primaries] + [round(gamma * 65536)] * 3
    stated = bytes(16) + struct.pack("<4s12I", kind, *numbers)
    stated += struct.pack("<IIII", 4, 124 + 48 * 16, len(profile), 0)
    head = struct.pack("<II", 14 + 124, 124) + whole[18:54] + stated
    return whole[:10] + head + whole[54:] + profile


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_jpeg(2, b"R98\0"), _ADOBE_RGB),
        (_jpeg(0xFFFF, b"R03\0"), _ADOBE_RGB),
        (_jpeg(0xFFFF, b"R98\0"), _COLOR),
        (_jpeg(1, b"R03\0"), _COLOR),
        (_tiff({**_PRIMARIES, 301: _CURVE}), _ADOBE_RGB),
        (_tiff({**_PRIMARIES, 301: _CURVE * 3}), _ADOBE_RGB),
        (_tiff(_PRIMARIES), (123, 201, 92)),
        (_tiff({318: _D65, 319: (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)}), _COLOR),
        (_tiff({318: (0.0, 0.0), 319: (9.0,) * 6}), _COLOR),
        (_tiff({301: (7, 7)}), _COLOR),
        (_bmp(bytes(4), 2.2, b""), _ADOBE_RGB),
        (_bmp(bytes(4), 1 / 2.2, b""), _ADOBE_RGB),
        (_bmp(bytes(4), 0, b""), _COLOR),
        (_bmp(b"BGRs", 2.2, b""), _COLOR),
        (_bmp(b"DEBM", 0, rgb_profile(BLUE, GREEN, RED)), _COLOR[::-1]),
        (_bmp(b"DEBM", 0, b"broken"), _COLOR),
    ],
)
def test_marks_of_exif_and_headers_are_heeded(data: bytes, expected: tuple[int, ...]) -> None:
    _check(data, expected)


def _gamma(value: float) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


_SRGB = png_chunk(b"sRGB", b"\0")
_CHROMATICITIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([_gamma(1)], _LINEAR),
        ([_gamma(1 / 1.8)], (167, 210, 119)),
        ([png_chunk(b"cHRM", _CHROMATICITIES), _gamma(1 / 2.2)], _ADOBE_RGB),
        ([_SRGB, _gamma(1)], _COLOR),
        ([png_chunk(b"cICP", b"\1\x08\0\1")], _LINEAR),
        ([png_chunk(b"cICP", b"\1\4\0\1"), _SRGB, _gamma(0.1)], (151, 201, 100)),
        *(([png_chunk(b"cICP", bytes([1, each, 0, 1])), _gamma(1)], _COLOR) for each in (1, 6, 14)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_chunks_of_a_png(channels: int, chunks: list[bytes], expected: tuple[int, ...]) -> None:
    samples = np.tile((*_COLOR, 70), (4, 4, 1))[..., :channels]
    if channels == 1:
        expected = (150 if expected == _ADOBE_RGB else expected[0],) * 3
    _check(png_of_samples({1: 0, 3: 2, 4: 6}[channels], 8, samples, *chunks), expected)


@pytest.mark.parametrize(("curve", "levels"), [(16, (130, 148, 200)), (18, (160, 191, 230))])
def test_pq_and_hlg_are_cut_at_203_candelas(curve: int, levels: tuple[int, ...]) -> None:
    """The first level is 100 candelas, the second 203."""
    stored = np.tile(np.array(levels)[:, None], (2, 1, 3))
    picture = decode(png_of_samples(2, 8, stored, png_chunk(b"cICP", bytes([1, curve, 0, 1]))))
    assert np.abs(picture.rgb[0].astype(int) - [[186] * 3, [255] * 3, [255] * 3]).max() <= 3


def test_display_p3_of_a_png() -> None:
    # sRGB's pure colors and a gray, as Display P3 stores them.
    stored = np.array([[[234, 51, 35], [117, 251, 76], [0, 0, 245], [128, 128, 128]]] * 2)
    picture = decode(png_of_samples(2, 8, stored, png_chunk(b"cICP", b"\x0c\x0d\0\1")))
    expected = [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [128] * 3]]
    assert np.abs(picture.rgb.astype(int) - expected).max() <= 4
