"""From a result's pixels to its file. Nothing of the input's metadata is at hand here."""

import zipfile
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.option_values import OPAQUE, OutputFormat
from inference.options import Options
from inference.png import encode_png

# 0 (fast) .. 6 (small): method 4, the usual one, takes 2.7 times as long for a file that is 12 %
# smaller (benchmarks/pixels.py).
_WEBP_METHOD = 0
# 4:4:4: halved colour smears along a cutout's edges, on a flat background most of all.
_JPEG_SUBSAMPLING = 0
# The same for equal pixels, whenever the file is made; zip knows no earlier year.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_COLORS = 3


def resolve(pixels: NDArray[np.uint8], wanted: OutputFormat) -> OutputFormat:
    """The format to write: `auto` is png where something can be seen through, else jpg."""
    if wanted is not OutputFormat.AUTO:
        return wanted
    fits = max(pixels.shape[:2]) <= OutputFormat.JPG.max_side
    opaque = pixels.ndim == _COLORS and (pixels.shape[2] == _COLORS or _is_opaque(pixels))
    return OutputFormat.JPG if opaque and fits else OutputFormat.PNG


def _is_opaque(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels[..., 3] == OPAQUE).all())


def encode(
    pixels: NDArray[np.uint8], options: Options, wanted: OutputFormat | None = None
) -> bytes:
    """A file in the format that the options name.

    Args:
        pixels: (height, width) gray, (height, width, 3) RGB or (height, width, 4) RGBA; the last
            for jpg only where it is opaque.
        options: format and quality. The size must be one that `Options.check_size` passes.
        wanted: instead of the options' format; never `auto`.
    """
    wanted = wanted or options.output_format
    if wanted is OutputFormat.PNG:
        return encode_png(pixels)
    if wanted is OutputFormat.ZIP:
        return _zip(pixels, options.quality)
    if wanted is OutputFormat.WEBP:
        return _save(pixels, "WEBP", quality=options.quality, method=_WEBP_METHOD)
    return _jpeg(pixels, options.quality)


def _zip(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Colours and alpha in two files, not packed any further: they are so already."""
    height, width, channels = pixels.shape
    alpha = pixels[..., 3] if channels > _COLORS else np.full((height, width), OPAQUE, np.uint8)
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("color.jpg", _ZIP_DATE), _jpeg(pixels, quality))
        archive.writestr(zipfile.ZipInfo("alpha.png", _ZIP_DATE), encode_png(alpha))
    return file.getvalue()


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    colors = pixels if pixels.ndim < _COLORS else np.ascontiguousarray(pixels[..., :_COLORS])
    return _save(colors, "JPEG", quality=quality, subsampling=_JPEG_SUBSAMPLING)


def _save(pixels: NDArray[np.uint8], name: str, **parameters: int) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, name, **parameters)
    return file.getvalue()
