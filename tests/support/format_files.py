"""Files of every kind that the table in docs/formats.md has a row for."""

import base64
import gzip
import re
import struct
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from tests.support.bmp_files import bmp_file, indexed_bmp
from tests.support.heic_files import with_brand
from tests.support.paths import ROOT
from tests.support.pictures import (
    ended_early,
    exif_orientation,
    height_behind_the_scan,
    jpeg_of_frame,
    picture_file,
)
from tests.support.png_files import png_chunk, png_file
from tests.support.tiff_files import Page, tiff_file

#: What becomes of the files of each row, in the table's words.
ROWS: Final[dict[str, str]] = dict(
    re.findall(
        r"^\| ([^|]+) \| ((?:taken|`)[^|]*) \|$",
        (ROOT / "docs/formats.md").read_text(),
        re.MULTILINE,
    )
)
_IMAGE: Final = Image.radial_gradient("L").resize((24, 16)).convert("RGB")
_SAMPLES: Final = np.asarray(_IMAGE)


def _file(name: str, **more: object) -> bytes:
    return picture_file(_IMAGE, name, **more)


def _animated(name: str, **more: object) -> bytes:
    return _file(name, save_all=True, append_images=[_IMAGE.rotate(180)], **more)


def _tiff(
    tags: dict[int, tuple[int, ...]] | None = None, channels: int = 3, kind: int = 2
) -> bytes:
    samples = np.resize(_SAMPLES, (16, 24, channels))
    return tiff_file(Page(samples, kind, tags=tags))


def _with_thumbnail(tags: dict[int, tuple[int, ...]]) -> bytes:
    picture = Page(_SAMPLES, 2, tags=tags)
    return tiff_file(Page(_SAMPLES[:4], 2, tags={254: (1,)}, subdirectories=(picture,)))


def _with_chunk(kind: bytes, body: bytes) -> bytes:
    data = _file("WEBP") + kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


_PNG: Final = _file("PNG")
_JPEG: Final = _file("JPEG")
_EXIF: Final = exif_orientation(1).tobytes()
#: Files of a row, by the first words of it.
FILES: Final[dict[str, Callable[[], list[bytes]]]] = {
    "JPEG: gray": lambda: [
        picture_file(_IMAGE.convert(mode), "JPEG", progressive=progressive)
        for mode in ("L", "RGB", "CMYK")
        for progressive in (False, True)
    ],
    "JPEG with broken": lambda: [
        _JPEG[:-2],
        _JPEG[:2] + b"\xff\xe1\0\x0aExif\0\0??" + _JPEG[2:],
        _JPEG + _JPEG,
    ],
    "JPEG that lacks data of": lambda: [_JPEG[:-20], _JPEG[:-20] + b"\xff\xd9"],
    "JPEG that lacks data between": lambda: [
        re.sub(rb"(?s)\xff\xd1.*\xff\xd3", b"\xff\xd3", data)
        for data in (_file("JPEG", restart_marker_blocks=1, subsampling=0),)
    ],
    "progressive": lambda: [
        b"\xff\xc4".join(parts[:kept]) + b"\xff\xd9"
        for parts in (_file("JPEG", progressive=True).split(b"\xff\xc4"),)
        for kept in range(3, len(parts))
    ],
    "JPEG whose": lambda: [height_behind_the_scan(_JPEG, 16)],
    "JPEG of 12": lambda: [jpeg_of_frame(_IMAGE, b"\xc1", 12)],
    "JPEG, lossless": lambda: [jpeg_of_frame(_IMAGE, b"\xc3", 8)],
    "JPEG-LS": lambda: [jpeg_of_frame(_IMAGE, b"\xf7", 8)],
    "JPEG, hier": lambda: [jpeg_of_frame(_IMAGE, b"\xc5", 8)],
    "PNG of each": lambda: [picture_file(_IMAGE.convert(mode)) for mode in ("1", "L", "P", "LA")],
    "PNG that lacks its": lambda: [_PNG[:-cut] for cut in (1, 12, 16)],
    "PNG with": lambda: [_PNG[:33] + png_chunk(b"cHRM", b"?") + _PNG[33:]],
    "PNG that lacks chunks": lambda: [_PNG[:-30], _PNG[:-17]],
    "PNG that lacks rows": lambda: [png_file((9, 9), zlib.compress(bytes(n))) for n in (0, 50, 89)],
    "animated PNG": lambda: [_animated("PNG")],
    "animated PNG whose": lambda: [_animated("PNG", default_image=True)],
    "PNG, AVIF or HEIC in": lambda: [
        _PNG[:33] + png_chunk(b"cICP", bytes([9, curve, 0, 1])) + _PNG[33:] for curve in (16, 18)
    ],
    "PNG made": lambda: [_PNG[:8] + png_chunk(b"CgBI", b"P\0 \2") + _PNG[8:]],
    "WebP": lambda: [_file("WEBP"), _file("WEBP", lossless=True)],
    "WebP with": lambda: [_with_chunk(b"EXIF", b"??"), _with_chunk(b"what", b"?")],
    "WebP that is": lambda: [_file("WEBP", exif=exif_orientation(6))],
    "WebP that lacks": lambda: [
        _file("WEBP")[:-20],
        _file("WEBP", lossless=True).removesuffix(b"\0")[:-1],
    ],
    "animated WebP": lambda: [_animated("WEBP")],
    "AVIF": lambda: [_file("AVIF")],
    "HEIC": lambda: [_file("HEIC")],
    "AVIF or HEIC whose": lambda: [
        with_brand(_file("AVIF"), b"mif1"),
        with_brand(_file("HEIC"), b"avif"),
    ],
    "HEIF of": lambda: [
        _file("HEIC").replace(b"hvc1", each) for each in (b"jpeg", b"j2k1", b"avc1", b"vvc1")
    ],
    "AVIF or HEIC with": lambda: [
        _file(name, exif=_EXIF).replace(_EXIF[-14:], b"?" * 14) + struct.pack(">I4s", 8, b"what")
        for name in ("AVIF", "HEIC")
    ],
    "AVIF or HEIC that": lambda: [_file(name)[:-20] for name in ("AVIF", "HEIC")],
    "GIF that": lambda: [_file("GIF")[:-20]],
    "GIF": lambda: [_file("GIF"), _animated("GIF")],
    "BMP": lambda: [picture_file(_IMAGE.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB")],
    "BMP whose colors": lambda: [bmp_file((0xF00, 0xF0, 0xF, 0xF000), bits=16)],
    "BMP that lacks": lambda: [_file("BMP")[:-30]],
    "BMP in run lengths (": lambda: [indexed_bmp(8, 1, b"\4\1\0\1")],
    "BMP in run lengths that": lambda: [indexed_bmp(8, 1, b"\4\1\0\0")],
    "BMP whose masks": lambda: [bmp_file((0xFF00FF, 0xFF00, 0xFF, 0))],
    "BMP of": lambda: [bmp_file(compression=each) for each in (4, 5)],
    "BMP of OS/2": lambda: [bmp_file(header=each) for each in (16, 48)],
    "TIFF of 1": lambda: [
        tiff_file(Page(_SAMPLES.astype(kind), 2, bits))
        for kind, bits in (("u1", 4), ("u1", 8), ("u2", 12), ("f2", 16), ("u4", 32), ("f8", 64))
    ],
    "TIFF in planes": lambda: [tiff_file(Page(_SAMPLES, kind, planar=True)) for kind in (2, 8)],
    "TIFF of floating": lambda: [tiff_file(Page((_SAMPLES / 200).astype("f4"), 2, 32))],
    "TIFF whose": lambda: [tiff_file(Page(_SAMPLES[:4], 2, tags={254: (1,)}), Page(_SAMPLES, 2))],
    "TIFF that lacks": lambda: [_tiff({257: (99,)})],
    "TIFF whose JPEG": lambda: [ended_early(_file("TIFF", compression="jpeg"))],
    "TIFF in CMYK": lambda: [_tiff({338: (2,)}, 5, 5)],
    "TIFF of other inks": lambda: [_tiff({332: (2,)}, 4, 5)],
    "TIFF of other comp": lambda: [_tiff({259: (34887,)})],
    "TIFF with sub": lambda: [_tiff({530: (2, 2)}, 3, 6)],
    "camera raw": lambda: [
        # DNG, samples behind a mosaic of colors, PEF; linear raw and NEF behind their thumbnails.
        *(_tiff({50706: (1,)}), _tiff({262: (32803,)}), _tiff({259: (65535,)})),
        *(_with_thumbnail(tags) for tags in ({262: (34892,)}, {259: (34713,)})),
        *(b"II*\0\x10\0\0\0CR\2\0", b"IIRO\x08\0\0\0", b"IIU\0"),
        *(b"FUJIFILMCCD-RAW 0201", b"II\x1a\0\0\0HEAPCCDR", b"\0MRM", b"FOVb"),
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    ],
    "JPEG 2000": lambda: [b"\0\0\0\x0cjP  \r\n\x87\n"],
    "JPEG XL": lambda: [b"\xff\x0a"],
    "Photoshop": lambda: [b"8BPS\0\1"],
    "PDF": lambda: [b"%PDF-1.7\n"],
    "PostScript": lambda: [b"%!PS-Adobe"],
    "ICO": lambda: [b"\0\0\1\0\1\0"],
    "SVG": lambda: [
        prolog + b"<svg xmlns='http://www.w3.org/2000/svg'/>"
        for prolog in (
            b"",
            b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- by a > b -->\n<!DOCTYPE svg>\n",
        )
    ],
    "MP4": lambda: [b"\0\0\0\x18ftypisom\0\0\2\0isommp41"],
    "JPEG XR": lambda: [
        *(b"II\xbc\1", b"DDS |", b"v/1\1", b"#?RADIANCE", b"P6\n# x\n9 9\n", b"qoif", b"icns"),
        *(b"\n\5\1\x08", b"\1\xda\0\1\0\3", b"gimp xcf v011", b"\xff\x4f\xff\x51"),
        *(b"\xc5\xd0\xd3\xc6", b"\xd7\xcd\xc6\x9a", b"BA" + bytes(12) + b"BM"),
    ],
    "AVI,": lambda: [b"RIFF\0\0\0\0AVI LIST", b"\x1aE\xdf\xa3"],
    "web page": lambda: [
        *(b"\r\n<!-- x -->\n<!DOCTYPE html>", b"<?xml version='1.0'?><Error/>", b'{"error":1}'),
        *(b"Dear shop,", "Dear shop".encode("utf-16"), b"version https://git-lfs.github.com/"),
    ],
    "picture within": lambda: [
        *(base64.b64encode(_JPEG), b"data:image/png;base64,", b"PK\3\4", gzip.compress(_JPEG)),
        *(b"--x\r\nContent-Disposition: form-data", b"\xef\xbb\xbf" + _PNG, b"\r\n" + _JPEG),
    ],
    "picture changed": lambda: [
        *(_PNG.replace(b"\r\n", b"\n"), _PNG.decode(errors="replace").encode()),
        *(_JPEG.decode(errors="replace").encode(), _JPEG.decode("latin-1").encode()),
    ],
    "anything": lambda: [b"\1\2\3"],
}


def make_files(row: str) -> list[bytes]:
    """Make the files of a row of the table."""
    return FILES[max((each for each in FILES if row.startswith(each)), key=len)]()
