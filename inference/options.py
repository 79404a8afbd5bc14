"""The options of one result: their types, the parsers of their text forms, and `Options` itself.

Every parser raises `InvalidOptionError` with the option's name and what to do about it. No numpy
here: the API validates options, and is installed without it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, Self

from PIL import ImageColor

from inference.errors import InvalidOptionError, RoiExceedsBoundsError, RoiRegionEmptyError

_LENGTH_PATTERN: Final = re.compile(r"(\d{1,6}(?:\.\d{1,4})?)(px|%)?\Z")

HUNDRED_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class Length:
    """A number of pixels, or of percent."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `30px`, `12.5%` or `0`.

        Raises:
            ValueError: it is none of these.
        """
        match = _LENGTH_PATTERN.match(text)
        if match is None or (match[2] is None and float(match[1])):
            raise ValueError(text)
        return cls(float(match[1]), match[2] or "px")

    def pixels(self, whole: int) -> int:
        """In whole pixels, of a side that is `whole` long."""
        return round(self.value * whole / HUNDRED_PERCENT if self.unit == "%" else self.value)

    def __str__(self) -> str:
        return f"{self.value:.10g}{self.unit}"


#: Red, green, blue, alpha; 0..255 each, not premultiplied.
Rgba = tuple[int, int, int, int]

OPAQUE: Final = 255

_HEX_COLOR: Final = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})\Z")

_PERCENT_PATTERN: Final = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)%\Z")

_MAX_MARGIN: Final = {"%": 50, "px": 500}

_SHADOW_NAMES: Final = {"none": "none", "drop": "drop", "auto": "drop", "car": "drop", "3d": "drop"}


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
                raise _empty_roi_error()

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
            raise _empty_roi_error()
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
            if side.value > _MAX_MARGIN[side.unit]:
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
            raise _position_error()
        if not all(0 <= share <= HUNDRED_PERCENT for share in (self.x or 0, self.y or 0)):
            raise _position_error()

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
    known = text.lower() in ImageColor.colormap or _HEX_COLOR.match(text)
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
    if any(
        each.unit == "%" and each.value > HUNDRED_PERCENT for each in (left, top, right, bottom)
    ):
        raise RoiExceedsBoundsError("roi", "The region reaches beyond 100% of the picture.")
    ends = (right.unit, right.value, bottom.unit, bottom.value)
    if (left.value, top.value) == (0, 0) and ends == ("%", HUNDRED_PERCENT, "%", HUNDRED_PERCENT):
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
    match = _PERCENT_PATTERN.match(text)
    if match is None:
        raise InvalidOptionError("scale", "Give 10% to 100%, or original.")
    return float(match[1])


def parse_position(text: str) -> Position:
    """`original`, `center`, one `x%`, or `x% y%`."""
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
    """`none` or `drop`; `auto`, `car` and `3D` are drawn as a drop shadow too."""
    try:
        return Shadow(_SHADOW_NAMES[text.lower()])
    except KeyError:
        raise InvalidOptionError("shadow", "Choose none, drop, auto, car or 3D.") from None


def _position_error() -> InvalidOptionError:
    return InvalidOptionError(
        "position", "Give original, center, or one or two values from 0% to 100%, such as 50% 80%."
    )


def _empty_roi_error() -> RoiRegionEmptyError:
    return RoiRegionEmptyError(
        "roi", "The region holds no pixel: x2 must be greater than x1, and y2 greater than y1."
    )


_SHA256_PATTERN: Final = re.compile(r"[0-9a-f]{64}\Z")

_CHANNEL_RANGE: Final = range(256)

_CHANNELS: Final = 4

#: Options that are true or false.
_BOOLEAN_OPTIONS: Final = ("refine", "crop", "semitransparency")

#: Whole numbers and their ranges; those that may be absent are None then.
_INTEGER_RANGES: Final[Mapping[str, range]] = {
    "quality": range(1, 101),
    "max_side": range(16, 16_385),
    "max_pixels": range(1, 2**31),
    "shadow_opacity": range(101),
}

_NULLABLE_INTEGERS: Final = frozenset({"max_side", "max_pixels"})

#: The smallest and largest `scale`, in percent.
_SCALE_LIMITS: Final = (10, 100)


@dataclass(frozen=True, slots=True)
class Options:
    """How a result is to look. Values are valid by construction.

    Raises:
        InvalidOptionError: a value is out of its range, or two do not go together.
    """

    output_format: OutputFormat = OutputFormat.PNG
    #: Fill behind the subject, 8-bit RGBA; None leaves it transparent.
    matte_color: Rgba | None = None
    #: 1..100, for webp and jpg.
    quality: int = 92
    #: Take the old background's colour out of soft edges.
    refine: bool = True
    output: Output = Output.CUTOUT
    #: Where the subject is looked for; None: everywhere.
    roi: Roi | None = None
    #: Trim to the subject, but for the margin.
    crop: bool = False
    crop_margin: Margin = field(default_factory=Margin.none)
    #: How much of the result's width or height the subject fills, 10..100 percent.
    scale: float | None = None
    #: Where the subject goes in the result; None: where it stands, or the middle if it is scaled.
    position: Position | None = None
    #: Longest side of the result, pixels, 16..16384.
    max_side: int | None = None
    #: The result has at most so many pixels.
    max_pixels: int | None = None
    shadow: Shadow = Shadow.NONE
    #: Percent, 0..100.
    shadow_opacity: int = 50
    #: Keep glass and the like see-through; false makes all but the edges opaque.
    semitransparency: bool = True
    #: Of the file that goes behind the subject; its bytes travel beside the options.
    background_sha256: str | None = None

    def __post_init__(self) -> None:
        for name in _BOOLEAN_OPTIONS:
            if type(getattr(self, name)) is not bool:
                raise InvalidOptionError(name, "Give true or false.")
        for name in _INTEGER_RANGES:
            _check_range(name, getattr(self, name))
        if self.matte_color is not None:
            _check_color(self.matte_color)
        if self.scale is not None:
            _check_scale(self.scale)
        self._check_background()
        self._check_mask()
        self._check_opacity()

    def _check_background(self) -> None:
        digest = self.background_sha256
        if digest is None:
            return
        if not (isinstance(digest, str) and _SHA256_PATTERN.match(digest)):
            raise InvalidOptionError("background_sha256", "Give a SHA-256 in 64 hex digits.")
        if self.matte_color is not None:
            raise InvalidOptionError(
                "matte_color", "Name a colour or a background image, not both: one hides the other."
            )

    def _check_mask(self) -> None:
        if self.output is not Output.MASK:
            return
        unfit = {
            "matte_color": self.matte_color is not None,
            "background_image": self.background_sha256 is not None,
            "shadow": self.shadow is not Shadow.NONE,
            "output_format": self.output_format is OutputFormat.ZIP,
        }
        for name, given in unfit.items():
            if given:
                raise InvalidOptionError(
                    name, "A mask is the subject's alpha alone: leave this out, or output=mask."
                )

    def _check_opacity(self) -> None:
        opaque = self.matte_color is not None and self.matte_color[3] == OPAQUE
        opaque = opaque or self.background_sha256 is not None or self.output is Output.MASK
        if self.output_format is OutputFormat.JPG and not opaque:
            raise InvalidOptionError(
                "matte_color",
                "A jpg has no transparency: name an opaque background, such as matte_color=white, "
                "or ask for output_format=png.",
            )

    def check_size(self, width: int, height: int) -> None:
        """Can the output format hold a result of this many pixels a side?

        Raises:
            InvalidOptionError: it cannot.
        """
        most = self.output_format.max_side
        if max(width, height) > most:
            raise InvalidOptionError(
                "output_format",
                f"A {self.output_format} holds at most {most:,} pixels a side and the result would "
                f"be {width:,} x {height:,}: ask for output_format=png.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the same for equal options."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.scale is not None:
            values["scale"] = float(self.scale)
        return {name: _to_plain(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; what is absent takes its default.

        Raises:
            InvalidOptionError: a value is not one that `to_dict` writes.
        """
        known = {each.name for each in fields(cls)}
        return cls(**{name: _from_plain(name, values[name]) for name in known & set(values)})


_PARSERS: Final[Mapping[str, Any]] = {
    "output_format": parse_output_format,
    "matte_color": tuple,
    "output": parse_output,
    "roi": parse_roi,
    "crop_margin": parse_crop_margin,
    "position": parse_position,
    "shadow": parse_shadow,
}


def _from_plain(name: str, value: Any) -> Any:  # noqa: ANN401 - any option's type
    parse = _PARSERS.get(name)
    return value if value is None or parse is None else parse(value)


def _to_plain(value: Any) -> Any:  # noqa: ANN401 - any option's type
    if isinstance(value, Roi | Margin | Position | Output | OutputFormat | Shadow):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _check_range(name: str, value: object) -> None:
    allowed = _INTEGER_RANGES[name]
    if value is None and name in _NULLABLE_INTEGERS:
        return
    if type(value) is not int or value not in allowed:
        raise InvalidOptionError(
            name, f"Give a whole number from {allowed.start} to {allowed.stop - 1}."
        )


def _check_scale(scale: float) -> None:
    low, high = _SCALE_LIMITS
    if type(scale) not in {int, float} or not low <= scale <= high:
        raise InvalidOptionError("scale", f"Give {low}% to {high}%, or original.")


def _check_color(color: Rgba) -> None:
    levels = all(type(level) is int and level in _CHANNEL_RANGE for level in color)
    if len(color) != _CHANNELS or not levels:
        raise InvalidOptionError(
            "matte_color", "Give red, green, blue and alpha, each a whole number from 0 to 255."
        )
