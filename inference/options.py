"""What a caller may ask of one picture, checked and in one canonical form."""

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from PIL import ImageColor

from inference.errors import InvalidOptionError

Rgba = tuple[int, int, int, int]

_HEX = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})\Z")


class OutputFormat(StrEnum):
    """The file formats of a result."""

    PNG = "png"
    WEBP = "webp"
    JPG = "jpg"

    @property
    def media_type(self) -> str:
        """The registered media type, such as `image/png`."""
        return {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}[self.value]


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
    return red, green, blue, alpha[0] if alpha else 255


@dataclass(frozen=True, slots=True)
class Options:
    """How a result is to look. Values are valid by construction."""

    output_format: OutputFormat = OutputFormat.PNG
    #: Fill behind the subject, 8-bit RGBA; None leaves it transparent.
    matte_color: Rgba | None = None
    #: 1..100, for webp and jpg.
    quality: int = 92

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:  # noqa: PLR2004 - the range that the field's name implies
            raise InvalidOptionError("quality", "Give a whole number from 1 to 100.")
        opaque = self.matte_color is not None and self.matte_color[3] == 255  # noqa: PLR2004
        if self.output_format is OutputFormat.JPG and not opaque:
            raise InvalidOptionError(
                "matte_color",
                "A jpg has no transparency: name an opaque background, such as matte_color=white, "
                "or ask for output_format=png.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the same for equal options."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        color = values.get("matte_color")
        return cls(
            output_format=OutputFormat(values["output_format"]),
            matte_color=(color[0], color[1], color[2], color[3]) if color else None,
            quality=values["quality"],
        )
