"""The headers of tus 1.0.0 (https://tus.io/protocols/resumable-upload), and their description."""

import base64
import hashlib
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

from werkzeug.datastructures import Headers

from api.errors import ApiError
from tasks.uploads.service import Checksum
from tasks.uploads.store import ResumableUpload

VERSION: Final = "1.0.0"
_EXTENSIONS: Final = "creation,creation-with-upload,expiration,termination,checksum"
CHUNK_TYPE: Final = "application/offset+octet-stream"
_MAX_METADATA: Final = 4096
_ALGORITHMS: Final = ("sha1", "sha256", "sha512", "md5")
_MAX_DIGITS: Final = 15


def capabilities(max_bytes: int) -> dict[str, str]:
    """Return the headers of the answer to OPTIONS."""
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": _EXTENSIONS,
        "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(_ALGORITHMS),
    }


def check_version(headers: Headers) -> None:
    """Raise `ApiError` unless the client speaks this version of the protocol."""
    if headers.get("Tus-Resumable") != VERSION:
        raise ApiError(
            "tus_version", f"Send the header `Tus-Resumable: {VERSION}`; no other version is known."
        )


def number(headers: Headers, name: str) -> int:
    """Return the number of bytes that a header holds.

    Raises:
        ApiError: it is missing, or no number.
    """
    text = headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        sentence = f"The header `{name}` must hold a number of bytes."
        raise ApiError("bad_request", sentence, fields={name: sentence})
    return int(text)


def length(headers: Headers, max_bytes: int) -> int:
    """Return the length of the whole file.

    Raises:
        ApiError: it is not given, or exceeds the limit.
    """
    if "Upload-Defer-Length" in headers:
        raise ApiError("bad_request", "Deferred lengths are not supported: send `Upload-Length`.")
    found = number(headers, "Upload-Length")
    if found > max_bytes:
        raise ApiError(
            "upload_too_large",
            f"The file has {found / 2**20:.1f} MB; the limit is {max_bytes / 2**20:g} MB.",
        )
    return found


def metadata(headers: Headers) -> dict[str, str]:
    """Parse `Upload-Metadata`: names, each with a text in base64 or nothing.

    Raises:
        ApiError: it is too long, or cannot be read.
    """
    given = headers.get("Upload-Metadata", "")
    if len(given) > _MAX_METADATA:
        raise ApiError("bad_request", f"`Upload-Metadata` may have {_MAX_METADATA} characters.")
    try:
        pairs = (part.strip().partition(" ") for part in given.split(",") if part.strip())
        return {name: _decode(text).decode("utf-8", "replace") for name, _, text in pairs}
    except ValueError:
        sentence = (
            "`Upload-Metadata` must hold names, each with a value in base64: `filename Y2F0`."
        )
        raise ApiError("bad_request", sentence) from None


def _decode(text: str) -> bytes:
    return base64.b64decode(text.strip(), validate=True)


def checksum(headers: Headers) -> Checksum | None:
    """Parse `Upload-Checksum`, if given: an algorithm and a digest in base64.

    Raises:
        ApiError: the algorithm is not known, or the digest cannot be read.
    """
    given = headers.get("Upload-Checksum")
    if given is None:
        return None
    algorithm, _, text = given.strip().partition(" ")
    if algorithm not in _ALGORITHMS:
        raise ApiError("bad_request", f"`Upload-Checksum` takes {', '.join(_ALGORITHMS)}.")
    try:
        digest = _decode(text)
    except ValueError:
        raise ApiError("bad_request", "`Upload-Checksum` must end with base64.") from None
    return Checksum(hashlib.new(algorithm, usedforsecurity=False), digest)


def state(upload: ResumableUpload) -> dict[str, str]:
    """Return the headers that state an upload's offset and expiry."""
    return {
        "Upload-Offset": str(upload.offset),
        "Upload-Expires": format_datetime(
            datetime.fromtimestamp(upload.expires_at, UTC), usegmt=True
        ),
    }


# -- For the OpenAPI document ---------------------------------------------------------------------

_BYTES: Final = {"type": "integer", "minimum": 0}


def _header(
    name: str, description: str, schema: dict[str, Any], *, example: object, required: bool = False
) -> dict[str, Any]:
    return {
        "in": "header",
        "name": name,
        "description": description,
        "schema": schema,
        "example": example,
        "required": required,
    }


VERSION_HEADER: Final = _header(
    "Tus-Resumable",
    "The protocol's version.",
    {"type": "string", "enum": [VERSION]},
    example=VERSION,
    required=True,
)
_LENGTH: Final = _header(
    "Upload-Length", "Bytes of the whole file.", _BYTES, example=7_340_032, required=True
)
_METADATA: Final = _header(
    "Upload-Metadata",
    "Names, each with a value in base64; `filename` names the download.",
    {"type": "string"},
    example="filename Y2hhaXIuanBn",
)
_OFFSET: Final = _header(
    "Upload-Offset", "Bytes that have come so far.", _BYTES, example=4_194_304, required=True
)
_CHECKSUM: Final = _header(
    "Upload-Checksum",
    "An algorithm (md5, sha1, sha256, sha512) and the piece's digest in base64.",
    {"type": "string"},
    example="sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
)
_OVERRIDE: Final = _header(
    "X-HTTP-Method-Override",
    "The method that is meant.",
    {"type": "string", "enum": ["PATCH", "DELETE", "HEAD"]},
    example="PATCH",
    required=True,
)
_CHUNK: Final = {
    "description": "The piece's bytes.",
    "content": {CHUNK_TYPE: {"schema": {"type": "string", "format": "binary"}}},
}

_KEY: Final = _header(
    "Idempotency-Key",
    "1 to 255 visible characters, bare or quoted. For 24 hours, the same key, length and metadata "
    "are answered with the same upload (`Idempotency-Replayed: true`).",
    {"type": "string", "pattern": r"^[!#-\[\]-~]{1,255}$"},
    example="order-17-upload",
)

CREATE_DOC: Final[dict[str, Any]] = {
    "parameters": [VERSION_HEADER, _LENGTH, _METADATA, _CHECKSUM, _KEY],
    "requestBody": {**_CHUNK, "required": False},
}
STATUS_DOC: Final[dict[str, Any]] = {"parameters": [VERSION_HEADER]}
APPEND_DOC: Final[dict[str, Any]] = {
    "parameters": [VERSION_HEADER, _OFFSET, _CHECKSUM],
    "requestBody": {**_CHUNK, "required": True},
}
OVERRIDE_DOC: Final[dict[str, Any]] = {
    "parameters": [VERSION_HEADER, _OVERRIDE, {**_OFFSET, "required": False}, _CHECKSUM],
    "requestBody": {**_CHUNK, "required": False},
}

CREATE_ERRORS: Final = (
    "bad_request",
    "tus_version",
    "storage_quota_exceeded",
    "too_many_uploads",
    "upload_too_large",
    "upload_too_long",
    "upload_offset_mismatch",
    "upload_expired",
    "checksum_mismatch",
    "idempotency_in_progress",
    "idempotency_mismatch",
    "gone",
    "store_unavailable",
    "store_full",
)
STATUS_ERRORS: Final = ("tus_version", "upload_expired")
TERMINATE_ERRORS: Final = (*STATUS_ERRORS, "upload_locked", "store_unavailable")
APPEND_ERRORS: Final = (
    *TERMINATE_ERRORS,
    "bad_request",
    "upload_offset_mismatch",
    "upload_too_long",
    "checksum_mismatch",
    "store_full",
)
OVERRIDE_ERRORS: Final = (*APPEND_ERRORS, "method_not_allowed")
