"""Which web pages of other origins may call the API from a browser."""

from typing import Final

from flask import Flask
from flask_cors import CORS

#: Answers' headers that such a page may read.
_EXPOSED: Final = (
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Offset",
    "X-Request-Id",
)
_PREFLIGHT_SECONDS: Final = 3600


def install_cors(app: Flask, origins: tuple[str, ...]) -> None:
    """Let the pages of these origins in; none but the service's own by default."""
    if origins:
        CORS(
            app,
            resources={r"/api/*": {"origins": list(origins)}},
            expose_headers=list(_EXPOSED),
            max_age=_PREFLIGHT_SECONDS,
        )
