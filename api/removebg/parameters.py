"""remove.bg's parameters, as options of this service."""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from api.removebg.errors import RemoveBgError, invalid
from inference.errors import InvalidOptionError
from inference.options import (
    Options,
    Output,
    OutputFormat,
    Rgba,
    Shadow,
    parse_color,
    parse_crop_margin,
    parse_position,
    parse_roi,
    parse_scale,
    parse_shadow,
)

_MILLION: Final = 1_000_000
#: Most pixels of a result; `auto` is the largest that is allowed.
SIZES: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("preview", "small", "regular"), _MILLION // 4),
        "medium": _MILLION * 3 // 2,
        "hd": 4 * _MILLION,
        **dict.fromkeys(("full", "4k", "auto"), 25 * _MILLION),
        "50MP": 50 * _MILLION,
    }
)
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_WHITE: Final[Rgba] = (255, 255, 255, 255)
_HEX: Final = re.compile(r"[0-9a-fA-F]{3,8}\Z")
#: Types that this service echoes; it does not look for them itself.
_TYPES: Final = frozenset(
    {"car", "product", "person", "animal", "graphic", "transportation", "car_interior", "car_part"}
)
_OTHER: Final = "other"


def read_options(
    texts: Mapping[str, str], *, background_sha256: str | None, png_pixels: int | None
) -> Options:
    """Check the parameters, and say them in this service's words.

    Args:
        texts: as they came; empty ones left out.
        background_sha256: of the background image that came along.
        png_pixels: most pixels of a PNG; None for any number.

    Raises:
        RemoveBgError: one of them will not do; the code names it.
    """
    try:
        options = _options(texts, background_sha256)
    except InvalidOptionError as error:
        raise from_option(error) from None
    if png_pixels is not None and options.output_format is OutputFormat.PNG:
        options = replace(options, max_pixels=min(png_pixels, options.max_pixels or png_pixels))
    return options


def from_option(error: InvalidOptionError) -> RemoveBgError:
    """The error for an option that will not do."""
    if error.code in {"roi_exceeds_bounds", "roi_region_empty"}:
        return RemoveBgError(error.code, str(error))
    return invalid(error.field, str(error))


def is_mask(texts: Mapping[str, str]) -> bool:
    """Is nothing but the alpha asked for? Whatever would lie behind the subject is left out then.

    Raises:
        RemoveBgError: `channels` is neither `rgba` nor `alpha`.
    """
    return _choice(texts, "channels", ("rgba", "alpha")) == "alpha"


def detected_type(texts: Mapping[str, str]) -> str | None:
    """What `X-Type` says: the type that the caller named, if any; None where none is wanted."""
    if texts.get("type_level") == "none":
        return None
    named = texts.get("type", _OTHER)
    named = "graphic" if named == "graphics" else named
    return named if named in _TYPES else _OTHER


def _options(texts: Mapping[str, str], background_sha256: str | None) -> Options:
    mask = is_mask(texts)
    wanted = OutputFormat(_choice(texts, "format", ("auto", "png", "jpg", "webp", "zip")))
    if mask and wanted is OutputFormat.ZIP:
        wanted = OutputFormat.PNG  # of the two files, the one that was asked for
    scale, position = texts.get("scale"), texts.get("position")
    return Options(
        output_format=wanted,
        output=Output.MASK if mask else Output.CUTOUT,
        matte_color=None if mask else _color(texts, wanted, with_image=bool(background_sha256)),
        background_sha256=background_sha256,
        max_pixels=SIZES[_choice(texts, "size", tuple(SIZES))],
        roi=parse_roi(texts["roi"]) if "roi" in texts else None,
        crop=_flag(texts, "crop", default=False),
        crop_margin=parse_crop_margin(texts.get("crop_margin", "0")),
        scale=None if scale is None else parse_scale(scale),
        position=None if position is None else parse_position(position),
        semitransparency=_flag(texts, "semitransparency", default=True),
        shadow=Shadow.NONE if mask else _shadow(texts),
        shadow_opacity=_opacity(texts),
    )


def _choice(texts: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of the choices; the first of them is the default."""
    value = texts.get(name, choices[0])
    if value not in choices:
        raise invalid(name, f"Choose one of {', '.join(choices)}.")
    return value


def _flag(texts: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = texts.get(name, str(default)).lower()
    if value not in _TRUE | _FALSE:
        raise invalid(name, "Give true or false.")
    return value in _TRUE


def _color(texts: Mapping[str, str], wanted: OutputFormat, *, with_image: bool) -> Rgba | None:
    """The background's colour; a jpg, which has no transparency, is laid on white."""
    color = _named_color(texts["bg_color"]) if "bg_color" in texts else None
    if wanted is not OutputFormat.JPG or with_image:
        return color
    if color is None:
        return _WHITE
    red, green, blue = (round(255 + (each - 255) * color[3] / 255) for each in color[:3])
    return red, green, blue, 255


def _named_color(text: str) -> Rgba:
    """A CSS name, or 3, 4, 6 or 8 hex digits with or without `#`."""
    try:
        return parse_color(f"#{text}" if _HEX.match(text) else text)
    except InvalidOptionError as error:
        raise invalid("bg_color", str(error)) from None


def _shadow(texts: Mapping[str, str]) -> Shadow:
    """`shadow_type`, that of one type only, or the older `add_shadow`."""
    kind = texts.get("shadow_type") or _shadow_of_type(texts)
    if kind is not None:
        return parse_shadow(kind)
    return Shadow.DROP if _flag(texts, "add_shadow", default=False) else Shadow.NONE


def _shadow_of_type(texts: Mapping[str, str]) -> str | None:
    """`shadow_type[car]` and the like: for pictures that are said to be of that type, or of any."""
    named = texts.get("type", "auto")
    found = {
        name.removeprefix("shadow_type[").removesuffix("]"): kind
        for name, kind in texts.items()
        if name.startswith("shadow_type[")
    }
    return found.get(named) or (next(iter(found.values()), None) if named == "auto" else None)


def _opacity(texts: Mapping[str, str]) -> int:
    text = texts.get("shadow_opacity", "auto")
    if text == "auto":
        return Options().shadow_opacity
    if not text.isascii() or not text.isdigit():
        raise invalid("shadow_opacity", "Give auto, or a whole number from 0 to 100.")
    return int(text[:4])
