"""Read a picture's header: its format, its size, and whether the file is complete.

`PIL.Image.open` is not used: it tries every format it knows, and its guard against huge pictures
warns or raises by a global figure. Here the signature decides the format, its structure is walked
in bounded steps, and the limits are the caller's. No pixel is decoded, and no reader opens the
file.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from io import BytesIO
from types import MappingProxyType
from typing import BinaryIO, Final

from PIL import Image, ImageFile, features

from inference.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    InvalidImageError,
    SideTooLongError,
    UnsupportedFormatError,
)
from inference.other_files import FILMS, describe_no_picture, identify_other_format
from inference.structure import CAMERA_RAW, walk_structure

# Some readers ask that figure too, and of parts of a picture. The limits are the caller's.
Image.MAX_IMAGE_PIXELS = None

#: Bytes that `identify_format` and the walks of `inference.structure` need. Before the beginning of
#: an SVG come a prolog and comments, and before that of a PDF up to 1,024 bytes of anything.
PREFIX_SIZE = 1032

# (format, offset, bytes at the offset); the first match wins.
_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    *(
        (CAMERA_RAW, 0, magic)
        for magic in (
            *(
                b"II*\0\x10\0\0\0CR",
                b"IIRO",
                b"IIRS",
                b"MMOR",
                b"IIU\0",
            ),  # Canon, Olympus, Panasonic
            *(b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM"),  # Fuji, Sigma, Minolta
        )
    ),
    (CAMERA_RAW, 6, b"HEAPCCDR"),  # Canon before 2004
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("TIFF", 0, b"II+\0"),
    ("TIFF", 0, b"MM\0+"),
    ("BMP", 0, b"BM"),
)

#: How Pillow's errors begin that are about the kind of pixels, not about damage.
_UNKNOWN_PIXELS = ("unknown pixel mode", "unknown data organization", "cannot handle")

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_CANON_RAW_BRAND = b"crx "
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


#: The longest side that the readers of libjpeg and libavif take.
_MAX_SIDES: Final[Mapping[str, int]] = MappingProxyType({"JPEG": 65_500, "AVIF": 32_768})


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The accepted size of a picture, in pixels."""

    max_pixels: int = 50_000_000
    min_side: int = 2
    #: The most that a JPEG can say. Steps after decoding cost by the side as well as by the pixel.
    max_side: int = 65_535


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
        SideTooLongError: a side of the picture is longer than the limit.
        ImageTooComplexError: the file has more parts than a decoder can take in a short time.
        ImageTooSmallError: a side of the picture is shorter than the limit.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    try:
        file.seek(0)
        prefix = file.read(PREFIX_SIZE)
        name = _require_accepted_format(prefix, identify_format(prefix))
        structure = walk_structure(file, name, prefix)
        name = _require_accepted_format(prefix, structure.format or name)
        if structure.size is None or min(structure.size) < 1:
            raise _damaged_header_error(name)
        width, height = structure.size
        if structure.unreadable:
            raise _unreadable_error(structure.unreadable)
        longest = min(limits.max_side, _MAX_SIDES.get(name, limits.max_side))
        check_size(width, height, replace(limits, max_side=longest))
        if not structure.complete:
            raise InvalidImageError.of_early_end()
        return ImageHeader(format=name, width=width, height=height)
    finally:
        file.seek(0)


def _require_accepted_format(prefix: bytes, name: str | None) -> str:
    """Return a format's name; raises as `probe_image` does if it is None or not accepted."""
    if not prefix:
        raise InvalidImageError("The file is empty: it has no bytes. Send a picture.")
    accepted = accepted_formats()
    hint = f"Accepted are {', '.join(accepted)}."
    if name is None:
        raise InvalidImageError(f"The file is no picture: {describe_no_picture(prefix)} {hint}")
    if name == CAMERA_RAW:
        raise _unreadable_error(name)
    if name not in accepted:
        remedy = "Save a frame of the film" if name in FILMS else "Export the picture"
        raise UnsupportedFormatError(
            f"{name} files are not accepted here. {remedy} as PNG or JPEG. {hint}"
        )
    return name


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Check a picture's size against the limits; raises as `probe_image` does."""
    if width * height > limits.max_pixels:
        # Rounded up, so that a picture just over the limit never reads as one at the limit.
        megapixels = math.ceil(width * height / 100_000) / 10
        raise ImageTooLargeError(
            f"The image has {megapixels:.1f} megapixels; "
            f"the limit is {limits.max_pixels / 1_000_000:g}."
        )
    if max(width, height) > limits.max_side:
        raise SideTooLongError(
            f"The image is {width} x {height} pixels; each side may have at most "
            f"{limits.max_side}. Cut the picture into parts, or shrink it."
        )
    if min(width, height) < limits.min_side:
        raise ImageTooSmallError(
            f"The image is {width} x {height} pixels; "
            f"each side must have at least {limits.min_side}."
        )


def accepted_formats() -> tuple[str, ...]:
    """Return the formats that this installation reads, such as `("JPEG", "PNG", "WEBP")`.

    WebP and AVIF depend on how Pillow was built. The reader of HEIC comes with what runs a model.
    """
    optional = {"WEBP": features.check("webp"), "AVIF": features.check("avif")}
    return (*(name for name in _PLUGINS if optional.get(name, True)), "HEIC")


def identify_format(prefix: bytes) -> str | None:
    """Name the format, accepted or not, by a file's first `PREFIX_SIZE` bytes; None if unknown."""
    if prefix[4:8] == b"ftyp":
        return _identify_iso_media(prefix)
    found = next((name for name, at, magic in _SIGNATURES if prefix.startswith(magic, at)), None)
    return found or identify_other_format(prefix)


def _identify_iso_media(prefix: bytes) -> str:
    # ISO 14496-12: size, "ftyp", major brand, version, compatible brands.
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    brands = {prefix[8:12], *(prefix[at : at + 4] for at in range(16, end, 4))}
    if _CANON_RAW_BRAND in brands:
        return CAMERA_RAW
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else "MP4 or QuickTime"


def open_image(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Read the header with the reader of an accepted format; the pixels are read by `.load()`.

    Raises:
        UnsupportedFormatError: the reader knows no pixels of this kind.
        InvalidImageError: the header cannot be read; the reader's error is the cause.
    """
    factory, _ = Image.OPEN[_register_reader(name)]
    try:
        return factory(file, "")
    except Exception as error:  # readers raise errors of any class
        if str(error).startswith(_UNKNOWN_PIXELS):
            raise _unreadable_error(f"{name} files with pixels of this kind") from error
        raise _damaged_header_error(name) from error


def load_readers() -> None:
    """Import the readers of all accepted formats."""
    for name in accepted_formats():
        _register_reader(name)


def _damaged_header_error(name: str) -> InvalidImageError:
    return InvalidImageError(
        f"The header of this {name} file is damaged or incomplete: send another file."
    )


def _unreadable_error(files: str) -> UnsupportedFormatError:
    remedy = "Develop the picture, and save" if files == CAMERA_RAW else "Save"
    return UnsupportedFormatError(
        f"{files} are not accepted here. {remedy} it in RGB with 8 or 16 bits a channel, as "
        "PNG, TIFF or 8-bit JPEG."
    )


def _register_reader(name: str) -> str:
    # Importing a plugin registers it in Pillow's table; a second import costs nothing.
    if name == "HEIC":
        # Only the picture itself is read, not what else a phone keeps in its file.
        import_module("pillow_heif").register_heif_opener(
            thumbnails=False, depth_images=False, aux_images=False
        )
        return "HEIF"
    import_module(f"PIL.{_PLUGINS[name]}")
    return name
