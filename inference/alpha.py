"""The subject's alpha: from a model's matte, and from what a picture brings of its own.

A picture with transparency is judged by what can be seen of it. The colors of its fully transparent
pixels are replaced, so that what hides in them has no effect, and a model sees the picture on a
ground. Where it has been cut out already, its own alpha is the matte.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from inference.decode import Picture
from inference.layout import SUBJECT_THRESHOLD
from inference.models.base import Alpha, Rgb
from inference.options import HUNDRED_PERCENT, OPAQUE, Options

#: The least share of a border's pixels that are transparent if a picture has been cut out. Cut out
#: and cropped tightly, a portrait that fills its frame has 0.4; a photo whose corners are rounded
#: by a tenth of its sides has 0.2.
CUT_OUT_SHARE: Final = 0.25

#: The gray levels that a picture is shown on, the first preferred.
_GROUNDS: Final = (128, 255, 0)
#: Levels within which a color resembles a ground.
_RESEMBLANCE: Final = 48

#: Assumed width of the subject's soft rim, as a share of the picture's longer side.
_RIM_SHARE: Final = 0.004


def settle_transparency(picture: Picture) -> Picture:
    """Replace the colors of fully transparent pixels, in place, by the ground of `flatten`.

    An alpha that is opaque everywhere is dropped.
    """
    if picture.alpha is None or picture.alpha.min() == OPAQUE:
        return Picture(picture.rgb)
    picture.rgb[picture.alpha == 0] = _choose_ground(picture.rgb, picture.alpha)
    return picture


def flatten(picture: Picture) -> Rgb:
    """Lay a picture on a neutral gray ground, as a model sees it; (height, width, 3)."""
    if picture.alpha is None:
        return picture.rgb
    height, width = picture.alpha.shape
    level = _choose_ground(picture.rgb, picture.alpha)
    canvas = Image.new("RGB", (width, height), (level, level, level))
    canvas.paste(Image.fromarray(picture.rgb), mask=Image.fromarray(picture.alpha))
    return np.asarray(canvas)


def _choose_ground(rgb: Rgb, alpha: NDArray[np.uint8]) -> int:
    """Return the gray level that the fewest visible pixels resemble.

    On any fixed one, some logo would vanish.
    """
    visible = Image.fromarray(alpha).point(lambda level: (level >= SUBJECT_THRESHOLD) * OPAQUE)
    counts = Image.fromarray(rgb).convert("L").histogram(visible)
    return min(
        _GROUNDS,
        key=lambda ground: sum(counts[max(0, ground - _RESEMBLANCE) : ground + _RESEMBLANCE + 1]),
    )


def is_cut_out(picture: Picture) -> bool:
    """Return whether a picture's border is transparent, so that its own alpha is the matte."""
    alpha = picture.alpha
    if alpha is None:
        return False
    border = np.concatenate([alpha[0], alpha[-1], alpha[1:-1, 0], alpha[1:-1, -1]])
    return float(np.mean(border < SUBJECT_THRESHOLD)) >= CUT_OUT_SHARE


def own_matte(picture: Picture) -> Alpha:
    """Return a picture's own alpha as a matte, of which `combine_alpha` makes the same levels.

    A picture without one is opaque.
    """
    if picture.alpha is None:
        return np.ones(picture.rgb.shape[:2], np.float32)
    matte: Alpha = picture.alpha * np.float32(1 / 255)
    return matte


def combine_alpha(matte: Alpha, input_alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Multiply the matte by the input's own alpha; (height, width), 0..255."""
    levels = matte * np.float32(255)
    levels += np.float32(0.5)
    alpha = levels.astype(np.uint8)
    if input_alpha is None:
        return alpha
    # a * b / 255, rounded (Blinn, "Three Wrongs Make a Right", 1995); Pillow's would truncate.
    product = np.multiply(alpha, input_alpha, dtype=np.uint16)
    product += 128
    product += product >> 8
    product >>= 8
    return product.astype(np.uint8)


def fill_translucent_parts(alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make everything opaque that lies deeper in the subject than its soft rim.

    Parts whose alpha is below `SUBJECT_THRESHOLD` keep it: a hole is not glass.
    """
    rim = max(1, round(max(alpha.shape) * _RIM_SHARE))
    subject = Image.fromarray(np.where(alpha >= SUBJECT_THRESHOLD, np.uint8(255), np.uint8(0)))
    # The mean over a square is 255 only where the whole square lies in the subject.
    deep = subject.filter(ImageFilter.BoxBlur(2 * rim)).point(
        lambda mean: (mean == OPAQUE) * OPAQUE
    )
    # Blurred, so that the rim does not end in a step.
    share = np.asarray(deep.filter(ImageFilter.BoxBlur(rim)))
    missing = (255 - alpha).astype(np.uint16)
    filled: NDArray[np.uint8] = (alpha + (missing * share + 127) // 255).astype(np.uint8)
    return filled


def move_edge(alpha: NDArray[np.uint8], options: Options) -> NDArray[np.uint8]:
    """Harden the subject's edge and move it, as the options say."""
    if options.mask_threshold is not None:
        least = -(-options.mask_threshold * OPAQUE // HUNDRED_PERCENT)
        alpha = np.where(alpha >= least, np.uint8(OPAQUE), np.uint8(0))
    if options.mask_offset:
        alpha = _spread(alpha, options.mask_offset)
    return alpha


def feather(alpha: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Blur the subject's edge, so that a hard one fades within about `pixels` on both sides."""
    # Two standard deviations hold 95 % of a Gaussian.
    return np.asarray(Image.fromarray(alpha).filter(ImageFilter.GaussianBlur(pixels / 2)))


def _spread(alpha: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Take the largest alpha within `pixels` of each pixel; the smallest if they are negative.

    The neighborhood is nearly a regular octagon, which is put together from lines in four
    directions. Beyond the picture nothing is known, so that a subject which it cuts is not shrunk
    there.
    """
    choose = np.maximum if pixels > 0 else np.minimum
    radius = abs(pixels)
    # Of a regular octagon; one straight step at least, as diagonal ones alone leave holes.
    diagonal = min(round(radius * (1 - 0.5**0.5)), (radius - 1) // 2)
    straight = radius - 2 * diagonal
    # Room for ways around the picture's corners, where there is nothing to choose.
    alpha = np.pad(alpha, radius, constant_values=0 if pixels > 0 else OPAQUE)
    for step, length in (((0, 1), straight), ((1, 0), straight), ((1, 1), diagonal)):
        alpha = _along(alpha, step, length, choose)
    alpha = _along(alpha[:, ::-1], (1, 1), diagonal, choose)[:, ::-1]
    return np.ascontiguousarray(alpha[radius:-radius, radius:-radius])


def _along(
    alpha: NDArray[np.uint8], step: tuple[int, int], length: int, choose: Callable[..., None]
) -> NDArray[np.uint8]:
    """Choose among the pixels up to `length` steps away, in both senses of a direction.

    Each pass doubles how far a pixel has looked (van Herk's filter takes fewer, but not in numpy).
    """
    ahead, back = alpha.copy(), alpha.copy()
    seen = 1
    while seen <= length:
        far = min(seen, length + 1 - seen)
        down, across = step[0] * far, step[1] * far
        height, width = alpha.shape
        if down < height and across < width:
            near = slice(0, height - down), slice(0, width - across)
            away = slice(down, height), slice(across, width)
            choose(ahead[near], ahead[away].copy(), out=ahead[near])
            choose(back[away], back[near].copy(), out=back[away])
        seen += far
    choose(ahead, back, out=ahead)
    return ahead
