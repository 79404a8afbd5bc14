"""The parameters of a submission: their schemas, and how a request is read into them."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from flask import Request
from flask_smorest.fields import Upload
from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from api.errors import ApiError, from_validation
from api.forms import read_form, read_json, read_json_object
from api.inputs import ImageInputs, InputFile
from api.long_texts import LongText
from api.submission import Submission
from inference.options import (
    Options,
    Output,
    Shadow,
    parse_canvas,
    parse_color,
    parse_crop_margin,
    parse_output,
    parse_output_format,
    parse_position,
    parse_roi,
    parse_scale,
    parse_shadow,
)
from tasks.api_keys import Owner
from tasks.jobs.job import Priority
from tasks.net.url_guard import MAX_URL
from tasks.webhooks.deliveries import TASK_EVENTS

#: The result formats of this API; remove.bg's has more.
FORMATS: Final = ("png", "webp", "avif", "jpg")
#: Largest `metadata`, as compact JSON in UTF-8.
_MAX_METADATA_BYTES: Final = 2048
#: Characters of a text that `inference.options` parses.
_MAX_TEXT: Final = 100
#: Characters of a webhook's address, which is kept with the task.
_MAX_WEBHOOK_URL: Final = 2048
#: What an address is at least. The guard of addresses judges the rest, by its own rules alone.
_ADDRESS: Final = re.compile(r"https?://\S+", re.IGNORECASE)
_MAX_EXPIRES_IN: Final = 30 * 24 * 3600
_PRIORITIES: Final = tuple(each.name.lower() for each in Priority)


class JsonObject(fields.Field[dict[str, Any]]):
    """A small JSON object; in a form, its text."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> dict[str, Any]:  # noqa: ANN401 - marshmallow's
        if isinstance(value, str):
            try:
                value = read_json(value)
            except ValueError:
                raise ValidationError("This is no JSON.") from None
        if not isinstance(value, dict):
            raise ValidationError('Give a JSON object, such as {"order": 17}.')
        size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        if size > _MAX_METADATA_BYTES:
            raise ValidationError(f"It has {size} bytes; the limit is {_MAX_METADATA_BYTES}.")
        return value


class EventList(fields.Field[list[str]]):
    """A list of webhook events; in a form, comma-separated."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> list[str]:  # noqa: ANN401 - marshmallow's
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise ValidationError("Give a list of words.")
        chosen = {each.strip() for each in given}
        if chosen - set(TASK_EVENTS):
            raise ValidationError(f"Choose from {', '.join(TASK_EVENTS)}.")
        return sorted(chosen)


def _measure(description: str, *, example: str, default: str | None = None) -> fields.String:
    """Return a field for a short text that `inference.options` parses."""
    return fields.String(
        load_default=default,
        validate=validate.Length(max=_MAX_TEXT),
        metadata={"description": description, "example": example},
    )


class Address(fields.String):
    """An address; its length is judged before a regular expression sees it.

    Args:
        most: characters that it may have.
        others: of every field.
    """

    def __init__(self, *, most: int, **others: Any) -> None:  # noqa: ANN401 - marshmallow's
        super().__init__(validate=validate.Length(max=most), **others)
        self.most = most

    def _deserialize(self, value: Any, *more: Any, **others: Any) -> str:  # noqa: ANN401 - marshmallow's
        if isinstance(value, str) and len(value) > self.most:
            raise ValidationError(
                f"It has {len(value)} characters; the limit is {self.most}. Give a shorter address."
            )
        text = str(super()._deserialize(value, *more, **others))
        if not _ADDRESS.fullmatch(text):
            raise ValidationError(
                "Not a valid URL. Give an address that begins with http:// or https://, and write "
                "a space as %20."
            )
        return text


class Base64(fields.String):
    """A picture in base64; a long one stays in the request's body."""

    def _deserialize(self, value: Any, *more: Any, **others: Any) -> Any:  # noqa: ANN401 - marshmallow's
        return (
            value if isinstance(value, LongText) else super()._deserialize(value, *more, **others)
        )


def _address(description: str, most: int = MAX_URL) -> Address:
    return Address(
        most=most,
        load_default=None,
        metadata={"description": description, "format": "url"},
    )


class TaskParameters(Schema):
    """The parameters of a picture, whichever way it is sent."""

    class Meta:
        """Refuses unknown parameters by name."""

        unknown = RAISE

    output_format = fields.String(
        load_default="png",
        validate=validate.OneOf(FORMATS),
        metadata={"description": "The result's format; jpg needs a background."},
    )
    matte_color = fields.String(
        load_default=None,
        validate=validate.Length(max=_MAX_TEXT),
        metadata={
            "description": "Fill behind the subject: #rgb, #rrggbb, #rrggbbaa or a CSS name.",
            "example": "#ffffff",
        },
    )
    quality = fields.Integer(
        load_default=92,
        validate=validate.Range(1, 100),
        metadata={"description": "Quality of webp, avif and jpg."},
    )
    refine = fields.Boolean(
        load_default=True,
        metadata={"description": "false: keep the old background's colour in soft edges."},
    )
    mask_threshold = fields.Integer(
        load_default=None,
        validate=validate.Range(1, 100),
        metadata={
            "description": "Hardens the edge: what is opaque to so many percent becomes opaque, "
            "and all else transparent.",
            "example": 50,
        },
    )
    mask_offset = fields.Integer(
        load_default=0,
        validate=validate.Range(-100, 100),
        metadata={
            "description": "Moves the edge by so many pixels of the picture: outwards, or inwards "
            "if it is negative.",
            "example": -2,
        },
    )
    mask_feather = fields.Integer(
        load_default=0,
        validate=validate.Range(0, 100),
        metadata={
            "description": "Fades the edge within about so many pixels of the picture on both "
            "sides."
        },
    )
    output = fields.String(
        load_default="cutout",
        validate=validate.OneOf([each.value for each in Output]),
        metadata={
            "description": "cutout; mask: the subject's alpha as an 8-bit gray picture; or "
            "original: the picture itself, upright, in sRGB and in the format that is asked for."
        },
    )
    crop = fields.Boolean(
        load_default=False, metadata={"description": "Trim the result to the subject."}
    )
    crop_margin = _measure(
        "Left around a trimmed subject: 1, 2 or 4 values in px or % (of the subject), in the order "
        "of CSS.",
        default="0",
        example="10%",
    )
    max_side = fields.Integer(
        load_default=None,
        validate=validate.Range(16, 16_384),
        metadata={"description": "The result's longer side is made no larger, in pixels."},
    )
    canvas = _measure(
        "The result's exact size, width x height in pixels, 16 to 5000 each; the picture, or the "
        "trimmed subject, is fitted in. Not with max_side.",
        example="2000x2000",
    )
    roi = _measure(
        "The rectangle that the subject is looked for in: x1 y1 x2 y2, each in px or %.",
        example="10% 0px 90% 100%",
    )
    scale = _measure(
        "How much of the result the subject fills: 10% to 100%, or original.", example="80%"
    )
    position = _measure("Where the subject goes: original, center, x%, or x% y%.", example="center")
    shadow = fields.String(
        load_default="none",
        validate=validate.OneOf([each.value for each in Shadow]),
        metadata={"description": "drop: a soft shadow behind and below the subject."},
    )
    shadow_opacity = fields.Integer(
        load_default=50,
        validate=validate.Range(0, 100),
        metadata={"description": "Of the shadow, in percent."},
    )
    background_url = _address("Address of a picture that goes behind the subject, and fills.")
    model = fields.String(
        load_default=None,
        validate=validate.Length(1, 64),
        metadata={"description": "One of the models being served.", "example": "u2netp"},
    )
    priority = fields.String(
        load_default=None,
        validate=validate.OneOf(_PRIORITIES),
        metadata={"description": "How urgent it is among your own; normal unless said otherwise."},
    )
    metadata = JsonObject(
        load_default=dict,
        metadata={
            "type": "object",
            "description": "A JSON object up to 2 kB that is echoed wherever the task is shown.",
            "example": {"order": 17},
        },
    )
    webhook_url = _address("URL that the task's end is reported to.", _MAX_WEBHOOK_URL)
    webhook_events = EventList(
        load_default=list,
        metadata={
            "type": "array",
            "items": {"type": "string", "enum": list(TASK_EVENTS)},
            "description": "The events that are reported; all by default. In a form, "
            "comma-separated.",
            "example": ["removal.succeeded"],
        },
    )
    expires_in = fields.Float(
        load_default=None,
        validate=validate.Range(1, _MAX_EXPIRES_IN),
        metadata={
            "description": "Seconds; not begun by then, the task fails. The service "
            "has a limit of its own, a day unless set otherwise.",
            "example": 60,
        },
    )
    cache = fields.Boolean(
        load_default=True,
        metadata={
            "description": "false: neither read from nor write to the cache, and join no equal "
            "task that is running."
        },
    )

    @post_load
    def _name_priority(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: ANN401 - marshmallow's
        """Turn the name of `priority` into the enumeration; None if it was not given."""
        name = data.pop("priority", None)
        return {**data, "priority": Priority[name.upper()] if name else None}


class RemovalJson(TaskParameters):
    """A submission as JSON: exactly one of `image_url`, `image_b64` and `upload_id`."""

    image_url = _address("Address that the picture is fetched from.")
    image_b64 = Base64(
        load_default=None,
        metadata={"description": "The picture in base64, with or without a `data:` prefix."},
    )
    upload_id = fields.String(
        load_default=None,
        validate=validate.Length(1, 128),
        metadata={"description": "A finished upload in pieces."},
    )


class RemovalForm(RemovalJson):
    """A submission as a form: exactly one of `image` and what JSON may have in its place."""

    image = Upload(
        load_default=None,
        metadata={"description": "The picture: JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP, GIF."},
    )
    background_image = Upload(
        load_default=None,
        metadata={"description": "A picture that goes behind the subject, and fills."},
    )


#: The parameters of which exactly one gives the picture.
PICTURES: Final = ("image", "image_url", "image_b64", "upload_id")
#: The parameters that give a picture to go behind the subject.
_BACKGROUNDS: Final = ("background_image", "background_url")
#: Placeholder for the digest of a background that is not loaded yet.
_PROMISED: Final = "0" * 64
#: Options that are taken as they are, and those that are parsed from a text.
_DIRECT: Final = (
    *("quality", "refine", "crop", "max_side", "shadow_opacity"),
    *("mask_threshold", "mask_offset", "mask_feather"),
)
_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "output_format": parse_output_format,
        "matte_color": parse_color,
        "output": parse_output,
        "crop_margin": parse_crop_margin,
        "roi": parse_roi,
        "scale": parse_scale,
        "canvas": parse_canvas,
        "position": parse_position,
        "shadow": parse_shadow,
    }
)


def describe_parameters() -> list[dict[str, Any]]:
    """Describe the parameters of a picture: name, type, default, range or choices, meaning."""
    kinds = {fields.Boolean: "boolean", fields.Integer: "integer", fields.Float: "number"}
    described = []
    for name, field in TaskParameters().fields.items():
        rules = [each for each in field.validators if isinstance(each, validate.Range)]
        choices = [each for each in field.validators if isinstance(each, validate.OneOf)]
        default = field.load_default
        described.append(
            {
                "name": name,
                "type": kinds.get(type(field), "string"),
                "default": default if isinstance(default, str | int | float) else None,
                "minimum": rules[0].min if rules else None,
                "maximum": rules[0].max if rules else None,
                "choices": list(choices[0].choices) if choices else [],
                "description": field.metadata.get("description", ""),
            }
        )
    return described


_FORMS: Final = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


@dataclass(frozen=True, slots=True)
class RequestParameters:
    """The checked parameters of a request.

    Attributes:
        values: by name, with the defaults of those that were not given.
        given: the names that the request has.
    """

    values: dict[str, Any]
    given: frozenset[str]


def read_parameters(request: Request, *, max_file_bytes: int) -> RequestParameters:
    """Read and check the parameters of a form or a JSON object.

    Raises:
        ApiError: the body is neither, or a parameter is unknown or wrong.
    """
    if request.is_json:
        body = read_json_object(request)
        return RequestParameters(load(RemovalJson, body), frozenset(body))
    if request.mimetype in _FORMS:
        form = read_form(request, max_file_bytes=max_file_bytes)
        fields = {**form.texts, **form.long_texts, **form.files}
        return RequestParameters(load(RemovalForm, fields), frozenset(fields))
    if not request.mimetype and not request.content_length:
        raise ApiError("missing_image")
    raise ApiError("unsupported_media_type")


@cache
def _loader(schema: type[RemovalJson]) -> RemovalJson:
    """Return the one instance of a schema; to make another copies all of its fields."""
    return schema()


def load(schema: type[RemovalJson], given: Mapping[str, Any]) -> dict[str, Any]:
    """Load parameters with a schema.

    Raises:
        ApiError: one is unknown or wrong.
    """
    try:
        return dict(_loader(schema).load(given))
    except ValidationError as error:
        faults = error.normalized_messages()  # type: ignore[no-untyped-call] # marshmallow leaves it so
        raise from_validation({"body": faults}) from None


def comparable(
    parameters: Mapping[str, Any], given: Collection[str] | None = None
) -> dict[str, Any]:
    """Return parameters as JSON, with the digests of files: equal for equal requests.

    Args:
        parameters: as they came, or checked.
        given: names to which they are limited, if any are: defaults differ between versions.
            A null is left out then, as if it had not been given.
    """
    return {
        name: f"sha256:{value.sha256}" if isinstance(value, InputFile | LongText) else value
        for name, value in parameters.items()
        if given is None or (name in given and value is not None)
    }


def build_submission(
    parameters: Mapping[str, Any],
    sources: ImageInputs,
    owner: Owner,
    *,
    task_id: str,
    priority: Priority = Priority.NORMAL,
    batch_id: str | None = None,
) -> Submission:
    """Build the submission that parameters ask for; a file that one of them names is loaded.

    Args:
        parameters: loaded by `RemovalForm` or `RemovalJson`.
        sources: loads the pictures.
        owner: who submits it.
        task_id: of the task that it is to become; what is charged for it is not released here.
        priority: where the parameters name none.
        batch_id: the batch that it belongs to.

    Raises:
        ApiError, InferenceError: they do not go together, or a picture cannot be had.
    """
    names = _given(parameters, PICTURES)
    if not names:
        raise ApiError("missing_image", fields={"image": "There is no picture in the request."})
    _require_one(names, "Send one picture in one way, not by")
    # Options are checked before any picture is loaded, the picture before its background.
    check_options(parameters)
    image = sources.open(names[0], parameters[names[0]], owner, task_id)
    names = _given(parameters, _BACKGROUNDS)
    _require_one(names, "Name one background, not")
    background = sources.open(names[0], parameters[names[0]], owner, task_id) if names else None
    return Submission(
        image=image,
        options=_build_options(parameters, background.sha256 if background else None),
        background=background,
        owner=owner,
        model=parameters["model"],
        priority=priority if parameters["priority"] is None else parameters["priority"],
        metadata=parameters["metadata"],
        webhook_url=parameters["webhook_url"],
        webhook_events=tuple(parameters["webhook_events"]),
        expires_in=parameters["expires_in"],
        cache=parameters["cache"],
        batch_id=batch_id,
    )


def check_options(parameters: Mapping[str, Any]) -> None:
    """Check the options of the result before any picture is loaded.

    Raises:
        InvalidOptionError: a value is wrong, or two do not go together.
    """
    _build_options(parameters, _PROMISED if _given(parameters, _BACKGROUNDS) else None)


def _build_options(parameters: Mapping[str, Any], background_sha256: str | None) -> Options:
    parsed: dict[str, Any] = {
        name: None if parameters[name] is None else parse(parameters[name])
        for name, parse in _PARSERS.items()
    }
    return Options(
        **{name: parameters[name] for name in _DIRECT},
        **parsed,
        background_sha256=background_sha256,
    )


def _given(parameters: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if parameters.get(name) is not None]


def _require_one(given: list[str], demand: str) -> None:
    if len(given) > 1:
        sentence = f"{demand} {' and '.join(given)}."
        raise ApiError("invalid_parameter", sentence, fields=dict.fromkeys(given, sentence))
