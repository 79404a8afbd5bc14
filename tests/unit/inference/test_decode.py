import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from inference.decode import Picture, decode
from inference.errors import ImageTooLargeError, InferenceError, InvalidImageError
from inference.probe import ImageLimits
from tests.support.paths import DATA

Encode = Callable[..., bytes]

_ORIENTATION = 0x0112
_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _error(picture: Picture, expected: Image.Image) -> float:
    """Mean absolute error, in levels."""
    wanted = np.asarray(expected.convert("RGB"), int)
    assert picture.rgb.shape == wanted.shape
    assert picture.rgb.dtype == np.uint8
    return float(np.abs(picture.rgb - wanted).mean())


def _array(picture: Picture) -> NDArray[np.uint8]:
    assert picture.alpha is not None
    return picture.alpha


@pytest.mark.parametrize(
    ("name", "parameters", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 6),
        ("JPEG", {"quality": 98, "subsampling": 0}, 2),
        ("JPEG", {"quality": 98, "subsampling": 0, "progressive": True}, 2),
        ("AVIF", {"quality": 95}, 4),
        ("GIF", {}, 8),
    ],
)
def test_every_format_gives_the_pixels_back(
    name: str,
    parameters: dict[str, object],
    tolerance: float,
    photo: Image.Image,
    encode_as: Encode,
) -> None:
    picture = decode(encode_as(photo, name, **parameters))
    assert _error(picture, photo) <= tolerance
    assert picture.alpha is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(
    name: str, orientation: int, photo: Image.Image, encode_as: Encode
) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    upright = photo if orientation == 1 else photo.transpose(_METHODS[orientation])
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}
    picture = decode(encode_as(photo, name, exif=exif, **lossless.get(name, {})))
    assert _error(picture, upright) <= (2 if name == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_holds_over_many_strips_and_for_alpha(
    orientation: int, encode_as: Encode
) -> None:
    levels = np.random.default_rng(orientation).integers(0, 256, (601, 1203, 4), np.uint8)
    image = Image.fromarray(levels)
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    picture = decode(encode_as(image, "PNG", exif=exif, compress_level=0))
    upright = np.asarray(image if orientation == 1 else image.transpose(_METHODS[orientation]))
    assert np.array_equal(picture.rgb, upright[..., :3])
    assert np.array_equal(_array(picture), upright[..., 3])


@pytest.mark.parametrize("number", [0, 9, 65535])
def test_an_orientation_out_of_range_is_upright(
    number: int, photo: Image.Image, encode_as: Encode
) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = number
    assert _error(decode(encode_as(photo, "PNG", exif=exif)), photo) == 0


def test_broken_exif_is_ignored(photo: Image.Image, encode_as: Encode) -> None:
    data = encode_as(photo, "JPEG", quality=98, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff\xff")
    assert _error(decode(data), photo) <= 2


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_gray_and_palette_modes(mode: str, photo: Image.Image, encode_as: Encode) -> None:
    image = photo.convert(mode)
    picture = decode(encode_as(image, "PNG"))
    assert _error(picture, image) == 0
    assert picture.alpha is None


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_alpha_channel_stands_beside_the_colors(
    mode: str, photo: Image.Image, encode_as: Encode
) -> None:
    image = photo.convert("RGBA")
    ramp = Image.linear_gradient("L").resize(photo.size)
    image.putalpha(ramp)
    picture = decode(encode_as(image.convert(mode), "PNG"))
    assert _error(picture, photo.convert(mode)) == 0
    assert np.array_equal(_array(picture), np.asarray(ramp))


def test_a_palette_with_one_transparent_index(encode_as: Encode) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    for name in ("PNG", "GIF"):
        picture = decode(encode_as(image, name, transparency=0))
        assert _array(picture)[0, 0] == 0
        assert (_array(picture).ravel()[1:] == 255).all()
        assert tuple(picture.rgb[1, 1]) == (0, 0, 255)


def test_a_palette_with_an_alpha_per_entry(encode_as: Encode) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    picture = decode(encode_as(image, "PNG", transparency=bytes([10, 200])))
    assert _array(picture)[0, 0] == 10
    assert (_array(picture).ravel()[1:] == 200).all()


@pytest.mark.parametrize(
    ("mode", "color", "key"), [("L", 90, 90), ("RGB", (1, 2, 3), (1, 2, 3)), ("1", 0, 0)]
)
def test_a_transparent_color_without_alpha_channel(
    mode: str, color: object, key: object, encode_as: Encode
) -> None:
    image = Image.new(mode, (4, 4), color)  # type: ignore[arg-type]
    image.putpixel((1, 1), 255 if mode != "RGB" else (255, 255, 255))
    picture = decode(encode_as(image, "PNG", transparency=key))
    assert _array(picture)[0, 0] == 0
    assert _array(picture)[1, 1] == 255


def test_16_bit_gray_is_scaled_not_clipped(encode_as: Encode) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    picture = decode(encode_as(Image.fromarray(values), "PNG"))
    assert np.array_equal(picture.rgb[..., 1], np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize("order", ["I;16", "I;16B"])
def test_16_bit_tiff_of_either_byte_order(order: str, encode_as: Encode) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    image = Image.frombytes(
        order, (8, 8), values.astype(">u2" if "B" in order else "<u2").tobytes()
    )
    picture = decode(encode_as(image, "TIFF"))
    assert np.array_equal(picture.rgb[..., 0], np.rint(values / 257).astype(np.uint8))


def test_16_bit_gray_with_a_transparent_value(encode_as: Encode) -> None:
    values = np.full((4, 4), 40_000, np.uint16)
    values[0, 0] = 1234
    picture = decode(encode_as(Image.fromarray(values), "PNG", transparency=1234))
    assert _array(picture)[0, 0] == 0
    assert (_array(picture).ravel()[1:] == 255).all()


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.int32, 255), (np.int32, 65535), (np.float32, 1), (np.float32, 255)]
)
def test_deep_gray_that_does_not_tell_its_range(
    dtype: type[np.generic], top: int, encode_as: Encode
) -> None:
    share = np.linspace(0, 1, 64).reshape(8, 8)
    values = (share * top).astype(dtype)
    picture = decode(encode_as(Image.fromarray(values), "TIFF"))
    assert np.abs(picture.rgb[..., 0] - share * 255).max() <= 1


def test_float_gray_with_no_numbers_in_it(encode_as: Encode) -> None:
    values = np.array([[np.nan, 0.0], [0.5, 1.0]], np.float32)
    picture = decode(encode_as(Image.fromarray(values), "TIFF"))
    assert picture.rgb[..., 0].tolist() == [[0, 0], [128, 255]]


def test_cmyk_without_a_profile(encode_as: Encode) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for name in ("TIFF", "JPEG"):
        red, green, blue = decode(encode_as(image, name)).rgb[4, 4].tolist()
        assert red > 200
        assert max(green, blue) < 60


def test_ycbcr_and_lab(photo: Image.Image, encode_as: Encode) -> None:
    assert _error(decode(encode_as(photo.convert("YCbCr"), "TIFF")), photo) <= 4
    lab = Image.merge("LAB", [Image.new("L", (4, 4), level) for level in (255, 128, 128)])
    rgb = decode(encode_as(lab, "TIFF")).rgb
    assert rgb.min() >= 250


def test_an_animation_gives_its_first_frame(encode_as: Encode) -> None:
    frames = [Image.new("RGB", (16, 8), color) for color in ("red", "lime", "blue")]
    for name in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if name == "WEBP" else {}
        data = encode_as(frames[0], name, save_all=True, append_images=frames[1:], **options)
        assert (decode(data).rgb == (255, 0, 0)).all()


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_a_cut_file_is_refused(
    name: str, kept: float, photo: Image.Image, encode_as: Encode
) -> None:
    data = encode_as(photo, name)
    with pytest.raises(InvalidImageError):
        decode(data[: int(len(data) * kept)])


def test_the_readers_own_error_is_kept_as_the_cause(photo: Image.Image, encode_as: Encode) -> None:
    data = encode_as(photo, "BMP")
    with pytest.raises(InvalidImageError, match="BMP data cannot be decoded") as caught:
        decode(data[: len(data) // 2])
    assert isinstance(caught.value.__cause__, OSError)


def test_limits_are_judged_before_decoding(photo: Image.Image, encode_as: Encode) -> None:
    with pytest.raises(ImageTooLargeError):
        decode(encode_as(photo, "PNG"), ImageLimits(max_pixels=96 * 64 - 1))


def test_damage_inside_a_png_is_refused(photo: Image.Image, encode_as: Encode) -> None:
    data = bytearray(encode_as(photo, "PNG"))
    at = data.index(b"IDAT") + 200
    data[at : at + 64] = bytes(64)
    with pytest.raises(InferenceError):
        decode(bytes(data))


def test_the_photos_come_out_at_their_size() -> None:
    data = (DATA / "chelsea.jpg").read_bytes()
    picture = decode(data)
    assert picture.rgb.shape == (300, 451, 3)
    with Image.open(io.BytesIO(data)) as image:
        assert _error(picture, image) == 0


def _profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


def test_an_srgb_profile_changes_nothing(photo: Image.Image, encode_as: Encode) -> None:
    assert _error(decode(encode_as(photo, "PNG", icc_profile=_profile("sRGB"))), photo) == 0


@pytest.mark.parametrize("profile", [b"\0" * 10, b"not a profile", b"\xff" * 500])
def test_a_broken_profile_is_ignored(profile: bytes, photo: Image.Image, encode_as: Encode) -> None:
    assert _error(decode(encode_as(photo, "PNG", icc_profile=profile)), photo) == 0


def test_a_profile_of_another_color_space_is_ignored(photo: Image.Image, encode_as: Encode) -> None:
    assert _error(decode(encode_as(photo, "PNG", icc_profile=_profile("LAB"))), photo) == 0
    gray = photo.convert("L")
    assert _error(decode(encode_as(gray, "PNG", icc_profile=_profile("sRGB"))), gray) == 0
