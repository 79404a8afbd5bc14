"""From a picture and its matte to the pixels of a result."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.decode import Picture
from inference.models.base import Alpha, Rgb
from inference.options import Rgba

#: (height, width, 3) RGB or (height, width, 4) RGBA, 0..255, not premultiplied.
Pixels = NDArray[np.uint8]

# Rows handled at a time, so that the parts of a pass stay in the processor's cache.
_ROWS = 32


def compose(picture: Picture, matte: Alpha, matte_color: Rgba | None = None) -> Pixels:
    """Cut the subject out, and lay it on a colour where one is named.

    The input's own alpha multiplies the matte. Where a result is fully transparent, its RGB is
    zero: the file is smaller and nothing of the old background hides in it.

    Args:
        picture: (height, width).
        matte: (height, width), 0..1.
        matte_color: fill behind the subject. An opaque one gives RGB, any other gives RGBA with
            the alpha of the over operator.

    Returns:
        (height, width, 3 or 4).
    """
    alpha = _combine(matte, picture.alpha)
    if matte_color is None or matte_color[3] == 0:
        return cut_out(picture.rgb, alpha)
    if matte_color[3] == 255:  # noqa: PLR2004 - opaque
        return _fill_opaque(picture.rgb, alpha, matte_color)
    return _fill(cut_out(picture.rgb, alpha), matte_color)


def cut_out(rgb: Rgb, alpha: NDArray[np.uint8]) -> Pixels:
    """RGBA of colours and alpha, with zeros where alpha is zero."""
    height, width = alpha.shape
    result = np.empty((height, width, 4), np.uint8)
    for top in range(0, height, _ROWS):
        rows = slice(top, top + _ROWS)
        for channel in range(3):  # one by one: three times as fast as all of them at once
            np.copyto(result[rows, :, channel], rgb[rows, :, channel])
        result[rows, :, 3] = alpha[rows]
        whole = result[rows].view(np.uint32)[..., 0]
        np.multiply(whole, alpha[rows] != 0, out=whole)
    return result


def _combine(matte: Alpha, own: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    levels = matte * np.float32(255)
    levels += np.float32(0.5)
    alpha = levels.astype(np.uint8)
    if own is None:
        return alpha
    # a * b / 255, rounded (Blinn, "Three Wrongs Make a Right", 1995); Pillow's would cut off.
    product = np.multiply(alpha, own, dtype=np.uint16)
    product += 128
    product += product >> 8
    product >>= 8
    return product.astype(np.uint8)


def _fill_opaque(rgb: Rgb, alpha: NDArray[np.uint8], color: Rgba) -> Pixels:
    subject = Image.fromarray(rgb)
    background = Image.new("RGB", subject.size, color[:3])
    background.paste(subject, mask=Image.fromarray(alpha))
    return np.asarray(background)


def _fill(cutout: Pixels, color: Rgba) -> Pixels:
    subject = Image.fromarray(cutout)
    background = Image.new("RGBA", subject.size, color)
    return np.asarray(Image.alpha_composite(background, subject))
