"""The subject's alpha: combined from matte and input, measured, and made opaque on request."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from inference.layout import Box
from inference.models.base import Alpha

#: Alpha from which on a pixel counts as the subject's, of 255: mattes have faint specks.
SUBJECT_THRESHOLD: Final = 13

#: Alpha over which a pixel is more subject than background.
_COVERAGE_THRESHOLD: Final = 127


def find_subject_box(alpha: NDArray[np.uint8]) -> Box | None:
    """The smallest box around the subject; None where there is none.

    Args:
        alpha: (height, width), 0..255.
    """
    seen = alpha >= SUBJECT_THRESHOLD
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def measure_coverage(alpha: NDArray[np.uint8]) -> float:
    """The share of the pixels that are more subject than background, 0..1."""
    return float(np.count_nonzero(alpha > _COVERAGE_THRESHOLD) / alpha.size)


# How wide the subject's soft rim is taken to be, of the picture's longer side; at least a pixel.
_RIM_SHARE = 0.004


def combine_alpha(matte: Alpha, own: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The matte in 8 bits, times the input's own alpha; (height, width)."""
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


def fill_translucent_parts(alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The alpha with everything opaque that lies deeper in the subject than its soft rim.

    What is as good as empty stays so: a hole is not glass.
    """
    rim = max(1, round(max(alpha.shape) * _RIM_SHARE))
    subject = Image.fromarray(np.where(alpha >= SUBJECT_THRESHOLD, np.uint8(255), np.uint8(0)))
    # A mean over a square is full only where the whole square lies in the subject.
    deep = subject.filter(ImageFilter.BoxBlur(2 * rim)).point(lambda mean: (mean == 255) * 255)  # noqa: PLR2004 - opaque
    # Blurred, so that the rim does not end in a step.
    share = np.asarray(deep.filter(ImageFilter.BoxBlur(rim)))
    missing = (255 - alpha).astype(np.uint16)
    filled: NDArray[np.uint8] = (alpha + (missing * share + 127) // 255).astype(np.uint8)
    return filled
