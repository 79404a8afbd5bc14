"""The one shape of every answer, and the request id that goes with it."""

import re
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from flask import Flask, Response, current_app, g, jsonify, request

from api.errors import ApiError

_SHAPES: Final = "rmbg-failure-shapes"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def success(data: object) -> dict[str, Any]:
    """`data` in the envelope, for a schema made by `schemas.envelope`."""
    return {"code": 0, "message": "success", "data": data, "request_id": request_id()}


def shape_failures(app: Flask, prefix: str, shape: Callable[[ApiError], Response]) -> None:
    """Have all errors of addresses below a prefix answered in another shape."""
    app.extensions.setdefault(_SHAPES, {})[prefix] = shape


def failure(error: ApiError) -> Response:
    """An error under its own HTTP status, in the envelope or the shape of the address asked."""
    for prefix, shape in current_app.extensions.get(_SHAPES, {}).items():
        if request.path.startswith(prefix):
            return cast("Response", shape(error))
    return _enveloped(error)


def _enveloped(error: ApiError) -> Response:
    body: dict[str, Any] = {
        "code": error.row.code,
        "message": str(error),
        "data": None,
        "error": {"type": error.row.type, "fields": error.fields},
        "request_id": request_id(),
    }
    answer = jsonify(body)
    answer.status_code = error.row.status
    if error.row.status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def request_id() -> str:
    """This request's id: the caller's own if it is a plain word, else a fresh one."""
    if "request_id" not in g:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _REQUEST_ID.match(given) else f"req-{secrets.token_hex(8)}"
    return str(g.request_id)


def install_request_ids(app: Flask) -> None:
    """Bind the id to every log line of a request, and return it in a header."""

    @app.before_request
    def _bind() -> None:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id())

    @app.after_request
    def _return(response: Response) -> Response:
        response.headers["X-Request-Id"] = request_id()
        return response
