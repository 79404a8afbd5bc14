"""The values that options take, and how their text forms are read.

Every parser raises `InvalidOptionError` with the option's name and what to do about it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from PIL import ImageColor

from inference.errors import InvalidOptionError, RoiExceedsBoundsError, RoiRegionEmptyError
from inference.lengths import WHOLE, Length

#: Red, green, blue, alpha; 0..255 each, not premultiplied.
Rgba = tuple[int, int, int, int]

OPAQUE: Final = 255
_HEX: Final = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})\Z")
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)%\Z")
_MOST_MARGIN: Final = {"%": 50, "px": 500}
_SHADOWS: Final = {"none": "none", "drop": "drop", "auto": "drop", "car": "drop", "3d": "drop"}


class OutputFormat(StrEnum):
    """The file formats of a result."""

    PNG = "png"
    WEBP = "webp"
    JPG = "jpg"
    #: `color.jpg` and `alpha.png`, stored: quick to make, and small.
    ZIP = "zip"
    #: png where the result has transparency, else jpg.
    AUTO = "auto"

    @property
    def media_type(self) -> str:
        """The registered media type, such as `image/png`; `auto` has none of its own."""
        return {
            "png": "image/png",
            "webp": "image/webp",
            "jpg": "image/jpeg",
            "zip": "application/zip",
            "auto": "application/octet-stream",
        }[self.value]

    @property
    def max_side(self) -> int:
        """The most pixels on a side that a file of this format can hold."""
        jpg, png = 65_500, 2**31 - 1
        return {"png": png, "webp": 16_383, "jpg": jpg, "zip": jpg, "auto": png}[self.value]


class Output(StrEnum):
    """What is shown of the subject."""

    CUTOUT = "cutout"
    #: Its alpha, 8-bit gray.
    MASK = "mask"


class Shadow(StrEnum):
    """What the subject casts."""

    NONE = "none"
    #: A soft one, behind and a little below.
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Roi:
    """The rectangle that the subject is looked for in."""

    left: Length
    top: Length
    right: Length
    bottom: Length

    def __post_init__(self) -> None:
        for low, high in ((self.left, self.right), (self.top, self.bottom)):
            if low.unit == high.unit and low.value >= high.value:
                raise _empty_roi()

    def __str__(self) -> str:
        return f"{self.left} {self.top} {self.right} {self.bottom}"

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in a picture of this size.

        Raises:
            RoiExceedsBoundsError: it reaches beyond the picture.
            RoiRegionEmptyError: no pixel lies within.
        """
        left, right = self.left.pixels(width), self.right.pixels(width)
        top, bottom = self.top.pixels(height), self.bottom.pixels(height)
        if max(left, right) > width or max(top, bottom) > height:
            raise RoiExceedsBoundsError(
                "roi",
                f"The region ends at {right} x {bottom} pixels, but the picture has only "
                f"{width} x {height}.",
            )
        if left >= right or top >= bottom:
            raise _empty_roi()
        return left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Margin:
    """What is kept around a subject that is cropped to: percents are of the subject's sides."""

    top: Length
    right: Length
    bottom: Length
    left: Length

    def __post_init__(self) -> None:
        for side in (self.top, self.right, self.bottom, self.left):
            if side.value > _MOST_MARGIN[side.unit]:
                raise InvalidOptionError(
                    "crop_margin",
                    f"A margin of {side} is too wide: at most 50% of the subject, or 500px.",
                )

    @classmethod
    def none(cls) -> Self:
        """No margin."""
        return cls(*[Length(0, "px")] * 4)

    def __str__(self) -> str:
        return f"{self.top} {self.right} {self.bottom} {self.left}"


@dataclass(frozen=True, slots=True)
class Position:
    """Where the subject goes: the share of the free room, in percent, left of it and above it.

    Both are None where it keeps its place.
    """

    x: float | None = None
    y: float | None = None

    def __post_init__(self) -> None:
        if (self.x is None) is not (self.y is None):
            raise _bad_position()
        if not all(0 <= share <= WHOLE for share in (self.x or 0, self.y or 0)):
            raise _bad_position()

    def __str__(self) -> str:
        if self.x is None:
            return "original"
        return f"{self.x:.10g}% {self.y:.10g}%"


#: The default of a subject that is scaled.
CENTER: Final = Position(50.0, 50.0)


def parse_output_format(text: str) -> OutputFormat:
    """The format of this name."""
    try:
        return OutputFormat(text)
    except ValueError:
        raise InvalidOptionError("output_format", "Choose png, webp or jpg.") from None


def parse_output(text: str) -> Output:
    """`cutout` or `mask`."""
    try:
        return Output(text)
    except ValueError:
        raise InvalidOptionError("output", "Choose cutout or mask.") from None


def parse_color(text: str) -> Rgba:
    """A colour as 8-bit RGBA, from `#rgb`, `#rgba`, `#rrggbb`, `#rrggbbaa` or a CSS name."""
    known = text.lower() in ImageColor.colormap or _HEX.match(text)
    if not known:
        raise InvalidOptionError(
            "matte_color", "Give a colour as #rgb, #rrggbb, #rrggbbaa or a CSS name such as white."
        )
    red, green, blue, *alpha = ImageColor.getrgb(text)
    return red, green, blue, alpha[0] if alpha else OPAQUE


def parse_roi(text: str) -> Roi | None:
    """`x1 y1 x2 y2`, each in px or %; None for the whole picture."""
    try:
        left, top, right, bottom = map(Length.parse, text.split())
    except ValueError:
        raise InvalidOptionError(
            "roi", "Give x1 y1 x2 y2, each in px or %, such as 10% 0px 90% 100%."
        ) from None
    if any(each.unit == "%" and each.value > WHOLE for each in (left, top, right, bottom)):
        raise RoiExceedsBoundsError("roi", "The region reaches beyond 100% of the picture.")
    ends = (right.unit, right.value, bottom.unit, bottom.value)
    if (left.value, top.value) == (0, 0) and ends == ("%", WHOLE, "%", WHOLE):
        return None
    zero = Length(0, "%")  # one form for all zeros
    return Roi(left if left.value else zero, top if top.value else zero, right, bottom)


def parse_crop_margin(text: str) -> Margin:
    """1, 2 or 4 values in px or %: all sides; top and bottom, the others; or clockwise from top."""
    try:
        values = [Length.parse(each) for each in text.split()]
        one_side = {1: (0, 0, 0, 0), 2: (0, 1, 0, 1), 4: (0, 1, 2, 3)}[len(values)]
    except (KeyError, ValueError):
        raise InvalidOptionError(
            "crop_margin", "Give 1, 2 or 4 values in px or %, such as 10% or 20px 5%."
        ) from None
    return Margin(*(values[at] if values[at].value else Length(0, "px") for at in one_side))


def parse_scale(text: str) -> float | None:
    """10% to 100%, in percent; None for `original`."""
    if text == "original":
        return None
    match = _PERCENT.match(text)
    if match is None:
        raise InvalidOptionError("scale", "Give 10% to 100%, or original.")
    return float(match[1])


def parse_position(text: str) -> Position:
    """`original`, `center`, one `x%`, or `x% y%`."""
    if text == "original":
        return Position()
    if text == "center":
        return CENTER
    matches = [_PERCENT.match(each) for each in text.split()]
    values = [float(match[1]) for match in matches if match]
    if len(values) != len(matches) or len(values) not in {1, 2}:
        raise _bad_position()
    return Position(values[0], values[-1])


def parse_shadow(text: str) -> Shadow:
    """`none` or `drop`; `auto`, `car` and `3D` are drawn as a drop shadow too."""
    try:
        return Shadow(_SHADOWS[text.lower()])
    except KeyError:
        raise InvalidOptionError("shadow", "Choose none, drop, auto, car or 3D.") from None


def _bad_position() -> InvalidOptionError:
    return InvalidOptionError(
        "position", "Give original, center, or one or two values from 0% to 100%, such as 50% 80%."
    )


def _empty_roi() -> RoiRegionEmptyError:
    return RoiRegionEmptyError(
        "roi", "The region holds no pixel: x2 must be greater than x1, and y2 greater than y1."
    )
