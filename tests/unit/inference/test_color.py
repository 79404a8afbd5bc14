"""Every mode of Pillow's, and ICC profiles made here whose effect is known."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from inference.decode import SrgbConverter, decode
from tests.support.icc_profiles import (
    BLUE,
    GREEN,
    RED,
    gray_profile,
    inverted_cmyk_profile,
    rgb_profile,
)

Encode = Callable[..., bytes]


def test_an_rgb_profile_is_applied(photo: Image.Image, encode_as: Encode) -> None:
    swapped = rgb_profile(BLUE, GREEN, RED)
    data = encode_as(photo, "PNG", icc_profile=swapped)
    expected = np.asarray(photo, int)[..., ::-1]
    assert np.abs(decode(data).rgb - expected).mean() < 4


def test_a_profile_leaves_the_alpha_alone(photo: Image.Image, encode_as: Encode) -> None:
    image = photo.copy()
    ramp = Image.linear_gradient("L").resize(photo.size)
    image.putalpha(ramp)
    swapped = rgb_profile(BLUE, GREEN, RED)
    picture = decode(encode_as(image, "PNG", icc_profile=swapped))
    assert np.abs(picture.rgb - np.asarray(photo, int)[..., ::-1]).mean() < 4
    assert np.array_equal(picture.alpha, np.asarray(ramp))


def test_a_gray_profile_is_applied(encode_as: Encode) -> None:
    gray = Image.linear_gradient("L")
    picture = decode(encode_as(gray, "PNG", icc_profile=gray_profile(1.2)))
    light = (np.asarray(gray, float) / 255) ** 1.2
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(picture.rgb[..., 0] - srgb * 255).mean() <= 1
    assert np.ptp(picture.rgb.astype(int), axis=2).max() <= 1


@pytest.mark.parametrize("name", ["TIFF", "JPEG"])
def test_a_cmyk_profile_is_applied(name: str, encode_as: Encode) -> None:
    profile = inverted_cmyk_profile()
    for ink, low, high in ((0, 0, 5), (255, 250, 255)):
        image = Image.new("CMYK", (8, 8), (ink,) * 4)
        rgb = decode(encode_as(image, name, icc_profile=profile)).rgb
        assert low <= rgb.min() <= rgb.max() <= high


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_every_opaque_mode(mode: str, photo: Image.Image) -> None:
    image = photo.convert("L").convert(mode) if mode == "I;16" else photo.convert(mode)
    converter = SrgbConverter(image)
    rgb, alpha = converter.convert(image)
    assert (rgb.mode, rgb.size, alpha, converter.has_alpha) == ("RGB", photo.size, None, False)
    if mode != "I;16":  # Pillow's own way there does not widen the range
        same = {
            "1": image,
            "P": image,
            "L": image,
            "I": photo.convert("L"),
            "F": photo.convert("L"),
        }
        expected = np.asarray(same.get(mode, photo).convert("RGB"), int)
        assert np.abs(np.asarray(rgb, int) - expected).mean() < 5


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_every_mode_with_alpha(mode: str) -> None:
    source = "LA" if mode[0] == "L" else "RGBA"
    color = (200, 128) if source == "LA" else (200, 100, 50, 128)
    image = Image.new(source, (8, 8), color).convert(mode)
    converter = SrgbConverter(image)
    rgb, alpha = converter.convert(image)
    assert converter.has_alpha
    assert alpha is not None
    assert (np.asarray(alpha) == 128).all()
    expected = (200, 200, 200) if source == "LA" else (200, 100, 50)
    assert np.abs(np.asarray(rgb, int) - expected).max() <= 2


def test_a_16_bit_transparent_color_meets_8_bit_pixels() -> None:
    image = Image.new("RGB", (2, 1), (18, 52, 86))
    image.putpixel((1, 0), (9, 9, 9))
    image.info["transparency"] = (18 * 257, 52 * 257, 86 * 257)
    _, alpha = SrgbConverter(image).convert(image)
    assert alpha is not None
    assert np.asarray(alpha).tolist() == [[0, 255]]
