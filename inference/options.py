"""The options of one result: their types, the parsers of their text forms, and `Options` itself.

Every parser raises `InvalidOptionError` with the option's name and what to do about it. No numpy
here: the API validates options, and is installed without it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, Self

from PIL import ImageColor

from inference.errors import InvalidOptionError, RoiExceedsBoundsError, RoiRegionEmptyError

#: Red, green, blue, alpha; 0..255 each, not premultiplied.
Rgba = tuple[int, int, int, int]

OPAQUE: Final = 255
HUNDRED_PERCENT: Final = 100

_LENGTH_PATTERN: Final = re.compile(r"(\d{1,6}(?:\.\d{1,4})?)(px|%)?\Z")
_PERCENT_PATTERN: Final = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)%\Z")
_HEX_COLOR: Final = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})\Z")
_CANVAS_PATTERN: Final = re.compile(r"(\d{2,4})[x×](\d{2,4})\Z")
_SHA256_PATTERN: Final = re.compile(r"[0-9a-f]{64}\Z")

_MAX_MARGIN: Final = {"%": 50, "px": 500}
#: The smallest and largest `scale`, in percent.
_SCALE_LIMITS: Final = (10, 100)
#: The shortest and longest side of a `canvas`, in pixels.
_CANVAS_LIMITS: Final = (16, 5000)
#: `auto`, `car` and `3d` are names of the remove.bg API.
_SHADOW_NAMES: Final = {"none": "none", "drop": "drop", "auto": "drop", "car": "drop", "3d": "drop"}

_BOOLEAN_OPTIONS: Final = ("refine", "crop", "semitransparency")
_INTEGER_RANGES: Final[Mapping[str, range]] = {
    "quality": range(1, 101),
    "max_side": range(16, 16_385),
    "max_pixels": range(1, 2**31),
    "shadow_opacity": range(101),
    "mask_threshold": range(1, 101),
    "mask_offset": range(-100, 101),
    "mask_feather": range(101),
}
#: Options of `_INTEGER_RANGES` that may be None.
_NULLABLE_INTEGERS: Final = frozenset({"max_side", "max_pixels", "mask_threshold"})


@dataclass(frozen=True, slots=True)
class Length:
    """A number of pixels, or a percentage of some side."""

    value: float
    #: `px` or `%`.
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `30px`, `12.5%` or `0`.

        Raises:
            ValueError: the text has another form, or more than six digits before the point.
        """
        match = _LENGTH_PATTERN.match(text)
        if match is None or (match[2] is None and float(match[1])):
            raise ValueError(text)
        return cls(float(match[1]), match[2] or "px")

    def to_pixels(self, side: int) -> int:
        """Convert to whole pixels; percents are of a side of `side` pixels."""
        return round(self.value * side / HUNDRED_PERCENT if self.unit == "%" else self.value)

    def __str__(self) -> str:
        return f"{self.value:.10g}{self.unit}"


class OutputFormat(StrEnum):
    """The file formats of a result."""

    PNG = "png"
    WEBP = "webp"
    JPG = "jpg"
    AVIF = "avif"
    #: `color.jpg` and `alpha.png` without further compression: fast to write, and small.
    ZIP = "zip"
    #: png where the result has transparency, else jpg.
    AUTO = "auto"

    @property
    def media_type(self) -> str:
        """The registered media type, such as `image/png`; that of unknown bytes for `auto`."""
        return {
            "png": "image/png",
            "webp": "image/webp",
            "jpg": "image/jpeg",
            "avif": "image/avif",
            "zip": "application/zip",
            "auto": "application/octet-stream",
        }[self.value]

    @property
    def max_side(self) -> int:
        """The most pixels that a file of this format can have on a side."""
        jpg, png = 65_500, 2**31 - 1
        sides = {"png": png, "webp": 16_383, "jpg": jpg, "avif": 32_768, "zip": jpg, "auto": png}
        return sides[self.value]


class Output(StrEnum):
    """What the result shows: the subject, its alpha, or the picture with its background."""

    CUTOUT = "cutout"
    #: The alpha, as 8-bit gray.
    MASK = "mask"
    #: All of the picture, for programs that cannot read its format. No model runs.
    ORIGINAL = "original"


class Shadow(StrEnum):
    """The kinds of shadow under a subject."""

    NONE = "none"
    #: A soft shadow, behind the subject and a little below it.
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Roi:
    """Region of interest: the rectangle in which the subject is looked for."""

    left: Length
    top: Length
    right: Length
    bottom: Length

    def __post_init__(self) -> None:
        for low, high in ((self.left, self.right), (self.top, self.bottom)):
            if low.unit == high.unit and low.value >= high.value:
                raise _empty_roi_error()

    def __str__(self) -> str:
        return f"{self.left} {self.top} {self.right} {self.bottom}"

    def to_pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in a picture of width x height pixels.

        Raises:
            RoiExceedsBoundsError: the region reaches beyond the picture.
            RoiRegionEmptyError: the region holds no pixel.
        """
        left, right = self.left.to_pixels(width), self.right.to_pixels(width)
        top, bottom = self.top.to_pixels(height), self.bottom.to_pixels(height)
        if max(left, right) > width or max(top, bottom) > height:
            raise RoiExceedsBoundsError(
                "roi",
                f"The region ends at {right} x {bottom} pixels, but the picture has only "
                f"{width} x {height}: make the region smaller, or give it in percent.",
            )
        if left >= right or top >= bottom:
            raise _empty_roi_error()
        return left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Margin:
    """The margin kept around the subject by `crop`; percents are of the subject's sides."""

    top: Length
    right: Length
    bottom: Length
    left: Length

    def __post_init__(self) -> None:
        for side in (self.top, self.right, self.bottom, self.left):
            if side.value > _MAX_MARGIN[side.unit]:
                raise InvalidOptionError(
                    "crop_margin",
                    f"A margin of {side} is too wide: give at most 50% of the subject, or 500px.",
                )

    def __str__(self) -> str:
        return f"{self.top} {self.right} {self.bottom} {self.left}"


@dataclass(frozen=True, slots=True)
class Canvas:
    """The exact width and height of a result, in pixels."""

    width: int
    height: int

    def __post_init__(self) -> None:
        low, high = _CANVAS_LIMITS
        if not all(low <= side <= high for side in (self.width, self.height)):
            raise _canvas_error()

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Position:
    """Where the subject goes: the shares of the free room left of it and above it, in percent.

    Both are None if the subject keeps its place.
    """

    x: float | None = None
    y: float | None = None

    def __post_init__(self) -> None:
        if (self.x is None) is not (self.y is None):
            raise _position_error()
        if not all(0 <= share <= HUNDRED_PERCENT for share in (self.x or 0, self.y or 0)):
            raise _position_error()

    def __str__(self) -> str:
        if self.x is None:
            return "original"
        return f"{self.x:.10g}% {self.y:.10g}%"


#: The default position of a subject that is scaled.
CENTER: Final = Position(50.0, 50.0)


def parse_output_format(text: str) -> OutputFormat:
    """Parse the name of an output format."""
    try:
        return OutputFormat(text)
    except ValueError:
        raise InvalidOptionError("output_format", "Choose png, webp, avif or jpg.") from None


def parse_output(text: str) -> Output:
    """Parse `cutout`, `mask` or `original`."""
    try:
        return Output(text)
    except ValueError:
        raise InvalidOptionError("output", "Choose cutout, mask or original.") from None


def parse_color(text: str) -> Rgba:
    """Parse `#rgb`, `#rgba`, `#rrggbb`, `#rrggbbaa` or a CSS name into 8-bit RGBA."""
    if text.lower() not in ImageColor.colormap and not _HEX_COLOR.match(text):
        raise InvalidOptionError(
            "matte_color", "Give a color as #rgb, #rrggbb, #rrggbbaa or a CSS name such as white."
        )
    red, green, blue, *alpha = ImageColor.getrgb(text)
    return red, green, blue, alpha[0] if alpha else OPAQUE


def parse_roi(text: str) -> Roi | None:
    """Parse `x1 y1 x2 y2`, each in px or %; None stands for the whole picture."""
    try:
        left, top, right, bottom = map(Length.parse, text.split())
    except ValueError:
        raise InvalidOptionError(
            "roi", "Give x1 y1 x2 y2, each in px or %, such as 10% 0px 90% 100%."
        ) from None
    lengths = left, top, right, bottom
    if any(each.unit == "%" and each.value > HUNDRED_PERCENT for each in lengths):
        raise RoiExceedsBoundsError(
            "roi", "The region reaches beyond 100% of the picture: give at most 100%."
        )
    ends = (right.unit, right.value, bottom.unit, bottom.value)
    if (left.value, top.value) == (0, 0) and ends == ("%", HUNDRED_PERCENT, "%", HUNDRED_PERCENT):
        return None
    zero = Length(0, "%")  # equal regions must have one form
    return Roi(left if left.value else zero, top if top.value else zero, right, bottom)


def parse_crop_margin(text: str) -> Margin:
    """Parse 1, 2 or 4 lengths: all sides; top and bottom, left and right; or clockwise from top."""
    try:
        lengths = [Length.parse(each) for each in text.split()]
        indices = {1: (0, 0, 0, 0), 2: (0, 1, 0, 1), 4: (0, 1, 2, 3)}[len(lengths)]
    except (KeyError, ValueError):
        raise InvalidOptionError(
            "crop_margin", "Give 1, 2 or 4 values in px or %, such as 10% or 20px 5%."
        ) from None
    zero = Length(0, "px")  # equal margins must have one form
    return Margin(*(lengths[index] if lengths[index].value else zero for index in indices))


def parse_scale(text: str) -> float | None:
    """Parse `10%` to `100%` into percent; `original` into None."""
    if text == "original":
        return None
    match = _PERCENT_PATTERN.match(text)
    if match is None:
        raise InvalidOptionError("scale", "Give 10% to 100%, or original.")
    return float(match[1])


def parse_canvas(text: str) -> Canvas:
    """Parse `2000x1500`: width and height in pixels."""
    match = _CANVAS_PATTERN.match(text)
    if match is None:
        raise _canvas_error()
    return Canvas(int(match[1]), int(match[2]))


def parse_position(text: str) -> Position:
    """Parse `original`, `center`, one value for both axes, or `x% y%`."""
    if text == "original":
        return Position()
    if text == "center":
        return CENTER
    matches = [_PERCENT_PATTERN.match(each) for each in text.split()]
    values = [float(match[1]) for match in matches if match]
    if len(values) != len(matches) or len(values) not in {1, 2}:
        raise _position_error()
    return Position(values[0], values[-1])


def parse_shadow(text: str) -> Shadow:
    """Parse `none` or `drop`; `auto`, `car` and `3D` are drawn as a drop shadow too."""
    try:
        return Shadow(_SHADOW_NAMES[text.lower()])
    except KeyError:
        raise InvalidOptionError("shadow", "Choose none, drop, auto, car or 3D.") from None


def _position_error() -> InvalidOptionError:
    return InvalidOptionError(
        "position", "Give original, center, or one or two values from 0% to 100%, such as 50% 80%."
    )


def _canvas_error() -> InvalidOptionError:
    low, high = _CANVAS_LIMITS
    return InvalidOptionError(
        "canvas", f"Give width x height, each {low} to {high} pixels, such as 2000x2000."
    )


def _empty_roi_error() -> RoiRegionEmptyError:
    return RoiRegionEmptyError(
        "roi", "The region holds no pixel: x2 must be greater than x1, and y2 greater than y1."
    )


@dataclass(frozen=True, slots=True)
class Options:
    """What a result looks like. Values are valid by construction.

    Raises:
        InvalidOptionError: a value is out of its range, or contradicts another.
    """

    output_format: OutputFormat = OutputFormat.PNG
    #: Color behind the subject, 8-bit RGBA; None leaves it transparent.
    matte_color: Rgba | None = None
    #: 1..100, for webp, avif and jpg.
    quality: int = 92
    #: Remove the old background's color from soft edges.
    refine: bool = True
    output: Output = Output.CUTOUT
    #: Where the subject is looked for; None: in the whole picture.
    roi: Roi | None = None
    #: Crop to the subject and its margin.
    crop: bool = False
    crop_margin: Margin = Margin(*[Length(0, "px")] * 4)
    #: How much of the result's width or height the subject fills, 10..100 percent.
    scale: float | None = None
    #: Where the subject goes; None: it keeps its place, or is centered if it is scaled.
    position: Position | None = None
    #: Exact size of the result, with the picture or the trimmed subject fitted in; None: its own.
    canvas: Canvas | None = None
    #: Longest side of the result, pixels, 16..16384.
    max_side: int | None = None
    #: The most pixels of the result.
    max_pixels: int | None = None
    shadow: Shadow = Shadow.NONE
    #: Percent, 0..100.
    shadow_opacity: int = 50
    #: Keep glass and similar parts translucent; false makes all but the edges opaque.
    semitransparency: bool = True
    #: Harden: what is opaque to so many percent becomes opaque, all else transparent. None: soft.
    mask_threshold: int | None = None
    #: Move the subject's edge outwards (or, negative, inwards) by so many pixels of the picture.
    mask_offset: int = 0
    #: Fade the edge within about so many pixels of the picture, on both sides.
    mask_feather: int = 0
    #: SHA-256 of the background picture; its bytes are passed beside the options.
    background_sha256: str | None = None

    def __post_init__(self) -> None:
        for name in _BOOLEAN_OPTIONS:
            if type(getattr(self, name)) is not bool:
                raise InvalidOptionError(name, "Give true or false.")
        for name, allowed in _INTEGER_RANGES.items():
            value = getattr(self, name)
            if value is None and name in _NULLABLE_INTEGERS:
                continue
            if type(value) is not int or value not in allowed:
                raise InvalidOptionError(
                    name, f"Give a whole number from {allowed.start} to {allowed.stop - 1}."
                )
        self._check_color()
        self._check_scale()
        if self.canvas is not None and self.max_side is not None:
            raise InvalidOptionError("max_side", "Give max_side or canvas, which sets both sides.")
        self._check_background()
        self._check_mask()
        self._check_jpg_background()

    def _check_color(self) -> None:
        color = self.matte_color
        if color is None:
            return
        whole = [type(level) for level in color] == [int] * 4
        if not whole or not all(0 <= level <= OPAQUE for level in color):
            raise InvalidOptionError(
                "matte_color", "Give red, green, blue and alpha, each a whole number from 0 to 255."
            )

    def _check_scale(self) -> None:
        low, high = _SCALE_LIMITS
        if self.scale is None:
            return
        if type(self.scale) not in {int, float} or not low <= self.scale <= high:
            raise InvalidOptionError("scale", f"Give {low}% to {high}%, or original.")

    def _check_background(self) -> None:
        digest = self.background_sha256
        if digest is None:
            return
        if not (isinstance(digest, str) and _SHA256_PATTERN.match(digest)):
            raise InvalidOptionError("background_sha256", "Give a SHA-256 in 64 hex digits.")
        if self.matte_color is not None:
            raise InvalidOptionError(
                "matte_color",
                "Give a color or a background image, not both: one would hide the other.",
            )

    def _check_mask(self) -> None:
        if self.output is not Output.MASK:
            return
        conflicts = {
            "matte_color": self.matte_color is not None,
            "background_image": self.background_sha256 is not None,
            "shadow": self.shadow is not Shadow.NONE,
            "output_format": self.output_format is OutputFormat.ZIP,
        }
        if name := next((name for name, given in conflicts.items() if given), None):
            raise InvalidOptionError(
                name, "A mask is the subject's alpha alone: leave out this, or output=mask."
            )

    def _check_jpg_background(self) -> None:
        opaque = self.matte_color is not None and self.matte_color[3] == OPAQUE
        opaque = opaque or self.background_sha256 is not None or self.output is Output.MASK
        if self.output_format is OutputFormat.JPG and not opaque:
            raise InvalidOptionError(
                "matte_color",
                "A jpg has no transparency: give an opaque background, such as matte_color=white, "
                "or ask for output_format=png.",
            )

    def check_size(self, width: int, height: int) -> None:
        """Check that the output format can hold a result of this size.

        Raises:
            InvalidOptionError: a side is too long for it.
        """
        limit = self.output_format.max_side
        if max(width, height) > limit:
            raise InvalidOptionError(
                "output_format",
                f"A {self.output_format} holds at most {limit:,} pixels a side and the result "
                f"would be {width:,} x {height:,}: ask for output_format=png, or lower max_side.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; equal options give equal ones."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in _TEXT_PARSERS:
            if values[name] is not None:
                values[name] = str(values[name])
        if self.matte_color is not None:
            values["matte_color"] = list(self.matte_color)
        if self.scale is not None:
            values["scale"] = float(self.scale)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make options from what `to_dict` returned; absent ones take their default.

        Raises:
            InvalidOptionError: `to_dict` does not write such a value.
        """
        parsers = {**_TEXT_PARSERS, "matte_color": tuple}
        given = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        for name in parsers.keys() & given.keys():
            if given[name] is not None:
                given[name] = parsers[name](given[name])
        return cls(**given)


#: The parsers of the options that are texts in JSON.
_TEXT_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "output_format": parse_output_format,
    "output": parse_output,
    "roi": parse_roi,
    "crop_margin": parse_crop_margin,
    "canvas": parse_canvas,
    "position": parse_position,
    "shadow": parse_shadow,
}
