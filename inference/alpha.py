"""The subject's alpha: combined from matte and input, made opaque on request, and measured."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from inference.layout import Box
from inference.models.base import Alpha

#: The least alpha of 255 that counts as subject: mattes have faint specks.
SUBJECT_THRESHOLD: Final = 13
#: A pixel with more alpha than this is more subject than background.
_COVERAGE_THRESHOLD: Final = 127
#: Assumed width of the subject's soft rim, as a share of the picture's longer side.
_RIM_SHARE: Final = 0.004


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
    deep = subject.filter(ImageFilter.BoxBlur(2 * rim)).point(lambda mean: (mean == 255) * 255)  # noqa: PLR2004 - opaque
    # Blurred, so that the rim does not end in a step.
    share = np.asarray(deep.filter(ImageFilter.BoxBlur(rim)))
    missing = (255 - alpha).astype(np.uint16)
    filled: NDArray[np.uint8] = (alpha + (missing * share + 127) // 255).astype(np.uint8)
    return filled


def find_subject_box(alpha: NDArray[np.uint8]) -> Box | None:
    """Return the smallest box around the subject, or None if there is no subject.

    Args:
        alpha: (height, width), 0..255.
    """
    is_subject = alpha >= SUBJECT_THRESHOLD
    rows = np.flatnonzero(is_subject.any(axis=1))
    columns = np.flatnonzero(is_subject.any(axis=0))
    if not len(rows):
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def measure_coverage(alpha: NDArray[np.uint8]) -> float:
    """Return the share of pixels that are more subject than background, 0..1."""
    return float(np.count_nonzero(alpha > _COVERAGE_THRESHOLD) / alpha.size)
