"""A JPEG is taken if the data of all its pixels are there, whatever its marks and metadata say."""

import re
import struct

import numpy as np
import pytest
from PIL import Image

from inference.decode import decode
from inference.errors import InvalidImageError, UnsupportedFormatError
from tests.support.icc_profiles import BLUE, GREEN, RED, rgb_profile
from tests.support.pictures import height_behind_the_scan, picture_file

_END = b"\xff\xd9"
_MISSING = "ends before the picture does"


def _segment(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body


@pytest.fixture(params=["RGB", "progressive RGB", "L", "progressive CMYK", "restarts"])
def whole(request: pytest.FixtureRequest, photo: Image.Image) -> bytes:
    mode = request.param.removeprefix("progressive ")
    more = {"restart_marker_blocks": 3} if mode == "restarts" else {}
    image = photo.convert("RGB" if mode == "restarts" else mode)
    return picture_file(image, "JPEG", progressive=mode != request.param, **more)


@pytest.mark.parametrize("end", [b"", _END, _END + b"junk"], ids=["none", "mark", "more"])
def test_a_jpeg_is_judged_by_its_data_and_not_by_its_end_mark(whole: bytes, end: bytes) -> None:
    data = whole.removesuffix(_END)
    expected = decode(whole).rgb
    assert np.array_equal(decode(data + end).rgb, expected)
    # A byte that ends one picture and begins another is none of its data.
    assert np.array_equal(decode(data + (end or b"\xff\xd8") + whole).rgb, expected)
    for kept in (len(data) - 6, len(data) * 3 // 4, len(data) // 2):
        with pytest.raises(InvalidImageError, match=_MISSING):
            decode(data[:kept].rstrip(b"\xff") + end)


def test_a_height_behind_the_first_scan_counts(photo: Image.Image) -> None:
    data = picture_file(photo, "JPEG")
    assert np.array_equal(decode(height_behind_the_scan(data, 64)).rgb, decode(data).rgb)
    for height, words in ((0, "header of this JPEG file is damaged"), (65_000, _MISSING)):
        with pytest.raises(InvalidImageError, match=words):
            decode(height_behind_the_scan(data, height))


@pytest.mark.parametrize(
    "more",
    [
        _segment(0xE0, b"JFIF\0"),
        _segment(0xE0, b"JFIF\0\x09\x09\1\0\1\0\1\xff\xff"),
        _segment(0xE1, b"Exif\0\0II*\0" + b"\xff" * 30),
        _segment(0xE1, b"Exif\0\0") * 300,
        _segment(0xE2, b"ICC_PROFILE\0\2\2half"),
        _segment(0xE2, b"ICC_PROFILE\0"),
        _segment(0xE2, b"MPF\0II*\0" + b"\xff" * 30),
        _segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\xff\xff\xff"),
        _segment(0xEE, b"Ado"),
        _segment(0xFE, b""),
        _segment(0xFE, b"") + b"junk\0\0",
        b"\xff\xd8",
        b"\xff\xd0",
        b"\xff\xff",
    ],
)
def test_metadata_decide_nothing(more: bytes, photo: Image.Image) -> None:
    plain = picture_file(photo, "JPEG")
    expected = decode(plain).rgb
    assert np.array_equal(decode(plain[:2] + more + plain[2:]).rgb, expected)
    first = plain.index(b"\xff\xdb")
    assert np.array_equal(decode(plain[:first] + more + plain[first:]).rgb, expected)


def test_a_profile_in_pieces_of_any_order_is_applied(photo: Image.Image) -> None:
    plain = picture_file(photo, "JPEG", quality=95)
    profile = rgb_profile(BLUE, GREEN, RED)
    pieces = [
        _segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 2]) + profile[part])
        for number, part in ((2, slice(150, None)), (1, slice(150)))
    ]
    turned = decode(plain[:2] + b"".join(pieces) + plain[2:]).rgb
    assert np.abs(turned.astype(int) - decode(plain).rgb[..., ::-1]).mean() < 4
    assert np.array_equal(decode(plain[:2] + pieces[0] + plain[2:]).rgb, decode(plain).rgb)


def test_a_scan_whose_parameters_a_camera_left_empty_is_read(photo: Image.Image) -> None:
    data = picture_file(photo, "JPEG")
    at = data.index(b"\xff\xda") + 2
    at += data[at + 1]
    assert data[at - 3 : at] == b"\0\x3f\0"
    empty = data[: at - 3] + bytes(3) + data[at:]
    assert np.array_equal(decode(empty).rgb, decode(data).rgb)
    with pytest.raises(InvalidImageError, match=_MISSING):
        decode(empty[: len(data) // 2] + _END)


def test_rare_layouts_are_read_and_two_components_named(photo: Image.Image) -> None:
    data = picture_file(photo, "JPEG", subsampling=0)
    at = data.index(b"\xff\xc0") + 11
    rare = bytearray(data)
    rare[at] = 0x31  # three luminances side by side for each pair of colors
    assert decode(bytes(rare)).rgb.shape == (64, 96, 3)
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 14, 8, 64, 96, 2) + b"\1\x11\0\2\x11\1"
    scan = b"\xff\xda\0\x0a\2\1\0\2\x11\0\x3f\0"
    two = data[: at - 11] + frame + data[data.index(b"\xff\xc4") : data.index(b"\xff\xda")] + scan
    with pytest.raises(UnsupportedFormatError, match="JPEG files with pixels of this kind"):
        decode(two + bytes(1000))


@pytest.mark.parametrize(("mode", "usual"), [("RGB", 1), ("CMYK", 2)])
def test_an_unknown_color_transform_of_adobe_is_the_usual_one(mode: str, usual: int) -> None:
    image = Image.radial_gradient("L").resize((24, 16)).convert(mode)
    data = picture_file(image, "JPEG")
    without = re.sub(rb"(?s)\xff\xe0.{16}|\xff\xee.{14}", b"", data[:64]) + data[64:]
    known, unknown = (
        without[:2] + b"\xff\xee\0\x0eAdobe\0d\0\0\0\0" + bytes([number]) + without[2:]
        for number in (usual, 7)
    )
    assert np.array_equal(decode(unknown).rgb, decode(known).rgb)
