"""Reads a request into the parameters of a submission, and those into a `Submission`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from flask import Request
from marshmallow import ValidationError
from werkzeug.exceptions import BadRequest

from api.errors import ApiError
from api.failures import from_validation
from api.submission.files import sha256_of
from api.submission.parameters import RemovalForm, RemovalJson
from api.submission.sources import Sources
from api.submission.submission import Submission, Upload
from inference.options import (
    Options,
    parse_color,
    parse_crop_margin,
    parse_output,
    parse_output_format,
    parse_position,
    parse_roi,
    parse_scale,
    parse_shadow,
)
from tasks.jobs import Priority
from tasks.owners import Owner

#: The parameters of which exactly one says which picture is meant.
PICTURES: Final = ("image", "image_url", "image_b64", "upload_id")
#: Those that bring a picture to go behind the subject.
BACKGROUNDS: Final = ("background_image", "background_url")
#: Stands for the digest of a background that is still to be fetched.
_PROMISED: Final = "0" * 64
_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "output_format": parse_output_format,
        "matte_color": parse_color,
        "output": parse_output,
        "crop_margin": parse_crop_margin,
        "roi": parse_roi,
        "scale": parse_scale,
        "position": parse_position,
        "shadow": parse_shadow,
    }
)
_FORMS: Final = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


def read_parameters(request: Request) -> dict[str, Any]:
    """The checked parameters of a form or a JSON object.

    Raises:
        ApiError: the body is neither, or a parameter is unknown or wrong.
    """
    if request.is_json:
        return load(RemovalJson(), _json(request))
    if request.mimetype in _FORMS:
        return load(RemovalForm(), _form(request))
    if not request.mimetype and not request.content_length:
        raise ApiError("missing_image")
    raise ApiError("unsupported_media_type")


def _json(request: Request) -> dict[str, Any]:
    try:
        body = request.get_json()
    except BadRequest:
        raise ApiError("bad_request", "The body is no JSON that can be read.") from None
    if not isinstance(body, dict):
        raise ApiError("bad_request", "The body must be one JSON object.")
    return body


def _form(request: Request) -> dict[str, Any]:
    both = {**request.form.to_dict(), **request.files.to_dict()}
    # An empty field is what an HTML form sends for "none".
    return {name: value for name, value in both.items() if value != ""}


def load(schema: RemovalJson, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a schema reads from what was given.

    Raises:
        ApiError: one is unknown or wrong.
    """
    try:
        return dict(schema.load(given))
    except ValidationError as error:
        faults = error.normalized_messages()  # type: ignore[no-untyped-call] # marshmallow leaves it so
        raise from_validation({"body": faults}) from None


def build_submission(
    parameters: Mapping[str, Any],
    sources: Sources,
    owner: Owner,
    *,
    priority: Priority = Priority.NORMAL,
    batch_id: str | None = None,
) -> Submission:
    """What these parameters ask for; a file that one of them names is fetched now.

    Args:
        parameters: loaded by `RemovalForm` or `RemovalJson`.
        sources: the ways in.
        owner: whose it is to be.
        priority: where the parameters name none.
        batch_id: the batch that it belongs to.

    Raises:
        ApiError, InferenceError: they do not go together, or a picture cannot be had.
    """
    name = chosen_picture(parameters)
    # What can be judged without a picture comes first, and the picture before what is behind it.
    check_options(parameters)
    image = sources.open(name, parameters[name], owner)
    background = _open_background(parameters, sources, owner)
    digest = None if background is None else sha256_of(background.stream)
    return Submission(
        image=image,
        options=build_options(parameters, background_sha256=digest),
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


def chosen_picture(parameters: Mapping[str, Any]) -> str:
    """The one parameter that says which picture is meant.

    Raises:
        ApiError: there is none, or more than one.
    """
    given = [name for name in PICTURES if parameters.get(name) is not None]
    if not given:
        raise ApiError("missing_image", fields={"image": "There is no picture in the request."})
    if len(given) > 1:
        sentence = f"Send one picture in one way, not by {' and '.join(given)}."
        raise ApiError("invalid_parameter", sentence, fields=dict.fromkeys(given, sentence))
    return given[0]


def check_options(parameters: Mapping[str, Any]) -> None:
    """Judge how the result is to look, without a picture.

    Raises:
        InvalidOptionError: a value is wrong, or two do not go together.
    """
    build_options(parameters, background_sha256=_PROMISED if _has_background(parameters) else None)


def build_options(
    parameters: Mapping[str, Any], *, background_sha256: str | None = None
) -> Options:
    """How the result is to look.

    Args:
        parameters: loaded by `TaskParameters`.
        background_sha256: of the file that goes behind the subject.

    Raises:
        InvalidOptionError: a value is wrong, or two do not go together.
    """
    direct = ("quality", "refine", "crop", "max_side", "shadow_opacity")
    parsed: dict[str, Any] = {
        name: None if parameters[name] is None else parse(parameters[name])
        for name, parse in _PARSERS.items()
    }
    return Options(
        **{name: parameters[name] for name in direct},
        **parsed,
        background_sha256=background_sha256,
    )


def _has_background(parameters: Mapping[str, Any]) -> bool:
    return any(parameters.get(name) is not None for name in BACKGROUNDS)


def _open_background(
    parameters: Mapping[str, Any], sources: Sources, owner: Owner
) -> Upload | None:
    given = [name for name in BACKGROUNDS if parameters.get(name) is not None]
    if len(given) > 1:
        sentence = f"Name one background, not {' and '.join(given)}."
        raise ApiError("invalid_parameter", sentence, fields=dict.fromkeys(given, sentence))
    return sources.open(given[0], parameters[given[0]], owner) if given else None
