"""Facts that a picture's header tells, judged before a single pixel is decoded."""

import warnings
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from inference.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    InvalidImageError,
    UnsupportedFormatError,
)

#: Pillow's names of the formats that are accepted, first frame of each.
ACCEPTED_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is accepted, in pixels."""

    max_pixels: int = 50_000_000
    min_side: int = 2


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The facts, sniffed from the bytes; names and declared types are not believed."""

    format: str
    width: int
    height: int
