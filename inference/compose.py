"""From a picture and its matte to the pixels of a result."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.models.base import Rgb
from inference.option_values import OPAQUE, Rgba

#: (height, width, 3) RGB or (height, width, 4) RGBA, 0..255, not premultiplied.
Pixels = NDArray[np.uint8]

# Rows handled at a time, so that the parts of a pass stay in the processor's cache.
_ROWS = 32


@dataclass(frozen=True, slots=True)
class Layer:
    """The subject, or more, before it lies on anything."""

    #: (height, width, 3).
    rgb: Rgb
    #: (height, width), 0..255.
    alpha: NDArray[np.uint8]


def compose(layer: Layer, behind: Rgba | Rgb | None = None) -> Pixels:
    """Cut the subject out, and lay it on a colour or a background where there is one.

    Where a result is fully transparent, its RGB is zero: the file is smaller and nothing of the
    old background hides in it.

    Args:
        layer: the subject.
        behind: a colour, or a background of the layer's size. Opaque ones give RGB, a
            translucent colour gives RGBA with the alpha of the over operator.

    Returns:
        (height, width, 3 or 4).
    """
    if isinstance(behind, np.ndarray):
        return _lay_on(Image.fromarray(behind), layer.rgb, layer.alpha)
    if behind is None or behind[3] == 0:
        return cut_out(layer.rgb, layer.alpha)
    if behind[3] == OPAQUE:
        size = layer.alpha.shape[1], layer.alpha.shape[0]
        return _lay_on(Image.new("RGB", size, behind[:3]), layer.rgb, layer.alpha)
    return _fill(cut_out(layer.rgb, layer.alpha), behind)


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


def _lay_on(background: Image.Image, rgb: Rgb, alpha: NDArray[np.uint8]) -> Pixels:
    canvas = background.copy()
    canvas.paste(Image.fromarray(rgb), mask=Image.fromarray(alpha))
    return np.asarray(canvas)


def _fill(cutout: Pixels, color: Rgba) -> Pixels:
    subject = Image.fromarray(cutout)
    background = Image.new("RGBA", subject.size, color)
    return np.asarray(Image.alpha_composite(background, subject))
