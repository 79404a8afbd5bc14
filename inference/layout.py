"""Compute where the subject lies in the result and how large the result is, in whole pixels."""

import math
from dataclasses import dataclass

from inference.options import CENTER, HUNDRED_PERCENT, Margin, Options, Position


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its place in an array of rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, top: int, right: int, bottom: int, left: int) -> "Box":
        """Larger by so many pixels a side."""
        return Box(self.left - left, self.top - top, self.right + right, self.bottom + bottom)

    def within(self, other: "Box") -> "Box":
        """The part that lies in another."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def seen_from(self, view: "Box", width: int, height: int) -> "Box":
        """Where it lies in a result of this size that shows `view`."""
        across, down = width / view.width, height / view.height
        left, top = round((self.left - view.left) * across), round((self.top - view.top) * down)
        right = round((self.right - view.left) * across)
        bottom = round((self.bottom - view.top) * down)
        return Box(left, top, max(right, left + 1), max(bottom, top + 1))


@dataclass(frozen=True, slots=True)
class Layout:
    """How a picture becomes a result."""

    #: The result's size, and what it would be without a limit on it.
    size: tuple[int, int]
    full_size: tuple[int, int]
    #: The part of the picture that is shown, and where in the result; all else is empty.
    source: Box
    target: Box
    #: The subject in the result; None where there is none.
    subject: Box | None

    @property
    def unchanged(self) -> bool:
        """Is the result as large as the picture, and everything in its place?"""
        whole = Box(0, 0, *self.size)
        return self.source == self.target == whole


def limit_size(width: int, height: int, options: Options, max_pixels: int) -> tuple[int, int]:
    """A result's size under the limits on its longer side and on its pixels; never enlarged."""
    most = min(max_pixels, options.max_pixels or max_pixels)
    if options.max_side is not None and options.max_side < max(width, height):
        factor = options.max_side / max(width, height)
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
    if width * height > most:
        factor = math.sqrt(most / (width * height))
        width, height = max(1, int(width * factor)), max(1, int(height * factor))
        # Where one side cannot shrink any more, the other has to.
        width = min(width, most)
        height = min(height, most // width)
    return width, height


def plan_layout(
    width: int,
    height: int,
    subject: Box | None,
    options: Options,
    *,
    max_pixels: int,
    reach: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Layout:
    """Lay a result out.

    Args:
        width: of the picture, pixels.
        height: the same.
        subject: its box in the picture; without one, nothing is cropped or moved.
        options: what is asked for.
        max_pixels: no result has more, whatever is asked for.
        reach: how far a shadow extends beyond the subject: top, right, bottom, left.
    """
    picture = Box(0, 0, width, height)
    view = picture
    if options.crop and subject is not None:
        view = subject.grown(*reach).grown(*_margin_pixels(subject, options.crop_margin))
    size = limit_size(view.width, view.height, options, max_pixels)
    moved = _placed_box(subject, view, size, options)
    if subject is not None and moved is not None:
        source, target = subject, moved
    else:
        source = view.within(picture)
        target = source.seen_from(view, *size).within(Box(0, 0, *size))
        moved = subject and subject.seen_from(view, *size).within(Box(0, 0, *size))
    return Layout(size, (view.width, view.height), source, target, moved)


def _margin_pixels(subject: Box, margin: Margin) -> tuple[int, int, int, int]:
    return (
        margin.top.pixels(subject.height),
        margin.right.pixels(subject.width),
        margin.bottom.pixels(subject.height),
        margin.left.pixels(subject.width),
    )


def _placed_box(
    subject: Box | None, view: Box, size: tuple[int, int], options: Options
) -> Box | None:
    """Where a subject goes that is scaled or given a position; None if it is neither."""
    position = options.position or (CENTER if options.scale is not None else Position())
    if subject is None or (options.scale is None and position.x is None):
        return None
    width, height = _scaled_size(subject, view, size, options.scale)
    left, top = _top_left(subject.seen_from(view, *size), (width, height), size, position)
    return Box(left, top, left + width, top + height)


def _scaled_size(
    subject: Box, view: Box, size: tuple[int, int], scale: float | None
) -> tuple[int, int]:
    """The subject's size in the result: its larger share of a side is the scale."""
    factor = size[0] / view.width
    if scale is not None:
        factor = scale / HUNDRED_PERCENT * min(size[0] / subject.width, size[1] / subject.height)
    return (
        min(size[0], max(1, round(subject.width * factor))),
        min(size[1], max(1, round(subject.height * factor))),
    )


def _top_left(
    stands: Box, subject: tuple[int, int], size: tuple[int, int], position: Position
) -> tuple[int, int]:
    """The left and top of the subject: by the share of the free room, or about its old middle."""
    room = size[0] - subject[0], size[1] - subject[1]
    if position.x is not None and position.y is not None:
        return round(room[0] * position.x / HUNDRED_PERCENT), round(
            room[1] * position.y / HUNDRED_PERCENT
        )
    left = round((stands.left + stands.right - subject[0]) / 2)
    top = round((stands.top + stands.bottom - subject[1]) / 2)
    return min(max(left, 0), room[0]), min(max(top, 0), room[1])
