"""Read the pixels of a BMP that are divided into colors and alpha by masks of bits.

Pillow reads some of these layouts, and takes the alpha of fewer. The other kinds of BMP are its.
"""

from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.bmp import HEAD_BYTES, BmpLayout, read_profile
from inference.metadata import Metadata
from inference.probe import open_image

#: Pixels converted at a time.
_STRIP_PIXELS: Final = 1 << 18
_TOP: Final = 255


def load_bmp(data: bytes) -> tuple[Image.Image, Metadata]:
    """Read a BMP that was probed, and what is to be applied to its pixels.

    An alpha that is 0 everywhere becomes opaque: so writers leave it that do not know it.

    Raises:
        ValueError: the file has fewer pixels than it says.
        Exception: whatever Pillow's reader meets.
    """
    image = _load_masked(data)
    if image is None:
        image = open_image(BytesIO(data), "BMP")
        image.load()
    return image, Metadata(profile=read_profile(data))


def _load_masked(data: bytes) -> Image.Image | None:
    """Read pixels in mode RGB or RGBA; None if they have no masks."""
    layout = BmpLayout.read(data[:HEAD_BYTES])
    if layout is None or not layout.masks:
        return None
    rows = np.ndarray(
        (layout.height, layout.width),
        f"<u{layout.bits // 8}",
        data,
        layout.offset,
        (layout.row_bytes, layout.bits // 8),
    )
    masks = layout.masks if layout.masks[3] else layout.masks[:3]
    pixels = _split(rows if layout.top_down else rows[::-1], masks)
    if layout.masks[3] and not pixels[..., 3].any():
        pixels[..., 3] = _TOP
    return Image.fromarray(pixels)


def _split(words: NDArray[np.unsignedinteger], masks: tuple[int, ...]) -> NDArray[np.uint8]:
    """Divide (height, width) words into (height, width, masks) levels; an empty mask gives 0."""
    height, width = words.shape
    pixels = np.zeros((height, width, len(masks)), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for channel, mask in enumerate(masks):
        if not mask:
            continue
        # Of more than 8 bits, the highest count.
        shift = max((mask & -mask).bit_length() - 1, mask.bit_length() - 8)
        top = mask >> shift
        levels = np.rint(np.arange(top + 1) * (_TOP / top)).astype(np.uint8)
        for start in range(0, height, rows):
            strip = slice(start, start + rows)
            pixels[strip, :, channel] = levels[(words[strip] & mask) >> shift]
    return pixels
