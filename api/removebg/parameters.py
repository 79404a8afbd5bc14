"""Reads a remove.bg request: its form, its pictures, and its parameters as our options."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from flask import Request

from api.errors import ApiError
from api.forms import MAX_FIELDS, Form, read_form, read_json_object, too_many_fields
from api.inputs import InputFile
from api.long_texts import LongText
from api.removebg.responses import RemoveBgError, error_of_type, invalid_parameter, translate_error
from api.services import Services
from inference.errors import InferenceError, InvalidOptionError
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
from inference.probe import PREFIX_SIZE, identify_format
from tasks.api_keys import Owner


def read_body(request: Request, *, max_file_bytes: int) -> Form:
    """Read the parameters of a multipart, urlencoded or JSON body; unknown ones are ignored.

    Raises:
        ApiError: the body cannot be read.
    """
    if request.is_json:
        form = Form({}, {})
        # Nested values of which each repeats a long outer name would take far more than the body.
        for number, (name, value) in enumerate(_flatten(read_json_object(request))):
            if number == MAX_FIELDS:
                raise too_many_fields()
            form.add(name, value)
        return form
    return read_form(request, max_file_bytes=max_file_bytes)


def _flatten(body: Mapping[str, object]) -> Iterator[tuple[str, str | LongText]]:
    """Yield JSON values as form fields; a nested name becomes `outer[inner]`."""
    for name, value in body.items():
        if isinstance(value, bool):
            yield name, str(value).lower()
        elif isinstance(value, dict):
            yield from ((f"{name}[{inner}]", text) for inner, text in _flatten(value))
        elif value is not None and value != "":
            yield name, value if isinstance(value, LongText) else str(value)


_BACKGROUNDS: Final = ("bg_color", "bg_image_url", "bg_image_file")
#: The parameters that give the picture, with their names in `api.inputs`.
_IMAGES: Final = {
    "image_file": "image",
    "image_file_b64": "image_b64",
    "image_url": "image_url",
}
_OWN_NAMES: Final = {
    **_IMAGES,
    "bg_image_file": "background_image",
    "bg_image_url": "background_url",
}
_FAILED: Final = {"image_url": "failed_image_download", "bg_image_url": "failed_bg_download"}


def open_image(form: Form, services: Services, owner: Owner, task_id: str) -> InputFile:
    """Return the picture that a form gives or names; its header has been read.

    Raises:
        RemoveBgError: the form names no picture, or several, or the one that it names cannot be
            fetched or read.
    """
    return _open(form, source_name(form), services, owner, task_id)


def open_background(form: Form, services: Services, owner: Owner, task_id: str) -> InputFile | None:
    """Return the picture to go behind the subject, if one is asked for.

    Raises:
        RemoveBgError: the form names several backgrounds, or the one that it names cannot be
            fetched or read.
    """
    names = [name for name in _BACKGROUNDS if name in form]
    if len(names) > 1:
        raise RemoveBgError("multiple_bg_sources", f"Choose one of {', '.join(names)}.")
    if not names or names == ["bg_color"]:
        return None
    return _open(form, names[0], services, owner, task_id)


def _open(form: Form, name: str, services: Services, owner: Owner, task_id: str) -> InputFile:
    given: InputFile | str | LongText = form.files.get(name) or _text(form, name)
    try:
        picture = services.inputs.open(_OWN_NAMES[name], given, owner, task_id)
    except ApiError as error:
        raise _cannot_be_had(name, error) from None
    try:
        if identify_format(picture.stream.read(PREFIX_SIZE)) is None:
            raise RemoveBgError("invalid_file_type", "This is no image of a known kind.")
        picture.probe(services.settings.image_limits)
    except InferenceError as error:
        raise error_of_type(error.code, f"{name}: {error}") from None
    return picture


def _text(form: Form, name: str) -> str | LongText:
    # A plus sign that was not escaped in an urlencoded body arrives as a space.
    if name in form.long_texts:
        return replace(form.long_texts[name], plus_for_space=True)
    text = form.texts.get(name, "")
    if name in _FAILED:
        _check_url(name, text)
    if name == "image_file_b64":
        return text.strip().replace("base64, ", "base64,").replace(" ", "+")
    return text


def source_name(form: Form) -> str:
    """Return the one parameter that gives the picture.

    Raises:
        RemoveBgError: there is none, or more than one.
    """
    names = [name for name in _IMAGES if name in form]
    if not names:
        raise RemoveBgError("missing_source", f"Send one of {', '.join(_IMAGES)}.")
    if len(names) > 1:
        raise RemoveBgError("multiple_sources", f"Send only one of {', '.join(names)}.")
    return names[0]


def _check_url(name: str, text: str) -> None:
    try:
        address = urlsplit(text)
        usable = address.scheme in {"http", "https"} and bool(address.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise invalid_parameter(name, "Give an address that begins with https://.")


def _cannot_be_had(name: str, error: ApiError) -> RemoveBgError:
    kind = error.row.type
    if name in _FAILED and kind == "url_not_allowed":
        return invalid_parameter(name, str(error))
    if name in _FAILED and kind == "invalid_image":
        return RemoveBgError("invalid_file_type", str(error))
    if name in _FAILED and kind not in {"image_too_large", "too_many_fetches"}:
        return RemoveBgError(_FAILED[name], str(error))
    if name == "image_file_b64" and kind == "invalid_parameter":
        return RemoveBgError("failed_to_read_image", str(error))
    return translate_error(error)


MEGAPIXEL: Final = 1_000_000
#: Most pixels of a result; `auto` is the largest that is allowed.
SIZES: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("preview", "small", "regular"), MEGAPIXEL // 4),
        "medium": MEGAPIXEL * 3 // 2,
        "hd": 4 * MEGAPIXEL,
        **dict.fromkeys(("full", "4k", "auto"), 25 * MEGAPIXEL),
        "50MP": 50 * MEGAPIXEL,
    }
)

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_WHITE: Final[Rgba] = (255, 255, 255, 255)
_HEX: Final = re.compile(r"[0-9a-fA-F]{3,8}\Z")
#: Types that this service echoes; it does not detect them.
_TYPES: Final = frozenset(
    {"car", "product", "person", "animal", "graphic", "transportation", "car_interior", "car_part"}
)


def read_options(
    texts: Mapping[str, str], *, background_sha256: str | None, png_pixels: int | None
) -> Options:
    """Translate the parameters into this service's options.

    Args:
        texts: as they came; empty ones left out.
        background_sha256: of the background image that came along.
        png_pixels: most pixels of a PNG; None for any number.

    Raises:
        RemoveBgError: a parameter is invalid; the code names it.
    """
    try:
        return _options(texts, background_sha256, png_pixels)
    except InvalidOptionError as error:
        if error.code in {"roi_exceeds_bounds", "roi_region_empty"}:
            raise RemoveBgError(error.code, str(error)) from None
        raise invalid_parameter(error.field, str(error)) from None


def is_mask(texts: Mapping[str, str]) -> bool:
    """Return whether only the alpha is asked for; backgrounds are ignored then.

    Raises:
        RemoveBgError: `channels` is neither `rgba` nor `alpha`.
    """
    return _choice(texts, "channels", ("rgba", "alpha")) == "alpha"


def detected_type(texts: Mapping[str, str]) -> str | None:
    """Return the value of `X-Type`: the type that the caller named, or None if none is wanted."""
    if texts.get("type_level") == "none":
        return None
    named = texts.get("type", "")
    named = "graphic" if named == "graphics" else named
    return named if named in _TYPES else "other"


def _options(
    texts: Mapping[str, str], background_sha256: str | None, png_pixels: int | None
) -> Options:
    mask = is_mask(texts)
    wanted = OutputFormat(_choice(texts, "format", ("auto", "png", "jpg", "webp", "zip")))
    if mask and wanted is OutputFormat.ZIP:
        wanted = OutputFormat.PNG  # of the two files, the one that was asked for
    max_pixels = SIZES[_choice(texts, "size", tuple(SIZES))]
    if png_pixels is not None and wanted is OutputFormat.PNG:
        max_pixels = min(png_pixels, max_pixels)
    scale, position = texts.get("scale"), texts.get("position")
    return Options(
        output_format=wanted,
        output=Output.MASK if mask else Output.CUTOUT,
        matte_color=None if mask else _color(texts, wanted, with_image=bool(background_sha256)),
        background_sha256=background_sha256,
        max_pixels=max_pixels,
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
    """Return one of the choices; the first is the default."""
    value = texts.get(name, choices[0])
    if value not in choices:
        raise invalid_parameter(name, f"Choose one of {', '.join(choices)}.")
    return value


def _flag(texts: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = texts.get(name, str(default)).lower()
    if value not in _TRUE | _FALSE:
        raise invalid_parameter(name, "Give true or false.")
    return value in _TRUE


def _color(texts: Mapping[str, str], wanted: OutputFormat, *, with_image: bool) -> Rgba | None:
    """Return the background's colour: white for a jpg that names none, since it is opaque.

    It is given as a CSS name, or as 3, 4, 6 or 8 hex digits with or without `#`.
    """
    text = texts.get("bg_color")
    color = None if text is None else parse_color(f"#{text}" if _HEX.match(text) else text)
    if wanted is not OutputFormat.JPG or with_image:
        return color
    if color is None:
        return _WHITE
    red, green, blue = (round(255 + (each - 255) * color[3] / 255) for each in color[:3])
    return red, green, blue, 255


def _shadow(texts: Mapping[str, str]) -> Shadow:
    """Read `shadow_type`, `shadow_type[car]` for pictures of that type, or the older `add_shadow`.

    For pictures of no named type, the first one for any type counts.
    """
    named = texts.get("type", "auto")
    kind = texts.get("shadow_type") or texts.get(f"shadow_type[{named}]")
    if kind is None and named == "auto":
        kind = next((texts[name] for name in texts if name.startswith("shadow_type[")), None)
    if kind is not None:
        return parse_shadow(kind)
    return Shadow.DROP if _flag(texts, "add_shadow", default=False) else Shadow.NONE


def _opacity(texts: Mapping[str, str]) -> int:
    text = texts.get("shadow_opacity", "auto")
    if text == "auto":
        return Options().shadow_opacity
    if not text.isascii() or not text.isdigit():
        raise invalid_parameter("shadow_opacity", "Give auto, or a whole number from 0 to 100.")
    return int(text[:4])
