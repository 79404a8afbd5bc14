"""What a caller may ask of one picture, checked and in one canonical form."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from PIL import ImageColor

from inference.errors import InvalidOptionError

#: Red, green, blue, alpha; 0..255 each, not premultiplied.
Rgba = tuple[int, int, int, int]

_HEX = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})\Z")
_LEVELS = range(256)
_QUALITIES = range(1, 101)
_OPAQUE = 255
_CHANNELS = 4


class OutputFormat(StrEnum):
    """The file formats of a result."""

    PNG = "png"
    WEBP = "webp"
    JPG = "jpg"

    @property
    def media_type(self) -> str:
        """The registered media type, such as `image/png`."""
        return {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}[self.value]

    @property
    def max_side(self) -> int:
        """The most pixels on a side that a file of this format can hold."""
        return {"png": 2**31 - 1, "webp": 16_383, "jpg": 65_500}[self.value]


def parse_output_format(text: str) -> OutputFormat:
    """The format of this name.

    Raises:
        InvalidOptionError: there is none.
    """
    try:
        return OutputFormat(text)
    except ValueError:
        raise InvalidOptionError("output_format", "Choose png, webp or jpg.") from None


def parse_color(text: str) -> Rgba:
    """A colour as 8-bit RGBA, from `#rgb`, `#rgba`, `#rrggbb`, `#rrggbbaa` or a CSS name.

    Raises:
        InvalidOptionError: the text is none of these.
    """
    known = text.lower() in ImageColor.colormap or _HEX.match(text)
    if not known:
        raise InvalidOptionError(
            "matte_color", "Give a colour as #rgb, #rrggbb, #rrggbbaa or a CSS name such as white."
        )
    red, green, blue, *alpha = ImageColor.getrgb(text)
    return red, green, blue, alpha[0] if alpha else _OPAQUE


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

    def __post_init__(self) -> None:
        if type(self.quality) is not int or self.quality not in _QUALITIES:
            raise InvalidOptionError("quality", "Give a whole number from 1 to 100.")
        if type(self.refine) is not bool:
            raise InvalidOptionError("refine", "Give true or false.")
        if self.matte_color is not None:
            _check_color(self.matte_color)
        opaque = self.matte_color is not None and self.matte_color[3] == _OPAQUE
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
        return {
            "output_format": self.output_format.value,
            "matte_color": None if self.matte_color is None else list(self.matte_color),
            "quality": self.quality,
            "refine": self.refine,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; what is absent takes its default.

        Raises:
            InvalidOptionError: a value is not one that `to_dict` writes.
        """
        default = cls()
        color = values.get("matte_color")
        return cls(
            output_format=parse_output_format(values.get("output_format", default.output_format)),
            matte_color=None if color is None else tuple(color),
            quality=values.get("quality", default.quality),
            refine=values.get("refine", default.refine),
        )


def _check_color(color: Rgba) -> None:
    levels = all(type(level) is int and level in _LEVELS for level in color)
    if len(color) != _CHANNELS or not levels:
        raise InvalidOptionError(
            "matte_color", "Give red, green, blue and alpha, each a whole number from 0 to 255."
        )
