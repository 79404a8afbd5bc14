"""Encode a result's pixels as png, webp, avif, jpg or zip; no metadata of the input is written.

PNG files are written here, with one filter for all rows and ISA-L's deflate at its first level.
Pillow tries five filters on every row and deflates at zlib's level 6, which took longer than all
other steps together (benchmarks/pixels.py). Of the five, Up gave the smallest file; Paeth gave one
as small for twenty times the work. The layout follows the PNG specification, third edition.
"""

import struct
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future
from io import BytesIO

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from inference.errors import InvalidOptionError
from inference.options import OPAQUE, Options, OutputFormat

_COLOR_CHANNELS = 3
# 0 (fast) .. 6 (small): method 4, Pillow's default, takes 2.7 times as long for a file that is
# 12 % smaller (benchmarks/pixels.py).
_WEBP_METHOD = 0
# What Pillow says of libwebp's VP8_ENC_ERROR_PARTITION0_OVERFLOW: what is kept of each 16 x 16
# pixels beside their coefficients is over 512 kB.
_WEBP_TOO_DETAILED = "encoding error 6"
# 4:4:4: halved color smears along a cutout's edges, on a flat background most of all.
_JPEG_SUBSAMPLING, _AVIF_SUBSAMPLING = 0, "4:4:4"
# 0 (small) .. 10 (fast): a 2000 x 1333 cutout takes 0.6 s, as long as a webp, and is a sixth of it.
# Pillow's 6 takes seven times as long for a file that is 15 % smaller.
_AVIF_SPEED = 9
# Fixed, so that equal pixels give equal files; zip knows no earlier year.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG's color types by number of channels; 8 bits each.
_PNG_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
_PERCEPTUAL_INTENT = 0
_FILTER_UP = 2
_DEFLATE_LEVEL = 1
# Rows handled at a time, so that filtered bytes are deflated while still in the processor's cache.
_ROWS_AT_A_TIME = 32
# Bytes deflated apart from the rest; see `_filter_and_deflate`. ISA-L's routine for short input,
# which they have to go through, takes up to 16.
_FIRST_BLOCK_BYTES = 8


def resolve_format(pixels: NDArray[np.uint8], requested: OutputFormat) -> OutputFormat:
    """Return the format to write: `auto` becomes jpg for opaque pixels that fit, else png."""
    if requested is not OutputFormat.AUTO:
        return requested
    fits = max(pixels.shape[:2]) <= OutputFormat.JPG.max_side
    return OutputFormat.JPG if fits and _is_opaque(pixels) else OutputFormat.PNG


def _is_opaque(pixels: NDArray[np.uint8]) -> bool:
    """Return whether pixels are RGB, or RGBA without transparency; gray ones are an alpha."""
    if pixels.ndim != _COLOR_CHANNELS:
        return False
    return pixels.shape[2] == _COLOR_CHANNELS or bool((pixels[..., 3] == OPAQUE).all())


def encode(
    pixels: NDArray[np.uint8], options: Options, output_format: OutputFormat | None = None
) -> bytes:
    """Encode pixels as a file.

    Args:
        pixels: (height, width) gray, (height, width, 3) RGB or (height, width, 4) RGBA; the last
            for jpg only where it is opaque.
        options: format and quality. The size must be one that `Options.check_size` passes.
        output_format: instead of the options' format; never `auto`.

    Raises:
        InvalidOptionError: the format cannot hold such pixels.
    """
    output_format = output_format or options.output_format
    if output_format is OutputFormat.PNG:
        return encode_png(pixels)
    if output_format is OutputFormat.ZIP:
        return _encode_zip(pixels, options.quality)
    if output_format is OutputFormat.WEBP:
        return _encode_webp(pixels, options.quality)
    if output_format is OutputFormat.AVIF:
        return _save_in_thread(
            pixels,
            "AVIF",
            quality=options.quality,
            speed=_AVIF_SPEED,
            subsampling=_AVIF_SUBSAMPLING,
        )
    return _encode_jpeg(pixels, options.quality)


def _encode_zip(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Store colors and alpha as two files; both are compressed already."""
    height, width, channels = pixels.shape
    if channels > _COLOR_CHANNELS:
        alpha = pixels[..., 3]
    else:
        alpha = np.full((height, width), OPAQUE, np.uint8)
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("color.jpg", _ZIP_DATE), _encode_jpeg(pixels, quality))
        archive.writestr(zipfile.ZipInfo("alpha.png", _ZIP_DATE), encode_png(alpha))
    return file.getvalue()


def _encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    if pixels.ndim == _COLOR_CHANNELS:
        pixels = np.ascontiguousarray(pixels[..., :_COLOR_CHANNELS])
    return _save_with_pillow(pixels, "JPEG", quality=quality, subsampling=_JPEG_SUBSAMPLING)


def _encode_webp(pixels: NDArray[np.uint8], quality: int) -> bytes:
    try:
        # Exact: else libwebp fills what is transparent with colors that compress well, up to white.
        return _save_in_thread(pixels, "WEBP", quality=quality, method=_WEBP_METHOD, exact=True)
    except ValueError as error:
        if str(error) != _WEBP_TOO_DETAILED:
            raise
        raise InvalidOptionError(
            "output_format",
            "The result has more detail than a webp of its size can hold at this quality: ask for "
            "output_format=png or avif, a lower quality, or a smaller result.",
        ) from error


def _save_in_thread(pixels: NDArray[np.uint8], name: str, **parameters: int | str) -> bytes:
    """Encode by a codec that does all in one long call, during which Python hears no signal.

    The call is made in a thread, so that a job's time limit ends the wait for it: a worker that
    overstays its soft limit is killed, and the job run again. The thread itself ends with the call.
    """
    saved = Future[bytes]()

    def save() -> None:
        try:
            saved.set_result(_save_with_pillow(pixels, name, **parameters))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            saved.set_exception(error)

    threading.Thread(target=save, name="encode", daemon=True).start()
    return saved.result()


def _save_with_pillow(pixels: NDArray[np.uint8], name: str, **parameters: int | str) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, name, **parameters)
    return file.getvalue()


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode 8-bit pixels as a PNG that is marked as sRGB and holds no other metadata.

    Args:
        pixels: (height, width) for gray, or (height, width, channels) with 1, 3 or 4 channels.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]  # noqa: PLR2004 - (height, width)
    rows = np.ascontiguousarray(pixels).reshape(height, width * channels)
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    return b"".join(
        (
            _PNG_SIGNATURE,
            *_png_chunk(b"IHDR", header),
            *_png_chunk(b"sRGB", bytes([_PERCEPTUAL_INTENT])),
            *_png_chunk(b"IDAT", b"".join(_filter_and_deflate(rows))),
            *_png_chunk(b"IEND", b""),
        )
    )


def _png_chunk(kind: bytes, body: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    checksum = isal_zlib.crc32(body, isal_zlib.crc32(kind))
    return struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)


def _filter_and_deflate(rows: NDArray[np.uint8]) -> Iterator[bytes]:
    """Subtract from each row the one above it, prefix the filter's number, and deflate.

    The first bytes are a block of their own; otherwise equal pixels might not give equal files:
    ISA-L's routine for long input (2.32.1, igzip_icf_body_h1_gr_bt.asm) enters the third byte into
    its table under the hash of a register that it has not set, which holds an address. A stream
    that has begun does not get there; the routine for short input, which begins it, has no such
    flaw.
    """
    compressor = isal_zlib.compressobj(_DEFLATE_LEVEL)
    height, stride = rows.shape
    filtered = np.empty((min(_ROWS_AT_A_TIME, height), 1 + stride), np.uint8)
    filtered[:, 0] = _FILTER_UP
    above = np.zeros((1, stride), np.uint8)
    for top in range(0, height, _ROWS_AT_A_TIME):
        block = rows[top : top + _ROWS_AT_A_TIME]
        count = len(block)
        np.subtract(block[:1], above, out=filtered[:1, 1:])
        np.subtract(block[1:], block[:-1], out=filtered[1:count, 1:])
        data = filtered[:count].reshape(-1)
        if top == 0:
            yield compressor.compress(data[:_FIRST_BLOCK_BYTES])
            yield compressor.flush(isal_zlib.Z_SYNC_FLUSH)
            data = data[_FIRST_BLOCK_BYTES:]
        yield compressor.compress(data)
        above = block[-1:]
    yield compressor.flush()
