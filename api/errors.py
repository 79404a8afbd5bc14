"""The table of errors: the stable name, number, HTTP status and text of each error a caller sees.

`code` is the HTTP status times 100 plus a number that never changes its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from werkzeug.exceptions import HTTPException

from inference.errors import InferenceError, InvalidOptionError


@dataclass(frozen=True, slots=True)
class ErrorType:
    """A row of the table of errors.

    Attributes:
        type: its stable name.
        status: of HTTP.
        number: tells the errors of a status apart.
        message: the sentence for people; an `ApiError` may bring one that says more.
        retry_after: seconds after which the request may be sent again, where that is always so.
    """

    type: str
    status: int
    number: int
    message: str
    retry_after: int | None = None

    @property
    def code(self) -> int:
        """HTTP status × 100 + number."""
        return self.status * 100 + self.number


_ROWS: Final = (
    ErrorType("bad_request", 400, 0, "The request cannot be read."),
    ErrorType(
        "missing_image",
        400,
        1,
        "Send a picture: as the form field `image`, or by image_url, image_b64 or upload_id.",
    ),
    ErrorType("empty_image", 400, 2, "The picture is empty."),
    ErrorType("unauthorized", 401, 0, "An API key is needed."),
    ErrorType("forbidden", 403, 0, "That is not allowed."),
    ErrorType(
        "origin_not_allowed",
        403,
        1,
        "Web pages of another origin may not call this service without an API key; the operator "
        "can name yours in RMBG_CORS_ORIGINS.",
    ),
    ErrorType(
        "storage_quota_exceeded",
        403,
        2,
        "Your storage quota is used up; erase tasks or end uploads, or wait until they expire.",
    ),
    ErrorType(
        "operators_only",
        403,
        3,
        "This is for operators: send a key made with `rmbg keys add NAME --operator`. Without any "
        "key, only this machine's own programs may call it, at a loopback name.",
    ),
    ErrorType("not_found", 404, 0, "No such endpoint."),
    ErrorType("task_not_found", 404, 1, "There is no such task, or it has been erased."),
    ErrorType("upload_not_found", 404, 2, "There is no such upload, or it has been ended."),
    ErrorType("batch_not_found", 404, 3, "There is no such batch, or it has been erased."),
    ErrorType("delivery_not_found", 404, 4, "The task has no webhook of that number."),
    ErrorType("worker_not_found", 404, 5, "There is no worker of that name."),
    ErrorType("webhook_not_found", 404, 6, "There is no such webhook, or its task has expired."),
    ErrorType("method_not_allowed", 405, 0, "This address does not take that method."),
    ErrorType("not_acceptable", 406, 0, "None of the media types in `Accept` is available."),
    ErrorType(
        "request_too_slow",
        408,
        0,
        "The request's body arrived too slowly; send it again over a faster line.",
    ),
    ErrorType("conflict", 409, 0, "The current state does not allow this request."),
    ErrorType("task_not_finished", 409, 1, "The task has not finished yet.", retry_after=1),
    ErrorType("task_failed", 409, 2, "The task failed; it has no result."),
    ErrorType("task_canceled", 409, 5, "The task was canceled; it has no result."),
    ErrorType("task_finished", 409, 6, "The task has finished; it cannot be canceled."),
    ErrorType("upload_offset_mismatch", 409, 3, "The piece does not begin where the upload ends."),
    ErrorType("upload_unfinished", 409, 4, "Some of the upload is still missing."),
    ErrorType(
        "batch_not_finished", 409, 10, "Some of the batch's tasks are not done yet.", retry_after=1
    ),
    ErrorType("batch_finished", 409, 11, "The batch is done; it cannot be canceled."),
    ErrorType("batch_empty", 409, 12, "None of the batch's pictures was cut out."),
    ErrorType(
        "idempotency_in_progress",
        409,
        7,
        "A request with this Idempotency-Key is still being accepted; send it again after "
        "Retry-After.",
    ),
    ErrorType("worker_not_drained", 409, 13, "The worker is not drained: nothing to do."),
    ErrorType("not_requeueable", 409, 14, "Only failed and canceled tasks can be queued again."),
    ErrorType("not_dead", 409, 15, "The task is no dead letter."),
    ErrorType("webhook_ended", 409, 16, "Only pending and dead webhooks can be dropped."),
    ErrorType("gone", 410, 0, "What was here has been removed."),
    ErrorType("task_expired", 410, 1, "The task's pictures have expired."),
    ErrorType("upload_expired", 410, 2, "The upload has expired; start a new one."),
    ErrorType("batch_expired", 410, 3, "The batch's pictures have expired."),
    ErrorType("tus_version", 412, 1, "Send `Tus-Resumable: 1.0.0`."),
    ErrorType("payload_too_large", 413, 0, "The request is too large."),
    ErrorType("image_too_large", 413, 1, "The image's file is too large."),
    ErrorType("too_many_pixels", 413, 2, "The image has too many pixels."),
    ErrorType("batch_too_large", 413, 5, "The batch has too many pictures."),
    ErrorType("side_too_long", 413, 6, "A side of the image is too long."),
    ErrorType("unsupported_media_type", 415, 0, "Send multipart/form-data or application/json."),
    ErrorType("upload_too_large", 413, 3, "The file exceeds the size limit of uploads."),
    ErrorType("upload_too_long", 413, 4, "The piece goes beyond the upload's length."),
    ErrorType("unsupported_format", 415, 1, "This kind of file is not accepted."),
    ErrorType(
        "host_not_trusted",
        421,
        0,
        "The header Host does not name this service. Call it by 127.0.0.1 or localhost; the "
        "operator can name other hosts in RMBG_TRUSTED_HOSTS or RMBG_PUBLIC_URL, or make API keys.",
    ),
    ErrorType("invalid_parameter", 422, 1, "A parameter is out of its range."),
    ErrorType("unknown_parameter", 422, 2, "A parameter is not known."),
    ErrorType(
        "idempotency_mismatch",
        422,
        3,
        "This Idempotency-Key was used for another request; use a new key for a new one.",
    ),
    ErrorType("invalid_image", 422, 10, "The file cannot be read as a picture."),
    ErrorType("image_too_small", 422, 11, "The image is too small to hold a subject."),
    ErrorType("image_too_complex", 422, 12, "Decoding the image would take too much work."),
    ErrorType("url_not_allowed", 422, 20, "The address may not be called from here."),
    ErrorType("url_unreachable", 422, 21, "The address cannot be fetched."),
    ErrorType("url_timeout", 422, 22, "The address took too long to answer."),
    ErrorType("too_many_requests", 429, 0, "Too many requests; try again later."),
    ErrorType("rate_limited", 429, 1, "Your key's quota is used up; try again shortly."),
    ErrorType(
        "too_many_waiting",
        429,
        2,
        "Too many requests of yours wait for a task's end; wait for fewer at once.",
        retry_after=5,
    ),
    ErrorType(
        "too_many_fetches",
        429,
        3,
        "Too many pictures are being fetched for you; send fewer addresses at once, or the files.",
        retry_after=5,
    ),
    ErrorType(
        "too_many_uploads",
        429,
        4,
        "You have too many uploads; finish or end some, or wait until they expire.",
        retry_after=30,
    ),
    ErrorType(
        "too_many_pending",
        429,
        5,
        "You have too many jobs queued or running; try again when some have ended.",
        retry_after=30,
    ),
    ErrorType(
        "too_many_downloads",
        429,
        6,
        "Too many downloads of yours run; read those to their end, or follow the signed URLs.",
        retry_after=5,
    ),
    ErrorType("upload_locked", 423, 0, "Another request is writing to this upload; try again."),
    ErrorType("checksum_mismatch", 460, 0, "Checksum mismatch; send this chunk again."),
    ErrorType("internal_error", 500, 0, "Internal error; the service's log names the cause."),
    ErrorType("task_unreadable", 500, 1, "The task's record is damaged; contact the operator."),
    ErrorType(
        "queue_unavailable", 503, 1, "The queue does not answer; try again shortly.", retry_after=5
    ),
    ErrorType(
        "store_unavailable",
        503,
        2,
        "The object store does not answer; try again shortly.",
        retry_after=5,
    ),
    ErrorType("queue_full", 503, 4, "Too many jobs are waiting; try again shortly.", retry_after=5),
    # Room comes back as pictures expire, or when an operator makes some.
    ErrorType(
        "store_full",
        503,
        5,
        "The service has no room for more pictures; nothing was kept. Try again in some minutes.",
        retry_after=60,
    ),
    ErrorType(
        "too_many_bodies",
        503,
        6,
        "Too many large requests are being sent at once; send yours again shortly, and fewer of "
        "them at once.",
        retry_after=5,
    ),
    ErrorType("not_ready", 503, 3, "The service is not ready.", retry_after=2),
)

#: Every error by its stable name.
ERRORS: Final[Mapping[str, ErrorType]] = MappingProxyType({row.type: row for row in _ROWS})
#: The general error of an HTTP status, for the exceptions of Flask and Werkzeug.
BY_STATUS: Final[Mapping[int, ErrorType]] = MappingProxyType(
    {row.status: row for row in _ROWS if row.number == 0}
)


class ApiError(Exception):
    """Ends a request with a row of the table of errors.

    Args:
        error_type: names the row.
        message: in place of the row's.
        fields: what is wrong with each parameter or header.
        retry_after: in place of the row's.
    """

    def __init__(
        self,
        error_type: str,
        message: str | None = None,
        *,
        fields: Mapping[str, str] | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.row = ERRORS[error_type]
        super().__init__(message or self.row.message)
        self.fields = dict(fields or {})
        self.retry_after = self.row.retry_after if retry_after is None else retry_after


_UNKNOWN: Final = "Unknown field."
#: Number of unknown parameters that an answer names; it counts the others.
_MOST_NAMED: Final = 10
#: Number of characters that an answer shows of a name that a caller made up.
MAX_SHOWN_NAME: Final = 60


def from_http(error: HTTPException) -> ApiError:
    """Return the error for an HTTP exception; one without a row is `bad_request` or internal."""
    status = error.code or 500
    messages = getattr(error, "data", {}).get("messages", {})
    if messages:
        return from_validation(messages)
    row = BY_STATUS.get(status) or BY_STATUS[400 if status < 500 else 500]  # noqa: PLR2004
    return ApiError(row.type)


def from_validation(messages: Mapping[str, Any]) -> ApiError:
    """Return the error for what a schema found; `messages` is location → field → faults."""
    fields = {
        name: _sentence(faults)
        for by_field in messages.values()
        if isinstance(by_field, Mapping)
        for name, faults in by_field.items()
    }
    unknown = sorted(name for name, fault in fields.items() if fault == _UNKNOWN)
    if unknown:
        named = [name[:MAX_SHOWN_NAME] for name in unknown[:_MOST_NAMED]]
        others = len(unknown) - len(named)
        listed = ", ".join(named) + (f", and {others} more" if others else "")
        return ApiError(
            "unknown_parameter",
            f"Not a parameter of this request: {listed}. Check its spelling.",
            fields=dict.fromkeys(named, "Not a parameter of this request."),
        )
    if "image" in fields:
        return ApiError("missing_image", fields={"image": "Send the picture as a file."})
    listed = " ".join(f"{name}: {fault}" for name, fault in sorted(fields.items()))
    return ApiError("invalid_parameter", listed or None, fields=fields)


def _sentence(faults: object) -> str:
    return " ".join(map(str, faults)) if isinstance(faults, list) else str(faults)


def from_inference(error: InferenceError) -> ApiError:
    """Return the error for a picture or an option that cannot be used."""
    field = error.field if isinstance(error, InvalidOptionError) else "image"
    # An error class without a row, such as `roi_region_empty`, is answered as its nearest base
    # class that has one.
    codes = (each.code for each in type(error).__mro__ if issubclass(each, InferenceError))
    name = next((code for code in codes if code in ERRORS), "internal_error")
    return ApiError(name, str(error), fields={field: str(error)})
