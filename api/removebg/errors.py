"""remove.bg's errors: `{"errors": [{"title", "code", "detail"?}]}`, each value a plain string."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from flask import Response, jsonify

from api.errors import ApiError

_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing_source": "No image given",
        "multiple_sources": "Multiple image sources given",
        "multiple_bg_sources": "Multiple background sources given",
        "file_too_large": "File too large",
        "invalid_file_type": "Invalid file type",
        "invalid_dimensions": "Invalid image dimensions",
        "resolution_too_high": "Image resolution too high",
        "failed_to_read_image": "Failed to read image",
        "failed_image_download": "Failed to download the image",
        "failed_bg_download": "Failed to download the background image",
        "invalid_image_url": "Invalid image_url parameter given",
        "invalid_bg_image_url": "Invalid bg_image_url parameter given",
        "roi_exceeds_bounds": "The region of interest exceeds the image",
        "roi_region_empty": "The region of interest is empty",
        "unknown_foreground": "Could not identify foreground in image",
        "insufficient_credits": "Insufficient credits",
        "rate_limit_exceeded": "Rate limit exceeded",
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
        "roi_exceeds_bounds": (400, "roi_exceeds_bounds"),
        "roi_region_empty": (400, "roi_region_empty"),
        "unauthorized": (403, "auth_failed"),
        "rate_limited": (429, "rate_limit_exceeded"),
    }
)
#: This service's names of parameters that have another one there.
_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType(
    {"matte_color": "bg_color", "output_format": "format", "shadow": "shadow_type"}
)


class RemoveBgError(Exception):
    """Ends a request in remove.bg's way."""

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


def invalid(parameter: str, detail: str) -> RemoveBgError:
    """A parameter, by remove.bg's or this service's name, has a value that will not do."""
    name = _PARAMETERS.get(parameter, parameter)
    return RemoveBgError(f"invalid_{name}", detail, title=f"Invalid {name} parameter given")


def of_type(name: str, detail: str) -> RemoveBgError:
    """The error for one of this service's own, by its type; one with no match is our fault."""
    status, code = _OF_TYPE.get(name, (500, "internal_error"))
    return RemoveBgError(code, detail, status=status)


def translate(error: ApiError) -> RemoveBgError:
    """An error of the shared code in remove.bg's words."""
    name, detail = error.row.type, str(error)
    if name == "invalid_parameter":
        return invalid(next(iter(error.fields), "request"), detail)
    if name in _OF_TYPE:
        translated = of_type(name, detail)
        translated.retry_after = error.retry_after
        return translated
    return RemoveBgError(name, status=error.row.status, title=detail, retry_after=error.retry_after)


def answer(error: RemoveBgError) -> Response:
    """An error as a response."""
    body = {"title": error.title, "code": error.code}
    if error.detail is not None and error.detail != error.title:
        body["detail"] = error.detail
    response = jsonify({"errors": [body]})
    response.status_code = error.status
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, error.retry_after))
    return response
