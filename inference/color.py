"""Convert any of Pillow's modes to 8-bit sRGB, by the picture's ICC profile if it has one."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

# The ICC color space of a profile that fits each mode.
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_MAX_16_BIT = 65535
_MAX_8_BIT = 255


class SrgbConverter:
    """Converts strips of one picture to sRGB.

    Args:
        image: the loaded picture; its mode, profile and value range are read, its pixels not kept.
    """

    def __init__(self, image: Image.Image) -> None:
        self._transparent_color = image.info.get("transparency")
        self._scale = _scale_to_8_bit(image)
        self.has_alpha = image.mode in _ALPHA_MODES or self._transparent_color is not None
        self._transform = _to_srgb_transform(image.info.get("icc_profile"), _opaque_mode(image))

    def convert(self, strip: Image.Image) -> tuple[Image.Image, Image.Image | None]:
        """Return the strip's colors in mode RGB, and its alpha in mode L if the picture has one."""
        colors, alpha = self._split_alpha(strip)
        if self._transform is not None:
            return self._transform.apply(colors), alpha
        return colors.convert("RGB"), alpha

    def _split_alpha(self, strip: Image.Image) -> tuple[Image.Image, Image.Image | None]:
        if self._scale is not None:
            return self._split_deep_gray(strip, self._scale)
        if not self.has_alpha:
            return strip.convert(_opaque_mode(strip)), None
        if strip.mode in {"1", "L", "LA", "La"}:
            gray = strip.convert("LA")
            return gray.getchannel("L"), gray.getchannel("A")
        if strip.mode == "RGB":
            strip.info["transparency"] = _transparency_to_8_bit(strip.info["transparency"])
        rgba = strip.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")

    def _split_deep_gray(
        self, strip: Image.Image, scale: float
    ) -> tuple[Image.Image, Image.Image | None]:
        values = np.asarray(strip)
        gray = Image.fromarray(_round_to_8_bit(values, scale))
        if not self.has_alpha:
            return gray, None
        alpha = np.where(values == self._transparent_color, 0, 255).astype(np.uint8)
        return gray, Image.fromarray(alpha)


def _opaque_mode(image: Image.Image) -> str:
    """Return the mode, without alpha, in which a picture's colors are transformed."""
    if image.mode in {"1", "L", "LA", "La", "I", "F"} or image.mode.startswith("I;16"):
        return "L"
    return "CMYK" if image.mode == "CMYK" else "RGB"


def _scale_to_8_bit(image: Image.Image) -> float | None:
    """Return the factor from a deep gray picture's values to 0..255; None for 8-bit modes.

    16-bit modes span 0..65535. Modes I and F do not declare their range; the smallest of 1 (F
    only), 255, 65535 and 2^32 - 1 that holds the brightest value is assumed.
    """
    if image.mode.startswith("I;16"):
        return _MAX_8_BIT / _MAX_16_BIT
    if image.mode not in {"I", "F"}:
        return None
    brightest = float(np.nan_to_num(np.asarray(image.getextrema()[1], float)))
    maxima = (1, _MAX_8_BIT, _MAX_16_BIT) if image.mode == "F" else (_MAX_8_BIT, _MAX_16_BIT)
    return _MAX_8_BIT / next((top for top in maxima if brightest <= top), max(brightest, 2**32 - 1))


def _round_to_8_bit(values: NDArray[np.generic], scale: float) -> NDArray[np.uint8]:
    levels = np.nan_to_num(np.asarray(values, np.float64)) * scale
    result: NDArray[np.uint8] = np.clip(np.rint(levels), 0, _MAX_8_BIT).astype(np.uint8)
    return result


def _transparency_to_8_bit(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Scale a transparent color: Pillow reads 16-bit RGB to 8 bits, but leaves the color at 16."""
    if max(color) <= _MAX_8_BIT:
        return color
    red, green, blue = (level >> 8 for level in color)
    return red, green, blue


def _to_srgb_transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if there is none, or it is not usable.

    A profile is not used if it is broken, belongs to another color space, or is sRGB itself.
    """
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.xcolor_space != _PROFILE_SPACES[mode]:
            return None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None  # a picture is not refused for its broken metadata
    return None if mode == "RGB" and _is_identity(transform) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a transform changes no color of a lattice by more than one level.

    Most profiles are sRGB; one level of difference is rounding.
    """
    levels = np.linspace(0, _MAX_8_BIT, 9).astype(np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(9, 81, 3)
    transformed = np.asarray(transform.apply(Image.fromarray(lattice)))
    return int(np.abs(transformed.astype(int) - lattice).max()) <= 1
