"""Files of every kind give upright sRGB pixels; damaged ones, an error."""

import io
import re
import struct

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image

from inference.decode import Picture, decode, decode_background
from inference.errors import InferenceError, InvalidImageError, InvalidOptionError
from inference.options import Options
from inference.probe import DEFAULT_LIMITS, probe_image
from tests.support.format_files import ROWS, make_files
from tests.support.heic_files import grid_heic, with_crop
from tests.support.icc_profiles import (
    BLUE,
    GREEN,
    RED,
    inverted_cmyk_profile,
    named_profile,
    rgb_profile,
)
from tests.support.pictures import exif_orientation, picture_file

_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SHARP_JPEG = {"quality": 98, "subsampling": 0}


def _error(picture: Picture, expected: Image.Image) -> float:
    """Mean absolute error, in levels."""
    wanted = np.asarray(expected.convert("RGB"), int)
    assert picture.rgb.shape == wanted.shape
    return float(np.abs(picture.rgb - wanted).mean())


def _alpha(picture: Picture) -> NDArray[np.uint8]:
    assert picture.alpha is not None
    return picture.alpha


def _with_ramp(photo: Image.Image) -> Image.Image:
    image = photo.copy()
    image.putalpha(Image.linear_gradient("L").resize(photo.size))
    return image


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table_of_formats_says_what_becomes_of_its_files(row: str) -> None:
    refused = re.match(r"`(\w+)`: (.+?)(, when it is cut out)?$", ROWS[row])
    for data in make_files(row):
        if refused is None:
            assert decode(data).rgb.size
            continue
        if refused[3]:
            probe_image(data)
        read = decode if refused[3] else probe_image
        with pytest.raises(InferenceError, match=re.escape(refused[2])) as caught:
            read(data)
        assert caught.value.code == refused[1]


@pytest.mark.parametrize(
    ("name", "mode", "parameters", "tolerance"),
    [
        *[("BMP", mode, {}, 0) for mode in ("1", "L", "P", "RGB")],
        *[("TIFF", mode, {}, 4) for mode in ("YCbCr", "LAB", "CMYK")],
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, 0),
        ("WEBP", "RGB", {"lossless": True}, 0),
        ("WEBP", "RGB", {"quality": 95}, 6),
        ("JPEG", "RGB", _SHARP_JPEG, 2),
        ("JPEG", "L", _SHARP_JPEG, 2),
        ("JPEG", "CMYK", _SHARP_JPEG, 4),
        ("AVIF", "RGB", {"quality": 95}, 4),
        ("HEIC", "RGB", {"quality": 95}, 4),
        ("HEIC", "L", {"quality": 95}, 4),
        ("GIF", "RGB", {}, 8),
    ],
)
def test_every_format_and_mode_gives_the_pixels_back(
    name: str, mode: str, parameters: dict[str, object], tolerance: float, photo: Image.Image
) -> None:
    image = photo.convert(mode)
    picture = decode(picture_file(image, name, **parameters))
    assert _error(picture, image if mode in {"1", "L", "P"} else photo) <= tolerance
    assert picture.alpha is None


@pytest.mark.parametrize("number", [*range(1, 9), 0, 9, 65535])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_and_a_number_out_of_range_is_upright(
    name: str, number: int, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.decode._STRIP_PIXELS", 500)  # many strips, the last not full
    image = photo if name == "JPEG" else _with_ramp(photo)
    parameters = {"JPEG": _SHARP_JPEG, "WEBP": {"lossless": True, "exact": True}}.get(name, {})
    picture = decode(picture_file(image, name, exif=exif_orientation(number), **parameters))
    upright = image.transpose(_METHODS[number]) if number in _METHODS else image
    assert _error(picture, upright) <= (2 if name == "JPEG" else 0)
    assert name == "JPEG" or np.array_equal(_alpha(picture), np.asarray(upright)[..., 3])


@pytest.mark.parametrize("number", range(1, 9))
def test_a_heic_is_turned_once_as_its_container_says(number: int, photo: Image.Image) -> None:
    exif = exif_orientation(number)
    # Given bytes, the writer says it in the container too, as phones do.
    image = _with_ramp(photo)
    turned = decode(picture_file(image, "HEIC", exif=exif.tobytes(), quality=95))
    upright = image.transpose(_METHODS[number]) if number in _METHODS else image
    assert _error(turned, upright) <= 4
    assert np.abs(_alpha(turned) - np.asarray(upright, int)[..., 3]).mean() <= 2
    # HEIF (ISO/IEC 23008-12) and every viewer ignore the tag alone.
    assert _error(decode(picture_file(photo, "HEIC", exif=exif, quality=95)), photo) <= 4


def test_a_heic_of_tiles_is_put_together_and_cut_to_its_size(photo: Image.Image) -> None:
    image = photo.resize((150, 100))
    assert _error(decode(grid_heic(image, 64)), image) <= 4


@pytest.mark.parametrize(
    ("dtype", "top"),
    [("<i4", 255), ("<i4", 65535), ("<f4", 1), ("<f4", 255), ("<f4", 2.0**33)],
)
def test_deep_gray_is_scaled_not_clipped(dtype: str, top: float) -> None:
    values = np.linspace(0, top, 64).astype(dtype).reshape(8, 8)
    rgb = decode(picture_file(Image.fromarray(values), "TIFF")).rgb
    assert np.abs(rgb - values[..., None] / top * 255).max() <= 0.51


def test_what_is_no_number_in_float_gray_is_black() -> None:
    values = np.array([[np.nan, 0.0], [0.5, 1.0]], np.float32)
    picture = decode(picture_file(Image.fromarray(values), "TIFF"))
    assert picture.rgb[..., 0].tolist() == [[0, 0], [128, 255]]


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "AVIF", "TIFF", "HEIC"])
def test_an_animation_or_a_document_gives_its_first_picture_with_its_own_alpha(name: str) -> None:
    first = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    # What is clear is cut off a WebP's frame, which then claims to be opaque.
    first.paste((0, 0, 0, 0), (8, 0, 16, 16))
    others = [Image.new("RGBA", (16, 16), color) for color in ("lime", "blue")]
    options = {"quality": 100} if name in {"WEBP", "AVIF"} else {}
    picture = decode(picture_file(first, name, save_all=True, append_images=others, **options))
    expected = np.asarray(first, int)
    assert np.abs(_alpha(picture) - expected[..., 3]).max() <= 2
    assert np.abs(picture.rgb - expected[..., :3])[:, :7].max() <= 4


@pytest.mark.parametrize("kept", [0.95, 0.6])
@pytest.mark.parametrize("interlace", [0, 1])
def test_a_gif_that_lacks_pixels_is_refused(
    kept: float, interlace: int, photo: Image.Image
) -> None:
    data = picture_file(photo, "GIF", interlace=interlace)
    for end in (b"", b"\0;"):
        with pytest.raises(InvalidImageError, match="ends before the picture does"):
            decode(data[: int(len(data) * kept)] + end)
    assert np.array_equal(decode(data[:-2]).rgb, decode(data + b"more").rgb)


def test_a_gif_whose_canvas_has_no_size_is_as_large_as_its_first_frame(photo: Image.Image) -> None:
    data = picture_file(photo, "GIF", comment=b"x" * 600)
    shown = decode(data[:6] + bytes(4) + data[10:])
    assert np.array_equal(shown.rgb, decode(data).rgb)
    for end in (b"", b";", b"!\xfe" + b"\1x" * (1 << 15)):
        with pytest.raises(InferenceError, match=r"header of this GIF|32768 blocks"):
            probe_image(data[:6] + bytes(7) + end)


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_gifs_canvas_is_clear_around_a_smaller_frame(mode: str) -> None:
    data = bytearray(picture_file(Image.new("RGB", (4, 3), "red").convert(mode), "GIF"))
    at = data.index(b",\0\0\0\0\4\0\3\0")
    data[6:10] = struct.pack("<HH", 9, 8)
    data[at + 1 : at + 5] = struct.pack("<HH", 3, 2)
    frame = (slice(2, 5), slice(3, 7))
    picture = decode(bytes(data))
    expected = np.zeros((8, 9), np.uint8)
    expected[frame] = 255
    assert np.array_equal(_alpha(picture), expected)
    assert np.ptp(picture.rgb[frame], axis=(0, 1)).max() == 0
    assert picture.rgb[frame][0, 0, 0] > 70


@pytest.mark.parametrize("depth", [10, 12])
def test_a_heic_of_any_depth_gives_8_bits_and_its_alpha(
    depth: int, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", depth == 12)
    image, file = np.asarray(_with_ramp(photo), "<u2"), io.BytesIO()
    heic = pillow_heif.from_bytes("RGBA;16", photo.size, (image * 257).tobytes())
    heic.save(file, quality=95)
    picture = decode(file.getvalue())
    assert _error(picture, photo) <= 4
    assert np.abs(_alpha(picture) - image[..., 3].astype(int)).mean() <= 2


@pytest.mark.parametrize("name", ["TIFF", "JPEG"])
def test_a_cmyk_profile_is_applied(name: str) -> None:
    image = Image.new("CMYK", (32, 16), (0,) * 4)
    image.paste((255,) * 4, (16, 0, 32, 16))
    rgb = decode(picture_file(image, name, icc_profile=inverted_cmyk_profile())).rgb
    assert rgb[:, :16].max() <= 5
    assert rgb[:, 16:].min() >= 250


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", named_profile("sRGB")),
        *[("RGB", broken) for broken in (b"\0" * 10, b"not a profile", b"\xff" * 500)],
        *[("RGB", named_profile("LAB")), ("L", named_profile("sRGB"))],
    ],
    ids=["srgb", "zeros", "text", "ones", "lab for rgb", "rgb for gray"],
)
def test_a_profile_of_srgb_itself_broken_or_of_another_color_space_changes_nothing(
    mode: str, profile: bytes, photo: Image.Image
) -> None:
    image = photo.convert(mode)
    assert _error(decode(picture_file(image, "PNG", icc_profile=profile)), image) == 0


def test_a_photo_in_other_primaries_and_another_curve_keeps_its_colors(photo: Image.Image) -> None:
    rgb = np.asarray(photo, int)
    mix = np.array([[0.8, 0.2, 0.0], [0.05, 0.95, 0.0], [0.02, 0.08, 0.9]])
    level = rgb / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4) @ mix.T
    stored = np.rint(255 * np.clip(light, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    assert np.abs(stored - rgb).mean() > 8, "the profile matters"
    # sRGB's own primaries, by which `mix` is undone, and the curve of gamma 2.2.
    primaries = np.array([RED, GREEN, BLUE]).T @ np.linalg.inv(mix)
    profile = rgb_profile(*map(tuple, primaries.T))
    png = Image.fromarray(stored)
    png.putalpha(100)
    picture = decode(picture_file(png, "PNG", icc_profile=profile))
    assert np.abs(picture.rgb - rgb).max() <= 2
    assert np.all(_alpha(picture) == 100)
    heic = picture_file(Image.fromarray(stored), "HEIC", icc_profile=profile, quality=98)
    assert _error(decode(heic), photo) <= 4


def test_a_background_lies_on_white_where_it_is_transparent() -> None:
    data = picture_file(Image.new("RGBA", (5, 4), (0, 0, 0, 0)))
    rgb = decode_background(data, Options(background_sha256="0" * 64), DEFAULT_LIMITS)
    assert rgb is not None
    assert rgb.tolist() == [[[255] * 3] * 5] * 4


@pytest.mark.parametrize(
    ("data", "digest"), [(b"x", None), (None, "0" * 64), (b"no picture", "0" * 64)]
)
def test_a_background_that_cannot_be_used(data: bytes | None, digest: str | None) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        decode_background(data, Options(background_sha256=digest), DEFAULT_LIMITS)
    assert caught.value.field == "background_image"


@pytest.mark.parametrize(
    ("fractions", "left"),
    [
        ((48, 1, 32, 1, -24, 1, -16, 1), (0, 0, 48, 32)),
        ((96, 2, 32, 1, 24, 1, 16, 1), (48, 32, 96, 64)),
        ((48, 1, 32, 1, 25, 1, 0, 1), (0, 0, 96, 64)),  # beyond the picture
        ((47, 1, 32, 1, 0, 1, 0, 1), (0, 0, 96, 64)),  # halves of pixels
        ((48, 0, 32, 1, 0, 1, 0, 1), (0, 0, 96, 64)),
    ],
)
def test_what_an_avif_leaves_of_its_picture_is_taken(
    fractions: tuple[int, ...], left: tuple[int, int, int, int], photo: Image.Image
) -> None:
    rows, columns = slice(left[1], left[3]), slice(left[0], left[2])
    expected = decode(picture_file(photo, "AVIF")).rgb[rows, columns]
    assert np.array_equal(decode(with_crop(picture_file(photo, "AVIF"), *fractions)).rgb, expected)
    sideways = picture_file(photo, "AVIF", exif=exif_orientation(6).tobytes())
    assert np.array_equal(decode(with_crop(sideways, *fractions)).rgb, np.rot90(expected, 3))
