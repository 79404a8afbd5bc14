"""Reads a request into the parameters of a submission, and those into a `Submission`."""

from collections.abc import Mapping
from typing import Any, Final

from flask import Request
from marshmallow import ValidationError
from werkzeug.exceptions import BadRequest

from api.errors import ApiError
from api.failures import from_validation
from api.submission.parameters import RemovalForm, RemovalJson
from api.submission.sources import Sources
from api.submission.submission import Submission
from inference.options import Options, parse_color, parse_output_format
from tasks.jobs import Priority
from tasks.owners import Owner

#: The parameters of which exactly one says which picture is meant.
PICTURES: Final = ("image", "image_url", "image_b64", "upload_id")
_FORMS: Final = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


def read_parameters(request: Request) -> dict[str, Any]:
    """The checked parameters of a form or a JSON object.

    Raises:
        ApiError: the body is neither, or a parameter is unknown or wrong.
    """
    if request.is_json:
        return _load(RemovalJson(), _json(request))
    if request.mimetype in _FORMS:
        return _load(RemovalForm(), _form(request))
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


def _load(schema: RemovalJson, given: Mapping[str, Any]) -> dict[str, Any]:
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
    options = build_options(parameters)
    name = chosen_picture(parameters)
    return Submission(
        image=sources.open(name, parameters[name], owner),
        options=options,
        owner=owner,
        model=parameters["model"],
        priority=priority if parameters["priority"] is None else parameters["priority"],
        metadata=parameters["metadata"],
        webhook_url=parameters["webhook_url"],
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


def build_options(parameters: Mapping[str, Any]) -> Options:
    """How the result is to look.

    Raises:
        InvalidOptionError: a value is wrong, or two do not go together.
    """
    color = parameters["matte_color"]
    return Options(
        output_format=parse_output_format(parameters["output_format"]),
        matte_color=parse_color(color) if color else None,
        quality=parameters["quality"],
        refine=parameters["refine"],
    )
