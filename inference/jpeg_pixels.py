"""Read the pixels of a JPEG, all of them, and what is to be applied to them.

The reader gets the frame, the tables, the scans and what says how colors are stored. Metadata, and
what is appended to the picture, never reach it, and decide nothing. What it warns of counts: of
data that end early it makes gray.
"""

from contextlib import suppress
from io import BytesIO
from typing import Final

import numpy as np
import simplejpeg
from PIL import Image

from inference.errors import InvalidImageError
from inference.jpeg import (
    ADOBE,
    END_OF_IMAGE,
    EXIF,
    FRAMES,
    ICC_PROFILE,
    JFIF,
    START_OF_IMAGE,
    START_OF_SCAN,
    TABLES,
    Frame,
    Segment,
    find_segment,
    walk_jpeg,
)
from inference.metadata import Metadata, read_exif
from inference.probe import open_image

#: How colors are asked for, and the mode of what comes, by the number of components.
_COLORS: Final = {1: ("GRAY", "L"), 3: ("RGBX", "RGBX"), 4: ("CMYK", "CMYK")}
_CMYK: Final = 4
#: A JFIF header without a thumbnail. That there is one says that colors are YCbCr.
_JFIF_SEGMENT: Final = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_JFIF_NAME: Final = b"JFIF\0"
_ADOBE_NAME: Final = b"Adobe"
#: Its name, version, flags and the number of the color transform (Adobe's Technical Note 5116).
_ADOBE_BYTES: Final = 12
_NO_TRANSFORM: Final = 0
_YCBCR: Final = 1
_YCCK: Final = 2
_EXIF_NAME: Final = b"Exif\0"
_ICC_NAME: Final = b"ICC_PROFILE\0"
#: The parameters of a scan of all coefficients, which some cameras write otherwise.
_WHOLE_SCAN: Final = b"\0\x3f\0"
#: What the reader says of data that are missing: at the end, or between restart markers.
_MISSING: Final = ("premature end", "instead of RST")
#: What it says of data that are all there.
_HARMLESS: Final = ("extraneous bytes", "progression sequence")
#: What it says of colors that are subsampled in a way of their own, such as 2 x 2 and 2 x 1.
_RARE: Final = "Could not determine subsampling"
_NO_MEMORY: Final = "Insufficient memory"


def load_jpeg(data: bytes) -> tuple[Image.Image, Metadata]:
    """Read a JPEG that was probed.

    Raises:
        InvalidImageError: data of pixels are missing.
        MemoryError: the picture takes more memory than there is.
        Exception: whatever the reader meets.
    """
    file = BytesIO(data)
    found = walk_jpeg(file)
    assert found.frame is not None  # noqa: S101 - the file was probed
    pixels = _decode(_rebuild(data, file, found.segments, found.frame), found.frame)
    return pixels, _read_metadata(data, found.segments)


def require_all_data(data: bytes) -> None:
    """Raise `InvalidImageError` if data of the pixels are missing; of other faults say nothing.

    It is for a JPEG within another file, whose reader makes gray of what is missing.
    """
    file = BytesIO(data)
    found = walk_jpeg(file)
    if found.frame is None or len(found.frame.components) not in _COLORS:
        return
    with suppress(ValueError):
        _decode(_rebuild(data, file, found.segments, found.frame), found.frame)


def _rebuild(data: bytes, file: BytesIO, segments: tuple[Segment, ...], frame: Frame) -> bytes:
    """Put together what the reader needs, with an end, whether the file has one or not."""
    parts, has_frame = [START_OF_IMAGE], False
    for segment, following in zip(segments, (*segments[1:], None), strict=True):
        body = data[segment.start + 4 : segment.end]
        if segment.kind == JFIF and body.startswith(_JFIF_NAME):
            parts.append(_JFIF_SEGMENT)
        elif segment.kind == ADOBE and body.startswith(_ADOBE_NAME):
            parts.append(_adobe_segment(body, len(frame.components)))
        elif segment.kind in TABLES:
            parts.append(data[segment.start : segment.end])
        elif segment.kind in FRAMES and not has_frame:
            # Its marker, length and depth; then the height, which may stand elsewhere.
            parts += [
                data[segment.start : segment.start + 5],
                frame.height.to_bytes(2, "big"),
                data[segment.start + 7 : segment.end],
            ]
            has_frame = True
        elif segment.kind == START_OF_SCAN:
            end = following.start if following else _find_end(file, segment.end, len(data))
            head = data[segment.start : segment.end]
            parts += [
                head if frame.progressive else head[: -len(_WHOLE_SCAN)] + _WHOLE_SCAN,
                data[segment.end : end],
            ]
    return b"".join([*parts, END_OF_IMAGE])


def _adobe_segment(body: bytes, components: int) -> bytes:
    """Return Adobe's segment; a transform that is not one of so many components is YCbCr or YCCK.

    The reader refuses a number that it does not know; other programs take it so.
    """
    if len(body) < _ADOBE_BYTES:
        return b""  # readers ignore it
    usual = _YCCK if components == _CMYK else _YCBCR
    transform = body[_ADOBE_BYTES - 1]
    transform = transform if transform in {_NO_TRANSFORM, usual} else usual
    return b"\xff\xee\0\x0e" + body[: _ADOBE_BYTES - 1] + bytes([transform])


def _find_end(file: BytesIO, at: int, length: int) -> int:
    found = find_segment(file, at)
    return length if found is None else found[0]


def _decode(data: bytes, frame: Frame) -> Image.Image:
    colors, mode = _COLORS.get(len(frame.components), ("", ""))
    if not mode:
        return _decode_rare(data)
    try:
        pixels = simplejpeg.decode_jpeg(data, colors)
    except ValueError as error:
        text = str(error)
        if _RARE in text:
            return _decode_rare(data)
        if any(each in text for each in _MISSING):
            raise InvalidImageError(
                "The file ends before the picture does, or lacks a part of it: it was probably "
                "not sent or saved completely. Send it again."
            ) from error
        if _NO_MEMORY in text:
            raise MemoryError from error
        if not any(each in text for each in _HARMLESS):
            raise
        pixels = simplejpeg.decode_jpeg(data, colors, strict=False)
    if len(frame.components) == _CMYK:
        np.invert(pixels, out=pixels)  # stored inverted, as Adobe has it
    size = pixels.shape[1], pixels.shape[0]
    return Image.frombuffer(mode, size, pixels.data, "raw", mode, 0, 1)


def _decode_rare(data: bytes) -> Image.Image:
    """Read a JPEG of a rare layout, whose reader is silent about missing data."""
    image = open_image(BytesIO(data), "JPEG")
    image.load()
    return image


def _read_metadata(data: bytes, segments: tuple[Segment, ...]) -> Metadata:
    exif, pieces = None, dict[int, bytes]()
    for segment in segments:
        body = data[segment.start + 4 : segment.end]
        if segment.kind == EXIF and exif is None and body.startswith(_EXIF_NAME):
            exif = read_exif(body[len(_EXIF_NAME) + 1 :])
        elif segment.kind == ICC_PROFILE and body.startswith(_ICC_NAME):
            number, *_ = body[len(_ICC_NAME) :] or b"\0"
            pieces.setdefault(number, body[len(_ICC_NAME) + 2 :])
    exif = exif or Metadata()
    # Counted from 1. A profile of which a piece is missing is none, as its reader will tell.
    profile = b"".join(pieces[number] for number in sorted(pieces))
    return Metadata(exif.orientation, profile or exif.profile)
