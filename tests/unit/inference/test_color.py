"""Every mode of Pillow's, and ICC profiles made here whose effect is known."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from inference.color import ToSrgb
from inference.decode import decode

Encode = Callable[..., bytes]

# Primaries of sRGB adapted to D50, as its own profile states them (X, Y, Z).
_RED, _GREEN, _BLUE = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
_D50 = (0.9642, 1.0, 0.8249)


def _fixed(value: float) -> int:
    return round(value * 65536)


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(_fixed(value) for value in values))


def _gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def _profile(space: bytes, pcs: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.1, of the given tags (ICC.1:2001-04, clause 6)."""
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(_fixed(value) for value in _D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _rgb_profile(
    red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...]
) -> bytes:
    curve = _gamma(2.2)
    tags = {b"wtpt": _xyz(*_D50), b"rXYZ": _xyz(*red), b"gXYZ": _xyz(*green), b"bXYZ": _xyz(*blue)}
    return _profile(
        b"RGB ", b"XYZ ", b"mntr", {**tags, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    )


def _gray_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": _xyz(*_D50), b"kTRC": _gamma(gamma)})


def _inverted_cmyk_profile() -> bytes:
    """No ink is black and all ink is white: nothing but this profile can say so."""
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", *(_fixed(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut += bytes(range(256)) * 4
    for node in range(16):
        lut += bytes([node.bit_count() * 255 // 4, 128, 128])
    lut += bytes(range(256)) * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": _xyz(*_D50), b"A2B0": lut})


def test_an_rgb_profile_is_applied(photo: Image.Image, encode_as: Encode) -> None:
    swapped = _rgb_profile(_BLUE, _GREEN, _RED)
    data = encode_as(photo, "PNG", icc_profile=swapped)
    expected = np.asarray(photo, int)[..., ::-1]
    assert np.abs(decode(data).rgb - expected).mean() < 4


def test_a_profile_leaves_the_alpha_alone(photo: Image.Image, encode_as: Encode) -> None:
    image = photo.copy()
    ramp = Image.linear_gradient("L").resize(photo.size)
    image.putalpha(ramp)
    swapped = _rgb_profile(_BLUE, _GREEN, _RED)
    picture = decode(encode_as(image, "PNG", icc_profile=swapped))
    assert np.abs(picture.rgb - np.asarray(photo, int)[..., ::-1]).mean() < 4
    assert np.array_equal(picture.alpha, np.asarray(ramp))


def test_a_gray_profile_is_applied(encode_as: Encode) -> None:
    gray = Image.linear_gradient("L")
    picture = decode(encode_as(gray, "PNG", icc_profile=_gray_profile(1.2)))
    light = (np.asarray(gray, float) / 255) ** 1.2
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(picture.rgb[..., 0] - srgb * 255).mean() <= 1
    assert np.ptp(picture.rgb.astype(int), axis=2).max() <= 1


@pytest.mark.parametrize("name", ["TIFF", "JPEG"])
def test_a_cmyk_profile_is_applied(name: str, encode_as: Encode) -> None:
    profile = _inverted_cmyk_profile()
    for ink, low, high in ((0, 0, 5), (255, 250, 255)):
        image = Image.new("CMYK", (8, 8), (ink,) * 4)
        rgb = decode(encode_as(image, name, icc_profile=profile)).rgb
        assert low <= rgb.min() <= rgb.max() <= high


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_every_opaque_mode(mode: str, photo: Image.Image) -> None:
    image = photo.convert("L").convert(mode) if mode == "I;16" else photo.convert(mode)
    convert = ToSrgb(image)
    rgb, alpha = convert(image)
    assert (rgb.mode, rgb.size, alpha, convert.has_alpha) == ("RGB", photo.size, None, False)
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
    convert = ToSrgb(image)
    rgb, alpha = convert(image)
    assert convert.has_alpha
    assert alpha is not None
    assert (np.asarray(alpha) == 128).all()
    expected = (200, 200, 200) if source == "LA" else (200, 100, 50)
    assert np.abs(np.asarray(rgb, int) - expected).max() <= 2


def test_a_16_bit_transparent_colour_meets_8_bit_pixels() -> None:
    image = Image.new("RGB", (2, 1), (18, 52, 86))
    image.putpixel((1, 0), (9, 9, 9))
    image.info["transparency"] = (18 * 257, 52 * 257, 86 * 257)
    _, alpha = ToSrgb(image)(image)
    assert alpha is not None
    assert np.asarray(alpha).tolist() == [[0, 255]]
