"""Decode a file into 8-bit sRGB pixels, upright, with the input's own alpha beside them."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from inference.color import SrgbConverter
from inference.errors import InferenceError, InvalidImageError, InvalidOptionError
from inference.models.base import Rgb
from inference.options import Options
from inference.probe import DEFAULT_LIMITS, ImageLimits, open_image, probe_image

_Transpose = Image.Transpose

# Pixels converted at a time: beside the decoded picture and the result, memory stays small, and
# the strip stays in the processor's cache.
_STRIP_PIXELS = 1 << 18
# What shows through a background picture that is itself transparent.
_WHITE = (255, 255, 255)


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


_UPRIGHT = Orientation()
# Exif 3.0, 4.6.5.1.6 "Orientation".
_ORIENTATIONS = (
    _UPRIGHT,
    Orientation(_Transpose.FLIP_LEFT_RIGHT),
    Orientation(_Transpose.ROTATE_180, backwards=True),
    Orientation(_Transpose.FLIP_TOP_BOTTOM, backwards=True),
    Orientation(_Transpose.TRANSPOSE, sideways=True),
    Orientation(_Transpose.ROTATE_270, sideways=True, backwards=True),
    Orientation(_Transpose.TRANSVERSE, sideways=True, backwards=True),
    Orientation(_Transpose.ROTATE_90, sideways=True),
)


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Decode the first frame: upright by its EXIF orientation, in sRGB by its ICC profile.

    Args:
        data: the whole file.
        limits: checked against the header, before pixels are decoded.

    Raises:
        InferenceError: as `probe_image` does; and `InvalidImageError` if the pixels cannot be
            decoded, with the reader's error as its cause.
    """
    header = probe_image(data, limits)
    try:
        image = open_image(BytesIO(data), header.format)
        image.load()
        return _convert(image)
    except (InferenceError, MemoryError):
        raise
    except Exception as error:  # readers raise errors of any class
        raise InvalidImageError(
            f"The picture is damaged: its {header.format} data cannot be decoded. "
            "Save it again in an image editor, or send another file."
        ) from error


def read_orientation(image: Image.Image) -> Orientation:
    """Read the EXIF orientation of a loaded picture; upright if it is absent or broken."""
    try:
        number = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - a picture is not refused for its broken metadata
        return _UPRIGHT
    if isinstance(number, int) and 1 <= number <= len(_ORIENTATIONS):
        return _ORIENTATIONS[number - 1]
    return _UPRIGHT


def _convert(image: Image.Image) -> Picture:
    """Convert and turn a loaded picture strip by strip."""
    orientation = read_orientation(image)
    converter = SrgbConverter(image)
    width, height = orientation.displayed_size(image.width, image.height)
    rgb = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if converter.has_alpha else None
    strip_rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, strip_rows):
        bottom = min(top + strip_rows, image.height)
        colors, opacity = converter.convert(image.crop((0, top, image.width, bottom)))
        place = orientation.strip_slices(top, bottom, image.height)
        rgb[place] = np.asarray(orientation.turn(colors))
        if alpha is not None and opacity is not None:
            alpha[place] = np.asarray(orientation.turn(opacity))
    return Picture(rgb=rgb, alpha=alpha)


def decode_background(data: bytes | None, options: Options, limits: ImageLimits) -> Rgb | None:
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
        picture = decode(data, limits)
    except InferenceError as error:
        raise InvalidOptionError(
            "background_image", f"The background image cannot be used. {error}"
        ) from error
    return _flatten_on_white(picture)


def _flatten_on_white(picture: Picture) -> Rgb:
    if picture.alpha is None:
        return picture.rgb
    height, width = picture.alpha.shape
    canvas = Image.new("RGB", (width, height), _WHITE)
    canvas.paste(Image.fromarray(picture.rgb), mask=Image.fromarray(picture.alpha))
    return np.asarray(canvas)
