"""The subject's alpha: the matte, the input's own alpha, and glass that is to be filled."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from inference.geometry import SUBJECT_LEVEL
from inference.models.base import Alpha

# How wide the subject's soft rim is taken to be, of the picture's longer side; at least a pixel.
_RIM = 0.004


def combine(matte: Alpha, own: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
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


def fill(alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The alpha with everything opaque that lies deeper in the subject than its soft rim.

    What is as good as empty stays so: a hole is not glass.
    """
    rim = max(1, round(max(alpha.shape) * _RIM))
    subject = Image.fromarray(np.where(alpha >= SUBJECT_LEVEL, np.uint8(255), np.uint8(0)))
    # A mean over a square is full only where the whole square lies in the subject.
    deep = subject.filter(ImageFilter.BoxBlur(2 * rim)).point(lambda mean: (mean == 255) * 255)  # noqa: PLR2004 - opaque
    # Blurred, so that the rim does not end in a step.
    share = np.asarray(deep.filter(ImageFilter.BoxBlur(rim)))
    missing = (255 - alpha).astype(np.uint16)
    filled: NDArray[np.uint8] = (alpha + (missing * share + 127) // 255).astype(np.uint8)
    return filled
