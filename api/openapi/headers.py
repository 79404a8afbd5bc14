"""The headers of answers."""

from types import MappingProxyType
from typing import Any, Final

_TEXT: Final = {"type": "string"}

HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {
        "description": "Names this request in every log line; the caller's own, if it sent one.",
        "required": True,
        "schema": _TEXT,
        "example": "req-5b1f0c9a7e3d2468",
    },
    "Location": {
        "description": "Where to go on.",
        "required": True,
        "schema": {"type": "string"},
        "example": "http://127.0.0.1:8000/api/v1/tasks/rm-20261122-8w3kq5t7y2m4n6p9r2s4",
    },
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer"},
        "example": 5,
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "required": True,
        "schema": _TEXT,
        "example": "Bearer",
    },
    "RateLimit-Policy": {
        "description": "The key's quota `q` in `w` seconds; only for a key that has one.",
        "schema": _TEXT,
        "example": '"pictures";q=60;w=60',
    },
    "RateLimit": {
        "description": "What is left, `r`, and the seconds `t` until the quota is full again.",
        "schema": _TEXT,
        "example": '"pictures";r=59;t=1',
    },
    "Preference-Applied": {
        "description": "How long the answer was allowed to take; only if the client would wait.",
        "schema": _TEXT,
        "example": "wait=5",
    },
    "Idempotency-Replayed": {
        "description": "true: the task was made by an earlier request under the same key.",
        "schema": _TEXT,
        "example": "true",
    },
}

#: Headers of answers by HTTP status, beside the request's id.
BY_STATUS: Final = MappingProxyType(
    {
        "201": ("Location",),
        "202": (
            "Location",
            "RateLimit-Policy",
            "RateLimit",
            "Preference-Applied",
            "Idempotency-Replayed",
        ),
        "302": ("Location",),
        "401": ("WWW-Authenticate",),
        "409": ("Retry-After",),
        "429": ("Retry-After", "RateLimit-Policy", "RateLimit"),
        "503": ("Retry-After",),
    }
)


def of_status(status: str) -> dict[str, Any]:
    """References to the headers of an answer."""
    names = ("X-Request-Id", *BY_STATUS.get(status, ()))
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
