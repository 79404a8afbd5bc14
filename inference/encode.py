"""From a result's pixels to its file. Nothing of the input's metadata is at hand here."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.options import Options, OutputFormat
from inference.png import encode_png

# 0 (fast) .. 6 (small): method 4, the usual one, takes 2.7 times as long for a file that is 12 %
# smaller (benchmarks/pixels.py).
_WEBP_METHOD = 0
# 4:4:4: halved colour smears along a cutout's edges, on a flat background most of all.
_JPEG_SUBSAMPLING = 0


def encode(pixels: NDArray[np.uint8], options: Options) -> bytes:
    """A file in the format that the options name.

    Args:
        pixels: (height, width, 3) RGB or (height, width, 4) RGBA; for jpg RGB only.
        options: format and quality. The size must be one that `Options.check_size` passes.
    """
    if options.output_format is OutputFormat.PNG:
        return encode_png(pixels)
    if options.output_format is OutputFormat.WEBP:
        return _save(pixels, "WEBP", quality=options.quality, method=_WEBP_METHOD)
    return _save(pixels, "JPEG", quality=options.quality, subsampling=_JPEG_SUBSAMPLING)


def _save(pixels: NDArray[np.uint8], name: str, **parameters: int) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, name, **parameters)
    return file.getvalue()
