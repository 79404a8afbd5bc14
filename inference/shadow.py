"""A drop shadow: the subject's own outline, black, blurred, and moved down a little."""

import numpy as np
from PIL import Image, ImageFilter

from inference.compose import Layer
from inference.geometry import Box
from inference.lengths import WHOLE

# Of the subject's longer side: the blur's standard deviation, how far the blur is to be seen, and
# the way down.
_BLUR, _SEEN, _DROP = 0.02, 0.05, 0.03


def reach(subject: Box) -> tuple[int, int, int, int]:
    """How far the shadow extends beyond the subject: top, right, bottom, left."""
    side = max(subject.width, subject.height)
    seen, drop = round(side * _SEEN), round(side * _DROP)
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
    blurred = outline.filter(ImageFilter.GaussianBlur(side * _BLUR))
    faded = blurred.point(lambda level: level * opacity // WHOLE)
    # Pasted, not rolled: what leaves the picture below must not come in again above.
    moved = Image.new("L", outline.size)
    moved.paste(faded, (0, round(side * _DROP)))
    black.putalpha(moved)
    return _under(layer, black)


def _under(layer: Layer, below: Image.Image) -> Layer:
    above = Image.fromarray(layer.rgb)
    above.putalpha(Image.fromarray(layer.alpha))
    both = np.asarray(Image.alpha_composite(below, above))
    alpha = np.ascontiguousarray(both[..., 3])
    rgb = np.where(alpha[..., None] == 0, layer.rgb, both[..., :3])
    return Layer(rgb, alpha)
