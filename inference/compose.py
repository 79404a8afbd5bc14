"""Compose a result's pixels: place the subject, cast its shadow, lay it on a background."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from inference.layout import Box, Layout
from inference.models.base import Rgb
from inference.options import HUNDRED_PERCENT, OPAQUE, Rgba

#: (height, width, 3) RGB or (height, width, 4) RGBA, 0..255, not premultiplied.
Pixels = NDArray[np.uint8]

# Rows handled at a time, so that the arrays of one pass stay in the processor's cache.
_ROWS_AT_A_TIME = 32

# Nearly as sharp as Lanczos, without its ringing, which would draw a bright line inside every edge.
_SHRINK_FILTER = Image.Resampling.HAMMING

_ENLARGE_FILTER = Image.Resampling.BICUBIC

# Shares of the subject's longer side: the standard deviation of the shadow's blur, the distance at
# which the blur is still visible, and the shadow's offset downwards.
_BLUR_SHARE, _VISIBLE_SHARE, _DROP_SHARE = 0.02, 0.05, 0.03


@dataclass(frozen=True, slots=True)
class Layer:
    """The subject, with or without its shadow, before it is laid on a background."""

    #: (height, width, 3), 0..255.
    rgb: Rgb
    #: (height, width), 0..255.
    alpha: NDArray[np.uint8]


def place_subject(rgb: Rgb, alpha: NDArray[np.uint8], layout: Layout) -> Layer:
    """Crop, resize and move a picture's colors and alpha to where the layout wants them.

    Colors are resized weighted by their alpha, so that no old background bleeds into the edges;
    where a pixel ends up fully transparent, it keeps the picture's own color.
    """
    width, height = layout.size
    # A crop at the upper left keeps places too: the result must be as large as the picture.
    if alpha.shape == (height, width) and layout.source == layout.target == Box(
        0, 0, width, height
    ):
        return Layer(rgb, alpha)
    source, target = layout.source.slices, layout.target.slices
    placed = Layer(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8))
    placed.rgb[target], placed.alpha[target] = _resize_subject(
        rgb[source], alpha[source], layout.target.width, layout.target.height
    )
    return placed


def _resize_subject(
    rgb: Rgb, alpha: NDArray[np.uint8], width: int, height: int
) -> tuple[Rgb, NDArray[np.uint8]]:
    if alpha.shape == (height, width):
        return rgb, alpha
    resample = _SHRINK_FILTER if width < alpha.shape[1] else _ENLARGE_FILTER
    colors = np.array(Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), resample))
    # Pillow multiplies RGBA by alpha before it resizes, and divides afterwards.
    cutout = Image.fromarray(cut_out(rgb, alpha)).resize((width, height), resample)
    weighted = np.asarray(cutout)
    visible = weighted[..., 3] > 0
    colors[visible] = weighted[visible][:, :3]
    return colors, np.ascontiguousarray(weighted[..., 3])


def shadow_extent(subject: Box) -> tuple[int, int, int, int]:
    """Return how far the shadow reaches beyond the subject: top, right, bottom, left."""
    side = max(subject.width, subject.height)
    visible, drop = round(side * _VISIBLE_SHARE), round(side * _DROP_SHARE)
    return max(0, visible - drop), visible, visible + drop, visible


def cast_shadow(layer: Layer, subject: Box, opacity: int) -> Layer:
    """Put a drop shadow under the subject: its outline, black, blurred, and moved down a little.

    The shadow's size is relative to the subject's box in the layer; where it is darkest, it is
    opaque to `opacity` percent.
    """
    side = max(subject.width, subject.height)
    outline = Image.fromarray(layer.alpha)
    blurred = outline.filter(ImageFilter.GaussianBlur(side * _BLUR_SHARE))
    faded = blurred.point(lambda level: level * opacity // HUNDRED_PERCENT)
    # Pasted, not rolled: what leaves the picture at the bottom must not come in again at the top.
    moved = Image.new("L", outline.size)
    moved.paste(faded, (0, round(side * _DROP_SHARE)))
    shadow = Image.new("RGBA", outline.size)
    shadow.putalpha(moved)
    above = Image.fromarray(layer.rgb)
    above.putalpha(outline)
    both = np.asarray(Image.alpha_composite(shadow, above))
    alpha = np.ascontiguousarray(both[..., 3])
    rgb = np.where(alpha[..., None] == 0, layer.rgb, both[..., :3])
    return Layer(rgb, alpha)


def cover_background(background: Rgb, width: int, height: int) -> Rgb:
    """Resize a background to fill width x height: proportions are kept, the excess is cropped."""
    return np.asarray(
        ImageOps.fit(Image.fromarray(background), (width, height), Image.Resampling.LANCZOS)
    )


def compose(layer: Layer, background: Rgba | Rgb | None = None) -> Pixels:
    """Cut the subject out, and lay it on a color or a picture if one is given.

    Where a result is fully transparent its RGB is zero: the file is smaller, and nothing of the
    old background is hidden in it.

    A background is a color, or a picture of the layer's size. Opaque ones give RGB; a translucent
    color gives RGBA by the over operator.
    """
    if isinstance(background, np.ndarray):
        return _paste_on(Image.fromarray(background), layer)
    if background is None or background[3] == 0:
        return cut_out(layer.rgb, layer.alpha)
    height, width = layer.alpha.shape
    if background[3] == OPAQUE:
        return _paste_on(Image.new("RGB", (width, height), background[:3]), layer)
    subject = Image.fromarray(cut_out(layer.rgb, layer.alpha))
    return np.asarray(
        Image.alpha_composite(Image.new("RGBA", (width, height), background), subject)
    )


def _paste_on(background: Image.Image, layer: Layer) -> Pixels:
    canvas = background.copy()
    canvas.paste(Image.fromarray(layer.rgb), mask=Image.fromarray(layer.alpha))
    return np.asarray(canvas)


def cut_out(rgb: Rgb, alpha: NDArray[np.uint8]) -> Pixels:
    """Join colors and alpha into RGBA, with zeros where alpha is zero."""
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
