"""Decode an image file into upright sRGB pixels and its alpha channel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from inference import webp
from inference.bmp_pixels import load_bmp
from inference.color import make_coded_profile
from inference.errors import InferenceError, InvalidImageError, InvalidOptionError
from inference.heif import walk_heif, without_metadata
from inference.jpeg_pixels import load_jpeg
from inference.metadata import Metadata, read_exif
from inference.models.base import Rgb
from inference.options import Options
from inference.png import load_png
from inference.probe import DEFAULT_LIMITS, ImageLimits, check_size, open_image, probe_image
from inference.tiff_pixels import load_tiff
from inference.webp import first_picture, walk_webp

#: How Pillow's errors begin that are about missing data.
_CUT: Final = "image file is truncated"

# The ICC color space of a profile that fits each mode.
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}

_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})

_MAX_16_BIT = 65535
_MAX_8_BIT = 255


class SrgbConverter:
    """Converts strips of one picture to sRGB.

    Args:
        image: the loaded picture; its mode and value range are read, its pixels not kept.
        profile: the ICC profile of its colors; None for sRGB.
    """

    def __init__(self, image: Image.Image, profile: bytes | None = None) -> None:
        self._transparent_color = image.info.get("transparency")
        self._scale = _scale_to_8_bit(image)
        self.has_alpha = image.mode in _ALPHA_MODES or self._transparent_color is not None
        self._transform = _to_srgb_transform(profile, _opaque_mode(image))

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


_Transpose = Image.Transpose

# Pixels converted at a time: beside the decoded picture and the result, memory stays small, and
# the strip stays in the processor's cache.
_STRIP_PIXELS = 1 << 18


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture."""

    #: (height, width, 3), sRGB, not premultiplied.
    rgb: Rgb
    #: (height, width), 0..255; None if the input is opaque.
    alpha: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored rows are turned into displayed ones, as the EXIF orientation says."""

    method: _Transpose | None = None
    #: Whether stored rows become columns.
    sideways: bool = False
    #: Whether the first stored row comes last.
    backwards: bool = False

    def displayed_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the displayed width and height of a picture that is stored as width x height."""
        return (height, width) if self.sideways else (width, height)

    def turn(self, strip: Image.Image) -> Image.Image:
        """Turn a strip of stored rows as it is displayed."""
        return strip if self.method is None else strip.transpose(self.method)

    def strip_slices(self, top: int, bottom: int, height: int) -> tuple[slice, ...]:
        """Return where the stored rows top..bottom, of `height`, lie in the displayed array."""
        rows = slice(height - bottom, height - top) if self.backwards else slice(top, bottom)
        return (slice(None), rows) if self.sideways else (rows,)


# Exif 3.0, 4.6.5.1.6 "Orientation".
_ORIENTATIONS = (
    Orientation(),
    Orientation(_Transpose.FLIP_LEFT_RIGHT),
    Orientation(_Transpose.ROTATE_180, backwards=True),
    Orientation(_Transpose.FLIP_TOP_BOTTOM, backwards=True),
    Orientation(_Transpose.TRANSPOSE, sideways=True),
    Orientation(_Transpose.ROTATE_270, sideways=True, backwards=True),
    Orientation(_Transpose.TRANSVERSE, sideways=True, backwards=True),
    Orientation(_Transpose.ROTATE_90, sideways=True),
)


class Strip(NamedTuple):
    """Some displayed rows or columns of a picture."""

    #: Where they lie in the picture: rows, or all rows and some columns.
    place: tuple[slice, ...]
    rgb: Rgb
    alpha: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Strips:
    """A picture whose pixels have been read, and are converted strip by strip."""

    width: int
    height: int
    has_alpha: bool
    strips: Iterator[Strip]

    def join(self) -> Picture:
        """Convert the whole picture."""
        picture = empty_picture(self.width, self.height, has_alpha=self.has_alpha)
        for strip in self.strips:
            picture.rgb[strip.place] = strip.rgb
            if picture.alpha is not None and strip.alpha is not None:
                picture.alpha[strip.place] = strip.alpha
        return picture


def empty_picture(width: int, height: int, *, has_alpha: bool) -> Picture:
    """Return a picture whose pixels are not set yet."""
    alpha = np.empty((height, width), np.uint8) if has_alpha else None
    return Picture(rgb=np.empty((height, width, 3), np.uint8), alpha=alpha)


#: Decodes a file within limits, as `decode` does.
Decoder = Callable[[bytes, ImageLimits], Picture]


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Decode the first frame: upright by its EXIF orientation, in sRGB by its ICC profile.

    Raises:
        InferenceError: as `probe_image` does; and `InvalidImageError` if the pixels cannot be
            decoded, with the reader's error as its cause.
    """
    with reading(data, limits) as strips:
        return strips.join()


@contextmanager
def reading(data: bytes, limits: ImageLimits) -> Iterator[Strips]:
    """Read the first frame's pixels, to be converted strip by strip; raises as `decode` does."""
    header = probe_image(data, limits)
    try:
        yield _convert(*_load(data, header.format, limits))
    except (InferenceError, MemoryError):
        raise
    except Exception as error:  # readers raise errors of any class
        if str(error).startswith(_CUT):
            raise InvalidImageError.of_early_end() from error
        raise InvalidImageError(
            f"The picture is damaged: its {header.format} data cannot be decoded. "
            "Save it again in an image editor, or send another file."
        ) from error


def _load(data: bytes, name: str, limits: ImageLimits) -> tuple[Image.Image, Metadata]:
    """Read the pixels of a file as they are stored, and what is to be applied to them."""
    match name:
        case "JPEG":
            found = load_jpeg(data)
        case "PNG":
            found = load_png(data)
        case "TIFF":
            found = load_tiff(data)
        case "BMP":
            found = load_bmp(data)
        case "GIF":
            found = _load_gif(data, limits), Metadata()
        case "WEBP":
            found = _load_webp(data, limits)
        case _:
            found = _load_heif(data, name, limits)
    return found


def _load_gif(data: bytes, limits: ImageLimits) -> Image.Image:
    image = open_image(BytesIO(data), "GIF")
    check_size(*image.size, limits)  # the first frame may be larger than the header says
    frame = image.tile[0][1] if image.tile else None
    image.load()
    if frame is not None:
        _clear_around(image, frame)
    return image


def _load_webp(data: bytes, limits: ImageLimits) -> tuple[Image.Image, Metadata]:
    found = walk_webp(BytesIO(data))
    image = open_image(BytesIO(first_picture(data, found)), "WEBP")
    check_size(*image.size, limits)
    image.load()
    stored = {kind: data[chunk.start : chunk.end] for kind, chunk in found.metadata.items()}
    exif = read_exif(stored.get(webp.EXIF, b""))
    return image, Metadata(exif.orientation, stored.get(webp.PROFILE) or exif.profile)


def _load_heif(data: bytes, name: str, limits: ImageLimits) -> tuple[Image.Image, Metadata]:
    """Read a HEIC or AVIF; which way is up its container says, and not its EXIF data."""
    found = walk_heif(BytesIO(data))
    image: Image.Image = open_image(BytesIO(without_metadata(data, found)), name)
    check_size(*image.size, limits)
    image.load()
    box = found.crop.box(*image.size) if found.crop is not None and name == "AVIF" else None
    if box is not None:  # what the reader of HEIC does itself
        image = image.crop(box)
    profile = image.info.get("icc_profile")
    if not profile and found.colors is not None:
        profile = make_coded_profile(*found.colors)
    exif = image.info.get("exif")  # as the reader made it of what the container says
    turned = read_exif(exif) if isinstance(exif, bytes) else Metadata()
    return image, Metadata(turned.orientation, profile or None)


def _clear_around(image: Image.Image, frame: tuple[int, int, int, int]) -> None:
    """Clear a GIF's canvas around its first frame, if the reader gave it any color."""
    if frame == (0, 0, *image.size) or "transparency" in image.info:
        return
    alpha = Image.new("L", image.size)
    alpha.paste(_MAX_8_BIT, frame)
    image.putalpha(alpha)


def _convert(image: Image.Image, metadata: Metadata) -> Strips:
    """Convert and turn a loaded picture strip by strip."""
    orientation = _ORIENTATIONS[metadata.orientation - 1]
    converter = SrgbConverter(image, metadata.profile)
    width, height = orientation.displayed_size(image.width, image.height)
    strip_rows = max(1, _STRIP_PIXELS // image.width)

    def convert() -> Iterator[Strip]:
        for top in range(0, image.height, strip_rows):
            bottom = min(top + strip_rows, image.height)
            colors, opacity = converter.convert(image.crop((0, top, image.width, bottom)))
            yield Strip(
                orientation.strip_slices(top, bottom, image.height),
                np.asarray(orientation.turn(colors)),
                None if opacity is None else np.asarray(orientation.turn(opacity)),
            )

    return Strips(width, height, converter.has_alpha, convert())


def decode_background(
    data: bytes | None, options: Options, limits: ImageLimits, decoder: Decoder = decode
) -> Rgb | None:
    """Decode the background picture that the options name; (height, width, 3), opaque.

    Raises:
        InvalidOptionError: the file cannot be read, or only one of the file and its SHA-256 in the
            options is given.
    """
    if (data is None) is not (options.background_sha256 is None):
        raise InvalidOptionError(
            "background_image", "The background image and its SHA-256 must come together."
        )
    if data is None:
        return None
    try:
        picture = decoder(data, limits)
    except InferenceError as error:
        raise InvalidOptionError(
            "background_image", f"The background image cannot be used. {error}"
        ) from error
    if picture.alpha is None:
        return picture.rgb
    # Lay it on white, which shows through where the background picture is itself transparent.
    colors = Image.fromarray(picture.rgb)
    canvas = Image.new("RGB", colors.size, "white")
    canvas.paste(colors, mask=Image.fromarray(picture.alpha))
    return np.asarray(canvas)
