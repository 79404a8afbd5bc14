"""The headers and errors of the tus endpoints, for the OpenAPI document."""

from typing import Any, Final

from api import tus

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
    {"type": "string", "enum": [tus.VERSION]},
    example=tus.VERSION,
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
_PIECE: Final = {
    "description": "The piece's bytes.",
    "content": {tus.PIECE_TYPE: {"schema": {"type": "string", "format": "binary"}}},
}

BEGIN: Final[dict[str, Any]] = {
    "parameters": [VERSION_HEADER, _LENGTH, _METADATA, _CHECKSUM],
    "requestBody": {**_PIECE, "required": False},
}
LOOK: Final[dict[str, Any]] = {"parameters": [VERSION_HEADER]}
APPEND: Final[dict[str, Any]] = {
    "parameters": [VERSION_HEADER, _OFFSET, _CHECKSUM],
    "requestBody": {**_PIECE, "required": True},
}
OVERRIDE: Final[dict[str, Any]] = {
    "parameters": [VERSION_HEADER, _OVERRIDE, {**_OFFSET, "required": False}, _CHECKSUM],
    "requestBody": {**_PIECE, "required": False},
}

BEGIN_ERRORS: Final = (
    "bad_request",
    "tus_version",
    "upload_too_large",
    "upload_too_long",
    "checksum_mismatch",
    "store_unavailable",
)
LOOK_ERRORS: Final = ("tus_version", "upload_expired")
DROP_ERRORS: Final = (*LOOK_ERRORS, "upload_locked", "store_unavailable")
APPEND_ERRORS: Final = (
    *DROP_ERRORS,
    "bad_request",
    "upload_offset_mismatch",
    "upload_too_long",
    "checksum_mismatch",
)
OVERRIDE_ERRORS: Final = (*APPEND_ERRORS, "method_not_allowed")
