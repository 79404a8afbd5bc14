"""remove.bg's answers: the result as bytes or JSON with its headers, and the error format.

Errors are `{"errors": [{"title", "code", "detail"?}]}`; each value is a plain string.
"""

import base64
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from flask import Request, Response, jsonify

from api.errors import ApiError
from api.rate_limits import RateLimitResult
from inference.options import OutputFormat
from tasks.jobs.job import Job

#: Titles that are not the code in words.
_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing_source": "No image given",
        "multiple_sources": "Multiple image sources given",
        "multiple_bg_sources": "Multiple background sources given",
        "invalid_dimensions": "Invalid image dimensions",
        "resolution_too_high": "Image resolution too high",
        "failed_image_download": "Failed to download the image",
        "failed_bg_download": "Failed to download the background image",
        "roi_exceeds_bounds": "The region of interest exceeds the image",
        "roi_region_empty": "The region of interest is empty",
        "unknown_foreground": "Could not identify foreground in image",
        "auth_failed": "API Key invalid",
        "not_finished": "The image is still being processed",
        "internal_error": "Something went wrong",
    }
)

_OF_TYPE: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "bad_request": (400, "bad_request"),
        "unsupported_media_type": (400, "bad_request"),
        "missing_image": (400, "missing_source"),
        "empty_image": (400, "failed_to_read_image"),
        "payload_too_large": (400, "file_too_large"),
        "image_too_large": (400, "file_too_large"),
        "too_many_pixels": (400, "resolution_too_high"),
        "unsupported_format": (400, "invalid_file_type"),
        "invalid_image": (400, "failed_to_read_image"),
        "invalid_background": (400, "failed_to_read_image"),
        "image_too_small": (400, "invalid_dimensions"),
        "side_too_long": (400, "invalid_dimensions"),
        "image_too_complex": (400, "failed_to_read_image"),
        "roi_exceeds_bounds": (400, "roi_exceeds_bounds"),
        "roi_region_empty": (400, "roi_region_empty"),
        "unauthorized": (403, "auth_failed"),
        "rate_limited": (429, "rate_limit_exceeded"),
        "too_many_waiting": (429, "rate_limit_exceeded"),
        "too_many_fetches": (429, "rate_limit_exceeded"),
        "too_many_pending": (429, "too_many_pending"),
        # 403 would read as a key that is not valid, and 402 as a bill.
        "storage_quota_exceeded": (429, "storage_quota_exceeded"),
    }
)

#: When to come again after 429 if nobody knows; clients count on being told.
_EXPIRY_SECONDS: Final = 600

#: remove.bg's names of parameters, by this service's.
_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType(
    {"matte_color": "bg_color", "output_format": "format", "shadow": "shadow_type"}
)


class RemoveBgError(Exception):
    """Ends a request with one of remove.bg's errors."""

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        status: int = 400,
        title: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.code = code
        self.status = status
        self.title = title or _TITLES.get(code) or code.replace("_", " ").capitalize()
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(self.title)


def invalid_parameter(parameter: str, detail: str) -> RemoveBgError:
    """Return the error for an invalid parameter, given by remove.bg's or this service's name."""
    name = _PARAMETERS.get(parameter, parameter)
    return RemoveBgError(f"invalid_{name}", detail, title=f"Invalid {name} parameter given")


def error_of_type(name: str, detail: str) -> RemoveBgError:
    """Return the error for one of this service's types; `internal_error` if none matches."""
    status, code = _OF_TYPE.get(name, (500, "internal_error"))
    return RemoveBgError(code, detail, status=status)


def translate_error(error: ApiError) -> RemoveBgError:
    """Translate an `ApiError` into remove.bg's error."""
    name, detail = error.row.type, str(error)
    if name == "invalid_parameter":
        return invalid_parameter(next(iter(error.fields), "request"), detail)
    if name in _OF_TYPE:
        translated = error_of_type(name, detail)
        wait = _EXPIRY_SECONDS if translated.status == HTTPStatus.TOO_MANY_REQUESTS else None
        translated.retry_after = error.retry_after or wait
        return translated
    return RemoveBgError(name, status=error.row.status, title=detail, retry_after=error.retry_after)


def error_response(error: RemoveBgError) -> Response:
    """Make the response for an error."""
    body = {"title": error.title, "code": error.code}
    if error.detail is not None and error.detail != error.title:
        body["detail"] = error.detail
    response = jsonify({"errors": [body]})
    response.status_code = error.status
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, error.retry_after))
    return response


_JSON = "application/json"

#: Nothing is charged; some clients parse the number.
_CREDITS = "0.0"


def wants_json(request: Request) -> bool:
    """Return whether JSON is asked for by name.

    A header that also takes anything (`*/*`), as many HTTP libraries send, means bytes.
    """
    accepted = request.accept_mimetypes
    return not any(kind == "*/*" for kind, _ in accepted) and accepted.best == _JSON


def success_response(data: bytes, job: Job, *, as_json: bool) -> Response:
    """Make the response with the result, as bytes or JSON."""
    if as_json:
        return jsonify({"data": {"result_b64": base64.b64encode(data).decode(), **_box(job)}})
    return Response(data, mimetype=OutputFormat(job.format or "png").media_type)


def _box(job: Job) -> dict[str, int]:
    box = job.foreground or {}
    return {f"foreground_{side}": box.get(side, 0) for side in ("top", "left", "width", "height")}


def fact_headers(job: Job, detected: str | None) -> dict[str, str]:
    """Return the headers that describe a result."""
    facts: dict[str, object] = {
        "X-Width": job.width,
        "X-Height": job.height,
        "X-Max-Width": job.full_width or job.width,
        "X-Max-Height": job.full_height or job.height,
        "X-Credits-Charged": _CREDITS,
        "X-Type": detected,
        **{f"X-{name.replace('_', '-').title()}": value for name, value in _box(job).items()},
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def rate_headers(allowance: RateLimitResult, now: float) -> dict[str, str]:
    """Return the headers that state the rest of the caller's megapixels."""
    return {
        "X-RateLimit-Limit": str(int(allowance.rate.quota)),
        "X-RateLimit-Remaining": str(int(allowance.left)),
        "X-RateLimit-Reset": str(int(now) + allowance.reset_after),
    }
