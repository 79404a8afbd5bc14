"""The parameters of a submission as a contract: for forms, for JSON, for each item of a batch."""

import json
from collections.abc import Mapping
from typing import Any, Final

from flask_smorest.fields import Upload
from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from api.strict_json import read_json
from inference.options import Output, Shadow
from tasks.jobs import Priority
from tasks.webhooks.delivery import TASK_EVENTS

#: The formats that are asked for here; another API has more.
FORMATS: Final = ("png", "webp", "jpg")
#: Largest `metadata`, as compact JSON in UTF-8.
MAX_METADATA_BYTES: Final = 2048
_MAX_TEXT: Final = 100
_MAX_URL: Final = 2048
_MAX_EXPIRES_IN: Final = 30 * 24 * 3600
_PRIORITIES: Final = tuple(each.name.lower() for each in Priority)


class JsonObject(fields.Field[dict[str, Any]]):
    """A small JSON object; in a form, its text."""

    def _deserialize(
        self,
        value: Any,  # noqa: ANN401 - marshmallow's signature
        attr: str | None,  # noqa: ARG002 - the same
        data: Mapping[str, Any] | None,  # noqa: ARG002 - the same
        **_: Any,  # noqa: ANN401 - the same
    ) -> dict[str, Any]:
        if isinstance(value, str):
            try:
                value = read_json(value)
            except ValueError:
                raise ValidationError("This is no JSON.") from None
        if not isinstance(value, dict):
            raise ValidationError('Give a JSON object, such as {"order": 17}.')
        size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        if size > MAX_METADATA_BYTES:
            raise ValidationError(f"It has {size} bytes; the limit is {MAX_METADATA_BYTES}.")
        return value


class WordList(fields.Field[list[str]]):
    """Some of a few words; in a form, comma-separated."""

    def __init__(self, *, words: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - marshmallow's
        super().__init__(**options)
        self.words = words

    def _deserialize(
        self,
        value: Any,  # noqa: ANN401 - marshmallow's signature
        attr: str | None,  # noqa: ARG002 - the same
        data: Mapping[str, Any] | None,  # noqa: ARG002 - the same
        **_: Any,  # noqa: ANN401 - the same
    ) -> list[str]:
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise ValidationError("Give a list of words.")
        chosen = [each.strip() for each in given]
        if set(chosen) - set(self.words):
            raise ValidationError(f"Choose from {', '.join(self.words)}.")
        return sorted(set(chosen))


class TaskParameters(Schema):
    """What may be asked for each picture, however the picture comes."""

    class Meta:
        """Parameters that are not known are refused by name."""

        unknown = RAISE

    output_format = fields.String(
        load_default="png",
        validate=validate.OneOf(FORMATS),
        metadata={"description": "The result's format; jpg needs a background."},
    )
    matte_color = fields.String(
        load_default=None,
        metadata={
            "description": "Fill behind the subject: #rgb, #rrggbb, #rrggbbaa or a CSS name.",
            "example": "#ffffff",
        },
    )
    quality = fields.Integer(
        load_default=92,
        validate=validate.Range(1, 100),
        metadata={"description": "Quality of webp and jpg."},
    )
    refine = fields.Boolean(
        load_default=True,
        metadata={"description": "false: keep the old background's colour in soft edges."},
    )
    output = fields.String(
        load_default="cutout",
        validate=validate.OneOf([each.value for each in Output]),
        metadata={"description": "cutout, or mask: the subject's alpha as an 8-bit gray picture."},
    )
    crop = fields.Boolean(
        load_default=False, metadata={"description": "Trim the result to the subject."}
    )
    crop_margin = fields.String(
        load_default="0",
        validate=validate.Length(max=_MAX_TEXT),
        metadata={
            "description": "Left around a trimmed subject: 1, 2 or 4 values in px or % (of the "
            "subject), in the order of CSS.",
            "example": "10%",
        },
    )
    max_side = fields.Integer(
        load_default=None,
        validate=validate.Range(16, 16_384),
        metadata={"description": "The result's longer side is made no larger, in pixels."},
    )
    roi = fields.String(
        load_default=None,
        validate=validate.Length(max=_MAX_TEXT),
        metadata={
            "description": "The rectangle that the subject is looked for in: x1 y1 x2 y2, each in "
            "px or %.",
            "example": "10% 0px 90% 100%",
        },
    )
    scale = fields.String(
        load_default=None,
        validate=validate.Length(max=_MAX_TEXT),
        metadata={
            "description": "How much of the result the subject fills: 10% to 100%, or original.",
            "example": "80%",
        },
    )
    position = fields.String(
        load_default=None,
        validate=validate.Length(max=_MAX_TEXT),
        metadata={
            "description": "Where the subject goes: original, center, x%, or x% y%.",
            "example": "center",
        },
    )
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
    background_url = fields.URL(
        load_default=None,
        schemes={"http", "https"},
        require_tld=False,
        validate=validate.Length(max=_MAX_URL),
        metadata={"description": "Address of a picture that goes behind the subject, and fills."},
    )
    model = fields.String(
        load_default=None,
        validate=validate.Length(1, 64),
        metadata={"description": "One of the models being served.", "example": "u2netp"},
    )
    priority = fields.String(
        load_default=None,
        validate=validate.OneOf(_PRIORITIES),
        metadata={"description": "How urgent it is; normal unless said otherwise."},
    )
    metadata = JsonObject(
        load_default=dict,
        metadata={
            "type": "object",
            "description": "A JSON object up to 2 kB that is echoed wherever the task is shown.",
            "example": {"order": 17},
        },
    )
    webhook_url = fields.URL(
        load_default=None,
        schemes={"http", "https"},
        require_tld=False,
        validate=validate.Length(max=_MAX_URL),
        metadata={"description": "Who is to be told of the task's end."},
    )
    webhook_events = WordList(
        load_default=list,
        words=TASK_EVENTS,
        metadata={
            "type": "array",
            "items": {"type": "string", "enum": list(TASK_EVENTS)},
            "description": "What they are to be told; everything unless said otherwise. In a form, "
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
        """`priority` as the enumeration, None if it was not said."""
        name = data.pop("priority", None)
        return {**data, "priority": Priority[name.upper()] if name else None}


class RemovalJson(TaskParameters):
    """A submission as JSON: exactly one of `image_url`, `image_b64` and `upload_id`."""

    image_url = fields.URL(
        load_default=None,
        schemes={"http", "https"},
        require_tld=False,
        validate=validate.Length(max=_MAX_URL),
        metadata={"description": "Address that the picture is fetched from."},
    )
    image_b64 = fields.String(
        load_default=None,
        metadata={"description": "The picture in base64; a `data:` prefix may stand before it."},
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
        metadata={"description": "The picture: JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF."},
    )
    background_image = Upload(
        load_default=None,
        metadata={"description": "A picture that goes behind the subject, and fills."},
    )
