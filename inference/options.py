"""What a caller may ask of one picture, checked and in one canonical form."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from inference.errors import InvalidOptionError
from inference.option_values import (
    OPAQUE,
    Margin,
    Output,
    OutputFormat,
    Position,
    Rgba,
    Roi,
    Shadow,
    parse_color,
    parse_crop_margin,
    parse_output,
    parse_output_format,
    parse_position,
    parse_roi,
    parse_scale,
    parse_shadow,
)

__all__ = [
    "Margin",
    "Options",
    "Output",
    "OutputFormat",
    "Position",
    "Rgba",
    "Roi",
    "Shadow",
    "parse_color",
    "parse_crop_margin",
    "parse_output",
    "parse_output_format",
    "parse_position",
    "parse_roi",
    "parse_scale",
    "parse_shadow",
]

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_LEVELS: Final = range(256)
_CHANNELS: Final = 4
#: Options that are true or false.
_FLAGS: Final = ("refine", "crop", "semitransparency")
#: Whole numbers and their ranges; those that may be absent are None then.
_RANGES: Final[Mapping[str, range]] = {
    "quality": range(1, 101),
    "max_side": range(16, 16_385),
    "max_pixels": range(1, 2**31),
    "shadow_opacity": range(101),
}
_OPTIONAL: Final = frozenset({"max_side", "max_pixels"})
#: The smallest and largest `scale`, in percent.
_SCALES: Final = (10, 100)


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
        for name in _FLAGS:
            if type(getattr(self, name)) is not bool:
                raise InvalidOptionError(name, "Give true or false.")
        for name in _RANGES:
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
        if not (isinstance(digest, str) and _SHA256.match(digest)):
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
        return {name: _plain(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; what is absent takes its default.

        Raises:
            InvalidOptionError: a value is not one that `to_dict` writes.
        """
        known = {each.name for each in fields(cls)}
        return cls(**{name: _read(name, values[name]) for name in known & set(values)})


_PARSERS: Final[Mapping[str, Any]] = {
    "output_format": parse_output_format,
    "matte_color": tuple,
    "output": parse_output,
    "roi": parse_roi,
    "crop_margin": parse_crop_margin,
    "position": parse_position,
    "shadow": parse_shadow,
}


def _read(name: str, value: Any) -> Any:  # noqa: ANN401 - any option's type
    parse = _PARSERS.get(name)
    return value if value is None or parse is None else parse(value)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any option's type
    if isinstance(value, Roi | Margin | Position | Output | OutputFormat | Shadow):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _check_range(name: str, value: object) -> None:
    allowed = _RANGES[name]
    if value is None and name in _OPTIONAL:
        return
    if type(value) is not int or value not in allowed:
        raise InvalidOptionError(
            name, f"Give a whole number from {allowed.start} to {allowed.stop - 1}."
        )


def _check_scale(scale: float) -> None:
    low, high = _SCALES
    if type(scale) not in {int, float} or not low <= scale <= high:
        raise InvalidOptionError("scale", f"Give {low}% to {high}%, or original.")


def _check_color(color: Rgba) -> None:
    levels = all(type(level) is int and level in _LEVELS for level in color)
    if len(color) != _CHANNELS or not levels:
        raise InvalidOptionError(
            "matte_color", "Give red, green, blue and alpha, each a whole number from 0 to 255."
        )
