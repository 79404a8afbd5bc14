"""Turns every exception, Flask's and webargs' own too, into a row of the error table."""

from collections.abc import Mapping
from typing import Any, Final

import structlog
from flask import Flask, Response, jsonify
from flask_smorest import Api
from werkzeug.exceptions import HTTPException

from api.envelope import failure
from api.errors import BY_STATUS, ERRORS, ApiError
from api.openapi.document import complete
from api.schemas import ErrorEnvelope
from inference.errors import InferenceError, InvalidOptionError
from tasks.errors import (
    QueueFullError,
    QueueUnavailableError,
    StoreUnavailableError,
    UnreadableRecordError,
)
from tasks.uploads.errors import UploadError

_log = structlog.get_logger(__name__)
_RETRY_AFTER_SECONDS: Final = 5
_UNKNOWN: Final = "Unknown field."


class EnvelopeApi(Api):  # type: ignore[misc] # flask-smorest publishes no types
    """flask-smorest's `Api`, answering errors in this project's envelope."""

    ERROR_SCHEMA = ErrorEnvelope
    #: No "any other answer": each is documented by name.
    DEFAULT_ERROR_RESPONSE_NAME = None

    def _openapi_json(self) -> Response:
        return jsonify(self.document())

    def document(self) -> dict[str, Any]:
        """The complete OpenAPI document."""
        if "ErrorEnvelope" not in self.spec.components.schemas:
            self.spec.components.schema("ErrorEnvelope", schema=ErrorEnvelope)
        return complete(self.spec.to_dict())

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Answer Flask's, Werkzeug's and webargs' exceptions."""
        answer = failure(from_http(error))
        for name, value in error.get_headers():
            if name in {"Allow", "Location"}:
                answer.headers[name] = value
        return answer


def from_http(error: HTTPException) -> ApiError:
    """The row for an HTTP exception; a status without a row is a bad request or our fault."""
    status = error.code or 500
    messages = getattr(error, "data", {}).get("messages", {})
    if messages:
        return from_validation(messages)
    row = BY_STATUS.get(status) or BY_STATUS[400 if status < 500 else 500]  # noqa: PLR2004
    return ApiError(row.type)


def from_validation(messages: Mapping[str, Any]) -> ApiError:
    """The row for what a schema found; `messages` is location → field → faults."""
    fields = {
        name: _sentence(faults)
        for by_field in messages.values()
        if isinstance(by_field, Mapping)
        for name, faults in by_field.items()
    }
    unknown = sorted(name for name, fault in fields.items() if fault == _UNKNOWN)
    if unknown:
        return ApiError(
            "unknown_parameter",
            f"Not a parameter of this request: {', '.join(unknown)}. Check its spelling.",
            fields=dict.fromkeys(unknown, "Not a parameter of this request."),
        )
    if "image" in fields:
        return ApiError("missing_image", fields={"image": "Send the picture as a file."})
    listed = " ".join(f"{name}: {fault}" for name, fault in sorted(fields.items()))
    return ApiError("invalid_parameter", listed or None, fields=fields)


def _sentence(faults: object) -> str:
    return " ".join(map(str, faults)) if isinstance(faults, list) else str(faults)


def install_error_handlers(app: Flask) -> None:
    """Answer the project's own exceptions, and whatever nobody foresaw."""

    @app.errorhandler(ApiError)
    def _api(error: ApiError) -> Response:
        return failure(error)

    @app.errorhandler(InferenceError)
    def _inference(error: InferenceError) -> Response:
        return failure(from_inference(error))

    @app.errorhandler(UploadError)
    def _upload(error: UploadError) -> Response:
        return failure(ApiError(error.code, str(error)))

    @app.errorhandler(QueueFullError)
    @app.errorhandler(QueueUnavailableError)
    @app.errorhandler(StoreUnavailableError)
    def _unavailable(
        error: QueueFullError | QueueUnavailableError | StoreUnavailableError,
    ) -> Response:
        _log.warning("request.not_accepted", reason=str(error))
        return failure(ApiError(error.code, retry_after=_RETRY_AFTER_SECONDS))

    @app.errorhandler(UnreadableRecordError)
    def _unreadable(error: UnreadableRecordError) -> Response:
        _log.error("record.unreadable", task_id=error.task_id, reason=error.reason)
        return failure(ApiError("task_unreadable"))

    @app.errorhandler(Exception)
    def _unforeseen(_error: Exception) -> Response:
        _log.exception("request.crashed")
        return failure(ApiError("internal_error"))


def from_inference(error: InferenceError) -> ApiError:
    """The row for a picture or an option that cannot be used."""
    field = error.field if isinstance(error, InvalidOptionError) else "image"
    name = error.code if error.code in ERRORS else "internal_error"
    return ApiError(name, str(error), fields={field: str(error)})
