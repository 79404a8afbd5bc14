"""From a file's bytes to 8-bit sRGB pixels, upright, with the input's own alpha beside them."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.color import ToSrgb
from inference.errors import InferenceError, InvalidImageError
from inference.formats import open_image
from inference.models.base import Rgb
from inference.orientation import Orientation, read_orientation
from inference.probe import DEFAULT_LIMITS, ImageLimits, probe

# Pixels that are converted at a time: what stands beside the decoded picture and the result stays
# small, and in the processor's cache.
_STRIP = 1 << 18


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
    header = probe(data, limits)
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
    convert = ToSrgb(image)
    width, height = turn.size(image.width, image.height)
    rgb = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if convert.has_alpha else None
    for top, bottom in _strips(image.width, image.height):
        colors, opacity = convert(image.crop((0, top, image.width, bottom)))
        _place(rgb, colors, turn, top, image.height)
        if alpha is not None and opacity is not None:
            _place(alpha, opacity, turn, top, image.height)
    return Picture(rgb=rgb, alpha=alpha)


def _strips(width: int, height: int) -> list[tuple[int, int]]:
    rows = max(1, _STRIP // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _place(
    target: NDArray[np.uint8], strip: Image.Image, turn: Orientation, top: int, height: int
) -> None:
    place = turn.place(top, top + strip.height, height)
    target[place] = np.asarray(turn.apply(strip))
