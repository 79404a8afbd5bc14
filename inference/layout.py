"""Compute where the subject lies in the result and how large the result is, in whole pixels."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.options import CENTER, HUNDRED_PERCENT, Canvas, Options, Position

#: The least alpha of 255 that counts as subject: mattes have faint specks.
SUBJECT_THRESHOLD: Final = 13

#: A pixel with more alpha than this is more subject than background.
_COVERAGE_THRESHOLD: Final = 127


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of the box in an array of (rows, columns)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def expand(self, top: int, right: int, bottom: int, left: int) -> "Box":
        """Move each side outwards by a number of pixels."""
        return Box(self.left - left, self.top - top, self.right + right, self.bottom + bottom)

    def intersect(self, other: "Box") -> "Box":
        """Return the part that lies in the other box."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def map_to_result(self, view: "Box", width: int, height: int) -> "Box":
        """Convert to the coordinates of a result of width x height pixels that shows `view`.

        The box that is returned is at least one pixel wide and high, and that pixel is one of the
        result's.
        """
        across, down = width / view.width, height / view.height
        left = min(round((self.left - view.left) * across), width - 1)
        top = min(round((self.top - view.top) * down), height - 1)
        right = round((self.right - view.left) * across)
        bottom = round((self.bottom - view.top) * down)
        return Box(left, top, max(right, left + 1), max(bottom, top + 1))


@dataclass(frozen=True, slots=True)
class Layout:
    """How a picture is cropped, scaled and moved into a result."""

    #: The result's width and height.
    size: tuple[int, int]
    #: The width and height that the result would have without `max_side` and `max_pixels`.
    full_size: tuple[int, int]
    #: The part of the picture that is shown; everything else is empty.
    source: Box
    #: Where the shown part lies in the result.
    target: Box
    #: Where the subject lies in the result; None if there is no subject.
    subject: Box | None


def limit_size(width: int, height: int, options: Options, max_pixels: int) -> tuple[int, int]:
    """Shrink a result's size to the limits on its longer side and on its number of pixels.

    A canvas has its own size, whatever it shows.
    """
    if options.canvas is not None:
        width, height = options.canvas.width, options.canvas.height
    pixel_limit = min(max_pixels, options.max_pixels or max_pixels)
    if options.max_side is not None and options.max_side < max(width, height):
        factor = options.max_side / max(width, height)
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
    if width * height > pixel_limit:
        factor = math.sqrt(pixel_limit / (width * height))
        width, height = max(1, int(width * factor)), max(1, int(height * factor))
        # If one side is one pixel already, only the other can shrink.
        width = min(width, pixel_limit)
        height = min(height, pixel_limit // width)
    return width, height


def plan_layout(
    width: int,
    height: int,
    subject: Box | None,
    options: Options,
    *,
    max_pixels: int,
    shadow_extent: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Layout:
    """Compute the layout of the result of a picture of width x height pixels.

    Args:
        width: of the picture.
        height: of the picture.
        subject: its box in the picture; without a subject, nothing is cropped or moved.
        options: crop, margin, scale, position and limits.
        max_pixels: the most pixels of any result, whatever the options say.
        shadow_extent: how far a shadow reaches beyond the subject: top, right, bottom, left.
    """
    picture = Box(0, 0, width, height)
    view = picture
    if options.crop and subject is not None:
        margin = options.crop_margin
        view = subject.expand(*shadow_extent).expand(
            margin.top.to_pixels(subject.height),
            margin.right.to_pixels(subject.width),
            margin.bottom.to_pixels(subject.height),
            margin.left.to_pixels(subject.width),
        )
    if options.canvas is not None:
        view = _widen(view, options.canvas)
    size = limit_size(view.width, view.height, options, max_pixels)
    full_size = size if options.canvas is not None else (view.width, view.height)
    placed = _placed_box(subject, view, size, options)
    if subject is not None and placed is not None:
        return Layout(size, full_size, subject, placed, placed)
    whole = Box(0, 0, *size)
    source = view.intersect(picture)
    target = source.map_to_result(view, *size).intersect(whole)
    kept = subject and subject.map_to_result(view, *size).intersect(whole)
    return Layout(size, full_size, source, target, kept)


def _widen(view: Box, canvas: Canvas) -> Box:
    """Return the smallest box around a view, with its center, in the proportions of a canvas."""
    width = max(view.width, round(view.height * canvas.width / canvas.height))
    height = max(view.height, round(view.width * canvas.height / canvas.width))
    across, down = width - view.width, height - view.height
    return view.expand(down // 2, across - across // 2, down - down // 2, across // 2)


def _placed_box(
    subject: Box | None, view: Box, size: tuple[int, int], options: Options
) -> Box | None:
    """Return the box of a subject that is scaled or given a position; None if it is neither."""
    position = options.position or (CENTER if options.scale is not None else Position())
    if subject is None or (options.scale is None and position.x is None):
        return None
    width, height = _scaled_size(subject, view, size, options.scale)
    unmoved = subject.map_to_result(view, *size)
    left, top = _top_left(unmoved, (width, height), size, position)
    return Box(left, top, left + width, top + height)


def _scaled_size(
    subject: Box, view: Box, size: tuple[int, int], scale: float | None
) -> tuple[int, int]:
    """Return the subject's size in the result: `scale` is its share of the tighter side."""
    factor = size[0] / view.width
    if scale is not None:
        factor = scale / HUNDRED_PERCENT * min(size[0] / subject.width, size[1] / subject.height)
    return (
        min(size[0], max(1, round(subject.width * factor))),
        min(size[1], max(1, round(subject.height * factor))),
    )


def _top_left(
    unmoved: Box, subject: tuple[int, int], size: tuple[int, int], position: Position
) -> tuple[int, int]:
    """Return left and top of the subject.

    A position divides the free room; without one, the subject keeps its center where it fits.
    """
    room = size[0] - subject[0], size[1] - subject[1]
    if position.x is not None and position.y is not None:
        return (
            round(room[0] * position.x / HUNDRED_PERCENT),
            round(room[1] * position.y / HUNDRED_PERCENT),
        )
    left = round((unmoved.left + unmoved.right - subject[0]) / 2)
    top = round((unmoved.top + unmoved.bottom - subject[1]) / 2)
    return min(max(left, 0), room[0]), min(max(top, 0), room[1])


def find_subject_box(alpha: NDArray[np.uint8]) -> Box | None:
    """Return the smallest box around the subject in (height, width), 0..255; None without one."""
    subject = Image.fromarray(alpha).point(lambda level: (level >= SUBJECT_THRESHOLD) * 255)
    bounds = subject.getbbox()
    return None if bounds is None else Box(*bounds)


def measure_coverage(alpha: NDArray[np.uint8]) -> float:
    """Return the share of pixels that are more subject than background, 0..1."""
    return float(np.count_nonzero(alpha > _COVERAGE_THRESHOLD) / alpha.size)
