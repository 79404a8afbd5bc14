"""Name files that are not accepted by their first bytes, and say what their sender can do.

People send web pages, archives and texts under the names of pictures, and pictures of kinds that
are not read. No reader opens these files: all is told by some bytes at their start.
"""

import re
from typing import Final

# (format, pattern at the file's start); the first match wins. Repeats are possessive (`*+`):
# no file makes a pattern try more than one way through it.
_FORMATS: Final = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("JPEG 2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
        ("JPEG XR", rb"II\xbc[\x00\x01]"),
        ("JPEG XS", rb"\xff\x10\xff\x50"),
        ("Photoshop", rb"8BPS"),
        ("GIMP", rb"gimp xcf"),
        ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("ICO", rb"\x00\x00\x01\x00"),
        ("Windows cursor", rb"\x00\x00\x02\x00[^\x00]\x00"),
        ("ICNS", rb"icns"),
        ("DDS", rb"DDS \x7c"),
        ("OpenEXR", rb"v/1\x01"),
        ("Radiance HDR", rb"#\?RADIANCE|#\?RGBE"),
        ("Netpbm", rb"P[1-6]\s++(#[^\n]*+\n\s*+)*+\d++\s|P7\n|P[Ff]\n\d"),
        ("QOI", rb"qoif"),
        ("PCX", rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]"),
        ("SGI", rb"\x01\xda[\x00\x01][\x01\x02]\x00[\x01-\x03]"),
        ("DICOM", rb".{128}DICM"),
        ("FITS", rb"SIMPLE  ="),
        ("DjVu", rb"AT&TFORM"),
        ("Windows metafile", rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF"),
        ("OS/2 bitmap array", rb"BA.{12}(BM|CI|CP|IC|PT)"),
        ("AVI", rb"RIFF.{4}AVI "),
        ("Matroska or WebM", rb"\x1aE\xdf\xa3"),
        ("MP4 or QuickTime", rb".{4}(moov|mdat|wide|free)"),
    )
)
#: The formats that are films.
FILMS: Final = frozenset({"AVI", "Matroska or WebM", "MP4 or QuickTime"})
_SVG_BEGINNING: Final = re.compile(
    rb"(\xef\xbb\xbf)?\s*+<(\?xml|!--|!DOCTYPE\s+svg|(\w+:)?svg)", re.IGNORECASE
)
_SVG_ELEMENT: Final = re.compile(rb"<(!DOCTYPE\s+|\w+:)?svg\b", re.IGNORECASE)

#: How JPEG, PNG, GIF and WebP begin.
_PICTURE: Final = rb"(\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF.{4}WEBP)"
#: The same in base64.
_BASE64_PICTURE: Final = rb"(/9j/|iVBORw0KGg|R0lGOD|UklGR)[A-Za-z0-9+/\s]{16}"

# (what the file is, what to do, pattern at its start); the first match wins.
_NO_PICTURES: Final = tuple(
    (what, remedy, re.compile(pattern, re.DOTALL | re.IGNORECASE))
    for what, remedy, pattern in (
        (
            "a web page (HTML)",
            (
                "Open it in a browser to read what it says; send the picture itself, not the page "
                "that shows it."
            ),
            (
                rb"(\xef\xbb\xbf)?\s*+(<\?xml[^>]*+>\s*+)?(<!--((?!-->).)*+-->\s*+)*+"
                rb"<(!doctype\s+html|html|head|body)\b"
            ),
        ),
        (
            "an XML document",
            "Open it in a text editor: where a download failed, it says why.",
            rb"(\xef\xbb\xbf)?\s*+<\?xml",
        ),
        (
            "JSON",
            "Open it in a text editor: where a download failed, it says why.",
            rb"(\xef\xbb\xbf)?\s*+(\{\s*+[\"}]|\[\s*+[\[{\"\]])",
        ),
        (
            "a picture written as base64 text",
            "Decode it, and send the bytes.",
            rb"\s*+(data:image/[^,]{,100},|" + _BASE64_PICTURE + rb")",
        ),
        (
            "a pointer of Git LFS, not what it points to",
            "Fetch the picture with `git lfs pull`.",
            rb"version https://git-lfs",
        ),
        (
            "the body of a form, with the picture within it",
            "Send the picture's bytes alone.",
            rb"(\r\n)?--[^\r\n]{1,80}\r\ncontent-",
        ),
        (
            "a picture with text before its first byte",
            "Send the picture's bytes alone, as a binary file.",
            rb"(\xef\xbb\xbf)?\s*+" + _PICTURE,
        ),
        (
            "a picture whose bytes were changed as if they were text",
            "Send the original, as a binary file.",
            rb"(\x89|\xc2\x89|\xef\xbf\xbd)PNG|\xc3\xbf\xc3\x98\xc3\xbf|(\xef\xbf\xbd){3}",
        ),
        (
            "a ZIP archive, or a document that is one (DOCX, ODT)",
            "Unpack it, and send the pictures that are in it.",
            rb"PK(\x03\x04|\x05\x06|\x07\x08)",
        ),
        (
            "a compressed file or an archive",
            "Unpack it, and send the pictures that are in it.",
            (
                rb"\x1f\x8b|BZh[1-9]1AY|\xfd7zXZ\x00|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|\x28\xb5\x2f\xfd"
                rb"|.{257}ustar"
            ),
        ),
        (
            "an Office document",
            "Save the picture that is in it as a file, and send that.",
            rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        ),
        (
            "what macOS keeps beside a picture (AppleDouble)",
            "Send the file whose name does not begin with `._`.",
            rb"\x00\x05\x16[\x00\x07]",
        ),
        (
            "a file of zeros",
            "It was probably not copied or saved completely: send the original.",
            rb"\x00{64}",
        ),
    )
)
_UTF_16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
#: Control characters that texts do not have.
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def identify_other_format(prefix: bytes) -> str | None:
    """Name the format of a picture, video or document that is not accepted; None if unknown."""
    for name, pattern in _FORMATS:
        if pattern.match(prefix):
            return name
    if _SVG_BEGINNING.match(prefix) and _SVG_ELEMENT.search(prefix):
        return "SVG"
    # Before its signature there may be up to 1,024 bytes of anything.
    return "PDF" if b"%PDF-" in prefix else None


def describe_no_picture(prefix: bytes) -> str:
    """Return a sentence of what a file is that is no picture, and one of what to do."""
    for what, remedy, pattern in _NO_PICTURES:
        if pattern.match(prefix):
            return f"it is {what}. {remedy}"
    if prefix.startswith(_UTF_16_MARKS) or _is_text(prefix):
        return "it is text. Send the picture itself."
    return "its first bytes match no known image format."


def _is_text(prefix: bytes) -> bool:
    if _CONTROLS.search(prefix):
        return False
    try:
        prefix[:-3].decode()  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True
