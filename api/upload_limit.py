"""Refuses bodies that are too large before they are read into forms or files."""

from typing import Final

from flask import Flask, Response, request

from api.body import STREAMED
from api.envelope import failure
from api.errors import ApiError

#: The other parameters, and what separates them.
OVERHEAD_BYTES: Final = 2**20
#: A client that is still sending sees our answer only if we read what it sends; up to here.
_DRAIN_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 2**16


def too_large(length: int, limit: int, field: str = "image") -> ApiError:
    """The error for an upload of `length` bytes where `limit` are allowed."""
    sentence = f"The image is {length / 2**20:.1f} MB; the limit is {limit / 2**20:g} MB."
    return ApiError("image_too_large", sentence, fields={field: sentence})


def install_upload_limit(app: Flask, max_image_bytes: int) -> None:
    """Bound a request's body: the largest image in base64, a background file, and some words."""
    text = -(-max_image_bytes // 3) * 4 + OVERHEAD_BYTES
    most = text + max_image_bytes
    app.config["MAX_CONTENT_LENGTH"] = most
    # Flask's own 500 kB for a form's text would refuse an image in base64.
    app.config["MAX_FORM_MEMORY_SIZE"] = text

    @app.before_request
    def _refuse() -> Response | None:
        length = request.content_length
        if length is None or length <= most or request.blueprint in STREAMED:
            return None
        _drain(min(length, _DRAIN_BYTES))
        return failure(too_large(length, max_image_bytes))


def _drain(length: int) -> None:
    body = request.environ["wsgi.input"]
    while length > 0:
        piece = body.read(min(_CHUNK_BYTES, length))
        if not piece:
            return
        length -= len(piece)
