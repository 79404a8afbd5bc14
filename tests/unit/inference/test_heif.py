"""Boxes of a HEIC or AVIF give colors by their numbers, and its metadata decide nothing."""

import struct

import numpy as np
import pytest
from PIL import Image

from inference.decode import decode
from inference.probe import ImageHeader, probe_image
from tests.support.heic_files import grid_heic, with_brand, with_stated_colors
from tests.support.icc_profiles import named_profile
from tests.support.pictures import exif_orientation, picture_file
from tests.support.png_files import png_chunk

pytestmark = pytest.mark.parametrize("name", ["HEIC", "AVIF"])


@pytest.mark.parametrize(
    ("primaries", "transfer"), [(12, 13), (9, 13), (9, 14), (9, 16), (9, 18), (1, 8), (5, 4)]
)
def test_colors_that_numbers_state_are_those_of_a_png_that_states_them(
    name: str, primaries: int, transfer: int, photo: Image.Image
) -> None:
    more = {"quality": 100} | ({"subsampling": "4:4:4"} if name == "AVIF" else {"chroma": 444})
    data = with_stated_colors(picture_file(photo, name, **more), primaries, transfer)
    png = picture_file(photo)
    code = png_chunk(b"cICP", bytes([primaries, transfer, 0, 1]))
    expected = decode(png[:33] + code + png[33:]).rgb.astype(int)
    assert np.abs(decode(data).rgb - expected).mean() <= 3


@pytest.mark.parametrize(
    ("primaries", "transfer"), [(1, 13), (2, 2), (1, 1), (1, 6), (1, 15), (0, 999)]
)
def test_what_encoders_state_that_are_told_nothing_is_srgb(
    name: str, primaries: int, transfer: int, photo: Image.Image
) -> None:
    data = picture_file(photo, name)
    stated = with_stated_colors(data, primaries, transfer)
    assert np.array_equal(decode(stated).rgb, decode(data).rgb)


@pytest.mark.parametrize("brand", [b"mif1", b"heic", b"avif"])
def test_the_coding_of_its_pixels_says_which_format_a_file_is(
    name: str, brand: bytes, photo: Image.Image
) -> None:
    files = [picture_file(photo, name)] + [grid_heic(photo, 64)] * (name == "HEIC")
    for data in files:
        changed = with_brand(data, brand)
        assert probe_image(changed) == ImageHeader(name, 96, 64)
        assert np.array_equal(decode(changed).rgb, decode(data).rgb)


def test_a_profile_goes_before_numbers(name: str, photo: Image.Image) -> None:
    data = picture_file(photo, name, icc_profile=named_profile("sRGB"), quality=95)
    assert np.abs(decode(data).rgb - np.asarray(photo, int)).mean() <= 4


def test_metadata_decide_nothing(name: str, photo: Image.Image) -> None:
    exif = exif_orientation(6)
    exif[0x10F] = "a camera"
    data = picture_file(photo, name, exif=exif.tobytes(), xmp=b"<x:xmpmeta/>")
    expected = decode(data).rgb
    assert expected.shape == (96, 64, 3)  # as the container says
    at = max(data.rfind(b"MM\0*"), data.rfind(b"II*\0"))
    assert at > 0
    for each in (
        data[: at - 10] + b"\xff" * 20 + data[at + 10 :],
        data.replace(b"<x:xmpmeta/>", b"\xff" * 12),
        data + struct.pack(">I4s", 16, b"abcd") + bytes(8),
        data + b"SEFT" * 5,
        data + b"junk",
    ):
        assert np.array_equal(decode(each).rgb, expected)
