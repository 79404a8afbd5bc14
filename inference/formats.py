"""Which file formats are accepted, how their first bytes look, and who opens them.

`PIL.Image.open` is not used: it tries every format it knows, and its guard against huge pictures
warns or raises by a global figure. Here the format is told by its signature, the one reader for
it is called, and the limits are the caller's.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import BinaryIO

from PIL import Image, ImageFile, features

from inference.errors import InvalidImageError

#: Bytes that `identify` and `webp_size` want to see.
PREFIX_SIZE = 64

# (format, offset, bytes there); the first that fits wins.
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
    # Known only to be refused by name.
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

# Pillow's plugin of each format, in the order in which they are shown to people.
_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "AVIF": "AvifImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
}


def accepted_formats() -> tuple[str, ...]:
    """The formats that can be read here, such as `("JPEG", "PNG", "WEBP")`.

    WebP and AVIF depend on how Pillow was built, HEIC on whether `pillow-heif` is installed.
    """
    optional = {"WEBP": features.check("webp"), "AVIF": features.check("avif")}
    names = tuple(name for name in _PLUGINS if optional.get(name, True))
    return (*names, "HEIC") if find_spec("pillow_heif") else names


def identify(prefix: bytes) -> str | None:
    """The format that the first `PREFIX_SIZE` bytes belong to, accepted or not; None: unknown."""
    if prefix[4:8] == b"ftyp":
        return _identify_by_brand(prefix)
    for name, offset, magic in _SIGNATURES:
        if prefix.startswith(magic, offset):
            return name
    return None


def _identify_by_brand(prefix: bytes) -> str:
    # ISO 14496-12: size, "ftyp", major brand, version, compatible brands.
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    brands = {prefix[8:12], *(prefix[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else "MP4 or QuickTime"


def webp_size(prefix: bytes) -> tuple[int, int] | None:
    """Width and height from the first bytes of a WebP; None when they are not there.

    Pillow's reader takes in the whole file and sets up a canvas first. The three layouts are
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
    """Read the header with the one reader for the format; pixels are read by `.load()`.

    Args:
        file: at its start.
        name: one of `accepted_formats()`.

    Raises:
        InvalidImageError: the header cannot be read; the reader's error is the cause.
    """
    factory, _ = Image.OPEN[_register_reader(name)]
    try:
        return factory(file, "")
    except Exception as error:  # readers raise whatever they stumble over
        raise InvalidImageError(
            f"The header of this {name} file is damaged or incomplete."
        ) from error


def _register_reader(name: str) -> str:
    # Importing a plugin enters it in Pillow's table; done again, it costs nothing.
    if name == "HEIC":
        import_module("pillow_heif").register_heif_opener()
        return "HEIF"
    import_module(f"PIL.{_PLUGINS[name]}")
    return name
