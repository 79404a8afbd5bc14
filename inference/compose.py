"""Compose a result's pixels: place the subject, cast its shadow, lay it on a background."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from inference.layout import Box, Layout
from inference.models.base import Rgb
from inference.options import HUNDRED_PERCENT, OPAQUE, Rgba


def cover_background(background: Rgb, width: int, height: int) -> Rgb:
    """A background of this size: it fills it all, keeps its proportions, and is cut off evenly."""
    return np.asarray(
        ImageOps.fit(Image.fromarray(background), (width, height), Image.Resampling.LANCZOS)
    )


#: (height, width, 3) RGB or (height, width, 4) RGBA, 0..255, not premultiplied.
Pixels = NDArray[np.uint8]

# Rows handled at a time, so that the parts of a pass stay in the processor's cache.
_ROWS_AT_A_TIME = 32


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
        return _paste_on(Image.fromarray(behind), layer.rgb, layer.alpha)
    if behind is None or behind[3] == 0:
        return cut_out(layer.rgb, layer.alpha)
    if behind[3] == OPAQUE:
        size = layer.alpha.shape[1], layer.alpha.shape[0]
        return _paste_on(Image.new("RGB", size, behind[:3]), layer.rgb, layer.alpha)
    return _composite_on_color(cut_out(layer.rgb, layer.alpha), behind)


def cut_out(rgb: Rgb, alpha: NDArray[np.uint8]) -> Pixels:
    """RGBA of colours and alpha, with zeros where alpha is zero."""
    height, width = alpha.shape
    result = np.empty((height, width, 4), np.uint8)
    for top in range(0, height, _ROWS_AT_A_TIME):
        rows = slice(top, top + _ROWS_AT_A_TIME)
        for channel in range(3):  # one by one: three times as fast as all of them at once
            np.copyto(result[rows, :, channel], rgb[rows, :, channel])
        result[rows, :, 3] = alpha[rows]
        whole = result[rows].view(np.uint32)[..., 0]
        np.multiply(whole, alpha[rows] != 0, out=whole)
    return result


def _paste_on(background: Image.Image, rgb: Rgb, alpha: NDArray[np.uint8]) -> Pixels:
    canvas = background.copy()
    canvas.paste(Image.fromarray(rgb), mask=Image.fromarray(alpha))
    return np.asarray(canvas)


def _composite_on_color(cutout: Pixels, color: Rgba) -> Pixels:
    subject = Image.fromarray(cutout)
    background = Image.new("RGBA", subject.size, color)
    return np.asarray(Image.alpha_composite(background, subject))


# Nearly as sharp as Lanczos, without its ringing, which would draw a bright line inside every edge.
_SHRINK_FILTER = Image.Resampling.HAMMING

_ENLARGE_FILTER = Image.Resampling.BICUBIC


def place_subject(rgb: Rgb, alpha: NDArray[np.uint8], layout: Layout) -> Layer:
    """The result's colours and alpha.

    Colours are resized by their alpha's weight, so that no old background bleeds into the edges;
    where a pixel ends up fully transparent, it keeps the picture's own colour.

    Args:
        rgb: (height, width, 3).
        alpha: (height, width).
        layout: for a picture of that size.
    """
    if layout.unchanged:
        return Layer(rgb, alpha)
    part = layout.source.slices
    colors, opacity = _resize_subject(rgb[part], alpha[part], layout.target)
    width, height = layout.size
    placed = Layer(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8))
    placed.rgb[layout.target.slices] = colors
    placed.alpha[layout.target.slices] = opacity
    return placed


def _resize_subject(
    rgb: Rgb, alpha: NDArray[np.uint8], target: Box
) -> tuple[Rgb, NDArray[np.uint8]]:
    size = target.width, target.height
    if (alpha.shape[1], alpha.shape[0]) == size:
        return rgb, alpha
    way = _SHRINK_FILTER if target.width < alpha.shape[1] else _ENLARGE_FILTER
    plain = np.array(Image.fromarray(np.ascontiguousarray(rgb)).resize(size, way))
    # Pillow multiplies by alpha before it resizes this mode, and divides afterwards.
    weighted = np.asarray(Image.fromarray(cut_out(rgb, alpha)).resize(size, way))
    seen = weighted[..., 3] > 0
    plain[seen] = weighted[seen][:, :3]
    return plain, np.ascontiguousarray(weighted[..., 3])


# Of the subject's longer side: the blur's standard deviation, how far the blur is to be seen, and
# the way down.
_BLUR_SHARE, _VISIBLE_SHARE, _DROP_SHARE = 0.02, 0.05, 0.03


def shadow_extent(subject: Box) -> tuple[int, int, int, int]:
    """How far the shadow extends beyond the subject: top, right, bottom, left."""
    side = max(subject.width, subject.height)
    seen, drop = round(side * _VISIBLE_SHARE), round(side * _DROP_SHARE)
    return max(0, seen - drop), seen, seen + drop, seen


def cast_shadow(layer: Layer, subject: Box, opacity: int) -> Layer:
    """The layer with a shadow under its subject, and the alpha of both.

    Args:
        layer: the subject alone.
        subject: its box in the layer, which the shadow's size goes by.
        opacity: of the shadow where it is darkest, percent.
    """
    side = max(subject.width, subject.height)
    outline = Image.fromarray(layer.alpha)
    black = Image.new("RGBA", outline.size)
    blurred = outline.filter(ImageFilter.GaussianBlur(side * _BLUR_SHARE))
    faded = blurred.point(lambda level: level * opacity // HUNDRED_PERCENT)
    # Pasted, not rolled: what leaves the picture below must not come in again above.
    moved = Image.new("L", outline.size)
    moved.paste(faded, (0, round(side * _DROP_SHARE)))
    black.putalpha(moved)
    return _composite_over(layer, black)


def _composite_over(layer: Layer, below: Image.Image) -> Layer:
    above = Image.fromarray(layer.rgb)
    above.putalpha(Image.fromarray(layer.alpha))
    both = np.asarray(Image.alpha_composite(below, above))
    alpha = np.ascontiguousarray(both[..., 3])
    rgb = np.where(alpha[..., None] == 0, layer.rgb, both[..., :3])
    return Layer(rgb, alpha)
