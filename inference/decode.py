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


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored rows become shown ones."""

    method: _Transpose | None = None
    #: Do stored rows become columns?
    sideways: bool = False
    #: Does the first stored row come last?
    backwards: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The shown width and height of a picture stored with these."""
        return (height, width) if self.sideways else (width, height)

    def apply(self, strip: Image.Image) -> Image.Image:
        """A strip of stored rows as it is shown."""
        return strip if self.method is None else strip.transpose(self.method)

    def place(self, top: int, bottom: int, height: int) -> tuple[slice, ...]:
        """Where the stored rows top..bottom, of `height`, lie in the shown array."""
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


def read_orientation(image: Image.Image) -> Orientation:
    """What the EXIF data of a loaded picture say; upright when they are absent or broken."""
    try:
        number = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - a picture is not refused for its broken metadata
        return _UPRIGHT
    if isinstance(number, int) and 1 <= number <= len(_ORIENTATIONS):
        return _ORIENTATIONS[number - 1]
    return _UPRIGHT


# Pixels that are converted at a time: what stands beside the decoded picture and the result stays
# small, and in the processor's cache.
_STRIP_PIXELS = 1 << 18


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture."""

    #: (height, width, 3), sRGB, not premultiplied.
    rgb: Rgb
    #: (height, width), 0..255, of the same size; None when the input is opaque.
    alpha: NDArray[np.uint8] | None = None


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Decode the first frame: upright by its EXIF orientation, in sRGB by its ICC profile.

    Args:
        data: the whole file.
        limits: judged from the header, before pixels are decoded.

    Raises:
        InferenceError: see `probe`; and `InvalidImageError` when the pixels cannot be decoded,
            with the reader's error as its cause.
    """
    header = probe_image(data, limits)
    try:
        image = open_image(BytesIO(data), header.format)
        image.load()
        return _convert(image)
    except (InferenceError, MemoryError):
        raise
    except Exception as error:  # readers raise whatever they stumble over
        raise InvalidImageError(
            f"The picture is damaged: its {header.format} data cannot be decoded. "
            "Save it again in an image editor, or send another file."
        ) from error


def _convert(image: Image.Image) -> Picture:
    """Convert and turn a loaded picture strip by strip."""
    turn = read_orientation(image)
    convert = SrgbConverter(image)
    width, height = turn.size(image.width, image.height)
    rgb = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if convert.has_alpha else None
    for top, bottom in _strip_bounds(image.width, image.height):
        colors, opacity = convert(image.crop((0, top, image.width, bottom)))
        _write_strip(rgb, colors, turn, top, image.height)
        if alpha is not None and opacity is not None:
            _write_strip(alpha, opacity, turn, top, image.height)
    return Picture(rgb=rgb, alpha=alpha)


def _strip_bounds(width: int, height: int) -> list[tuple[int, int]]:
    rows = max(1, _STRIP_PIXELS // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _write_strip(
    target: NDArray[np.uint8], strip: Image.Image, turn: Orientation, top: int, height: int
) -> None:
    place = turn.place(top, top + strip.height, height)
    target[place] = np.asarray(turn.apply(strip))


# What shows through a background that is itself transparent.
_WHITE = (255, 255, 255)


def decode_background(data: bytes | None, options: Options, limits: ImageLimits) -> Rgb | None:
    """The background that the options tell of; (height, width, 3), opaque.

    Raises:
        InvalidOptionError: it cannot be read, or there is one where none was asked for, or none
            where one was.
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
    paper = Image.new("RGB", (picture.rgb.shape[1], picture.rgb.shape[0]), _WHITE)
    paper.paste(Image.fromarray(picture.rgb), mask=Image.fromarray(picture.alpha))
    return np.asarray(paper)
