"""Facts that a picture's header tells, judged before a single pixel is decoded."""

import math
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from inference.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    InvalidImageError,
    UnsupportedFormatError,
)
from inference.formats import PREFIX_SIZE, accepted_formats, identify, open_image, webp_size
from inference.truncation import is_cut_off

__all__ = ["DEFAULT_LIMITS", "ImageHeader", "ImageLimits", "accepted_formats", "probe"]


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is accepted, in pixels."""

    max_pixels: int = 50_000_000
    min_side: int = 2


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The facts, sniffed from the bytes; names and declared types are not believed."""

    #: One of `accepted_formats()`.
    format: str
    #: As stored: before an EXIF orientation is applied.
    width: int
    height: int


def probe(source: BinaryIO | bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Read the header and judge it; no pixel is decoded.

    Args:
        source: the whole file, as bytes or as a seekable file, which is left at its start.
        limits: what is accepted.

    Raises:
        InvalidImageError: empty, no picture, a damaged header, or cut off.
        UnsupportedFormatError: a picture or document of a kind that is not accepted.
        ImageTooLargeError: more pixels than allowed.
        ImageTooSmallError: too few pixels to hold a subject.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    try:
        return _judge(file, limits)
    finally:
        file.seek(0)


def _judge(file: BinaryIO, limits: ImageLimits) -> ImageHeader:
    file.seek(0)
    prefix = file.read(PREFIX_SIZE)
    name = _require_accepted(prefix)
    width, height = _read_size(file, name, prefix)
    _check_size(width, height, limits)
    if is_cut_off(file, name):
        raise InvalidImageError(
            "The file ends before the picture does: it was probably not sent or saved completely. "
            "Send it again."
        )
    return ImageHeader(format=name, width=width, height=height)


def _require_accepted(prefix: bytes) -> str:
    accepted = ", ".join(accepted_formats())
    if not prefix:
        raise InvalidImageError("The file is empty: it holds no bytes at all.")
    name = identify(prefix)
    if name is None:
        raise InvalidImageError(
            "This is no picture: its first bytes are those of no known image format. "
            f"Accepted are {accepted}."
        )
    if name not in accepted_formats():
        raise UnsupportedFormatError(
            f"{name} files are not accepted here. Accepted are {accepted}."
        )
    return name


def _read_size(file: BinaryIO, name: str, prefix: bytes) -> tuple[int, int]:
    if name == "WEBP":
        size = webp_size(prefix)
    else:
        file.seek(0)
        size = open_image(file, name).size
    if size is None or min(size) < 1:
        raise InvalidImageError(f"The header of this {name} file is damaged or incomplete.")
    return size


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        # Rounded up, so that a picture just over the limit never reads as one at the limit.
        megapixels = math.ceil(width * height / 100_000) / 10
        raise ImageTooLargeError(
            f"The image has {megapixels:.1f} megapixels; "
            f"the limit is {limits.max_pixels / 1_000_000:g}."
        )
    if min(width, height) < limits.min_side:
        raise ImageTooSmallError(
            f"The image is {width} x {height} pixels; "
            f"each side must have at least {limits.min_side}."
        )
