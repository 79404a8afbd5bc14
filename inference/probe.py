"""Read a picture's header: its format, its size, and whether the file is complete.

`PIL.Image.open` is not used: it tries every format it knows, and its guard against huge pictures
warns or raises by a global figure. Here the signature decides the format, the one reader for it
is called, and the limits are the caller's. No pixel is decoded.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import BinaryIO

from PIL import Image, ImageFile, features

from inference.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    InvalidImageError,
    UnsupportedFormatError,
)

#: Bytes that `identify_format` and `_read_webp_size` need.
PREFIX_SIZE = 64

# (format, offset, bytes at the offset); the first match wins.
_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("TIFF", 0, b"II+\0"),
    ("TIFF", 0, b"MM\0+"),
    ("BMP", 0, b"BM"),
    # Known only so that the error message can name them.
    ("JPEG 2000", 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 0, b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("Photoshop", 0, b"8BPS"),
    ("PDF", 0, b"%PDF"),
    ("SVG", 0, b"<svg"),
    ("ICO", 0, b"\0\0\1\0"),
)

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})

# Pillow's plugin of each format, in the order in which messages list the formats.
_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "AVIF": "AvifImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
}

_CHUNK_BYTES = 1 << 18
_TAIL_BYTES = 1 << 12
_JPEG_MARKER = 0xFF
_JPEG_START_OF_SCAN = 0xDA
_JPEG_END_OF_IMAGE = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The accepted size of a picture, in pixels."""

    max_pixels: int = 50_000_000
    min_side: int = 2


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the file's first bytes say; file names and declared types are not trusted."""

    #: One of `accepted_formats()`.
    format: str
    #: As stored, before an EXIF orientation is applied.
    width: int
    height: int


def probe_image(source: BinaryIO | bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Read a whole file's header and check it against the limits; a file is left at its start.

    Raises:
        InvalidImageError: the file is empty, no picture, truncated, or has a damaged header.
        UnsupportedFormatError: the file is a picture or document of a format not accepted.
        ImageTooLargeError: the picture has more pixels than the limit.
        ImageTooSmallError: a side of the picture is shorter than the limit.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    try:
        file.seek(0)
        prefix = file.read(PREFIX_SIZE)
        name = _identify_accepted_format(prefix)
        width, height = _read_size(file, name, prefix)
        _check_size(width, height, limits)
        if _is_truncated(file, name):
            raise InvalidImageError(
                "The file ends before the picture does: it was probably not sent or saved "
                "completely. Send it again."
            )
        return ImageHeader(format=name, width=width, height=height)
    finally:
        file.seek(0)


def _identify_accepted_format(prefix: bytes) -> str:
    if not prefix:
        raise InvalidImageError("The file is empty: it has no bytes. Send a picture.")
    name, accepted = identify_format(prefix), accepted_formats()
    hint = f"Accepted are {', '.join(accepted)}."
    if name is None:
        raise InvalidImageError(
            f"The file is no picture: its first bytes match no known image format. {hint}"
        )
    if name not in accepted:
        raise UnsupportedFormatError(f"{name} files are not accepted here. {hint}")
    return name


def _read_size(file: BinaryIO, name: str, prefix: bytes) -> tuple[int, int]:
    if name == "WEBP":
        size = _read_webp_size(prefix)
    else:
        file.seek(0)
        size = open_image(file, name).size
    if size is None or min(size) < 1:
        raise _damaged_header_error(name)
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


def accepted_formats() -> tuple[str, ...]:
    """Return the formats that this installation reads, such as `("JPEG", "PNG", "WEBP")`.

    WebP and AVIF depend on how Pillow was built, HEIC on whether `pillow-heif` is installed.
    """
    optional = {"WEBP": features.check("webp"), "AVIF": features.check("avif")}
    names = tuple(name for name in _PLUGINS if optional.get(name, True))
    return (*names, "HEIC") if find_spec("pillow_heif") else names


def identify_format(prefix: bytes) -> str | None:
    """Name the format, accepted or not, by a file's first `PREFIX_SIZE` bytes; None if unknown."""
    if prefix[4:8] == b"ftyp":
        return _identify_iso_media(prefix)
    return next((name for name, at, magic in _SIGNATURES if prefix.startswith(magic, at)), None)


def _identify_iso_media(prefix: bytes) -> str:
    # ISO 14496-12: size, "ftyp", major brand, version, compatible brands.
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    brands = {prefix[8:12], *(prefix[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else "MP4 or QuickTime"


def _read_webp_size(prefix: bytes) -> tuple[int, int] | None:
    """Read width and height from the first bytes of a WebP; None if they are not there.

    Pillow's reader would read the whole file and allocate a canvas first. The three layouts are
    those of the WebP container specification and, for VP8, of RFC 6386, section 9.1.
    """
    kind, body = prefix[12:16], prefix[20:30]
    if kind == b"VP8X" and len(body) >= 10:  # noqa: PLR2004 - the chunk's fixed size
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:  # noqa: PLR2004 - fixed size
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:  # noqa: PLR2004 - fixed
        width, height = body[6:8], body[8:10]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    return None


def open_image(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Read the header with the reader of an accepted format; the pixels are read by `.load()`.

    Raises:
        InvalidImageError: the header cannot be read; the reader's error is the cause.
    """
    factory, _ = Image.OPEN[_register_reader(name)]
    try:
        return factory(file, "")
    except Exception as error:  # readers raise errors of any class
        raise _damaged_header_error(name) from error


def _damaged_header_error(name: str) -> InvalidImageError:
    return InvalidImageError(
        f"The header of this {name} file is damaged or incomplete: send another file."
    )


def _register_reader(name: str) -> str:
    # Importing a plugin registers it in Pillow's table; a second import costs nothing.
    if name == "HEIC":
        import_module("pillow_heif").register_heif_opener()
        return "HEIF"
    import_module(f"PIL.{_PLUGINS[name]}")
    return name


def _is_truncated(file: BinaryIO, name: str) -> bool:
    """Return whether the file certainly ends before its picture does.

    Bytes after the picture, as cameras and editors append them, are ignored. Formats whose
    structure does not show where the picture ends never count as truncated.
    """
    size = file.seek(0, 2)
    if name == "JPEG":
        return not _has_jpeg_end(file, size)
    if name == "PNG":
        return not _has_png_end(file, size)
    if name == "WEBP":
        file.seek(4)
        end = 8 + int.from_bytes(file.read(4), "little")  # of the RIFF container
        return end > size + 1  # some writers omit the last padding byte
    return False


def _has_jpeg_end(file: BinaryIO, size: int) -> bool:
    """Return whether an end marker follows the start of the first scan.

    Within a scan, 0xFF is followed by 0 or a restart marker (ITU-T T.81, B.1.1.5), so an EOI there
    is a real one. Those of thumbnails come before, in the application segments. The file's tail is
    searched first, because the marker is nearly always there.
    """
    scan = _find_first_jpeg_scan(file, size)
    if scan is None:
        return False
    return any(_has_eoi_after(file, start) for start in (max(scan, size - _TAIL_BYTES), scan))


def _find_first_jpeg_scan(file: BinaryIO, size: int) -> int | None:
    at = 2
    while at + 4 <= size:
        file.seek(at)
        mark, kind, high, low = file.read(4)
        if mark != _JPEG_MARKER or kind in {0x00, _JPEG_MARKER}:  # fill and stray bytes
            at += 1
        elif kind == _JPEG_START_OF_SCAN:
            return at
        elif kind == 0x01 or 0xD0 <= kind <= 0xD8:  # noqa: PLR2004 - markers without a length
            at += 2
        else:
            at += 2 + (high << 8 | low)
    return None


def _has_eoi_after(file: BinaryIO, start: int) -> bool:
    file.seek(start)
    last = b""
    while piece := file.read(_CHUNK_BYTES):
        if _JPEG_END_OF_IMAGE in last + piece:
            return True
        last = piece[-1:]  # the marker's two bytes may be parted
    return False


def _has_png_end(file: BinaryIO, size: int) -> bool:
    at = 8
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        if head[4:] == b"IEND":
            return True
        at += 12 + int.from_bytes(head[:4], "big")
    return False
