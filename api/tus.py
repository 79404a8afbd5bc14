"""The headers of tus 1.0.0: https://tus.io/protocols/resumable-upload."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from types import MappingProxyType
from typing import Final

from werkzeug.datastructures import Headers

from api.errors import ApiError
from tasks.uploads.service import Checksum
from tasks.uploads.store import ResumableUpload

VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,creation-with-upload,expiration,termination,checksum"
PIECE_TYPE: Final = "application/offset+octet-stream"
_MAX_METADATA: Final = 4096
_ALGORITHMS: Final = ("sha1", "sha256", "sha512", "md5")
#: What describes the server, as it stands in the answer to OPTIONS.
_MAX_DIGITS: Final = 15


def capabilities(max_bytes: int) -> Mapping[str, str]:
    """What the answer to OPTIONS says."""
    return MappingProxyType(
        {
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(max_bytes),
            "Tus-Checksum-Algorithm": ",".join(_ALGORITHMS),
        }
    )


def check_version(headers: Headers) -> None:
    """Raise `ApiError` unless the client speaks this version of the protocol."""
    if headers.get("Tus-Resumable") != VERSION:
        raise ApiError(
            "tus_version", f"Send the header `Tus-Resumable: {VERSION}`; no other version is known."
        )


def number(headers: Headers, name: str) -> int:
    """A header that holds a number of bytes.

    Raises:
        ApiError: it is missing, or no number.
    """
    text = headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        sentence = f"The header `{name}` must hold a number of bytes."
        raise ApiError("bad_request", sentence, fields={name: sentence})
    return int(text)


def length(headers: Headers, max_bytes: int) -> int:
    """How long the whole file will be.

    Raises:
        ApiError: that is not said, or longer than is allowed.
    """
    if "Upload-Defer-Length" in headers:
        raise ApiError("bad_request", "Say the length at once: send `Upload-Length`.")
    found = number(headers, "Upload-Length")
    if found > max_bytes:
        raise ApiError(
            "upload_too_large",
            f"The file has {found / 2**20:.1f} MB; the limit is {max_bytes / 2**20:g} MB.",
        )
    return found


def metadata(headers: Headers) -> dict[str, str]:
    """`Upload-Metadata`: names, each with a text in base64 or nothing.

    Raises:
        ApiError: it is too long, or cannot be read.
    """
    given = headers.get("Upload-Metadata", "")
    if len(given) > _MAX_METADATA:
        raise ApiError("bad_request", f"`Upload-Metadata` may have {_MAX_METADATA} characters.")
    try:
        return dict(_pair(part) for part in given.split(",") if part.strip())
    except ValueError:
        sentence = (
            "`Upload-Metadata` must hold names, each with a value in base64: `filename Y2F0`."
        )
        raise ApiError("bad_request", sentence) from None


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.strip().partition(" ")
    try:
        return name, base64.b64decode(value.strip(), validate=True).decode("utf-8", "replace")
    except binascii.Error as error:
        raise ValueError(value) from error


def checksum(headers: Headers) -> Checksum | None:
    """`Upload-Checksum`: an algorithm and a digest in base64, if given.

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
        digest = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise ApiError("bad_request", "`Upload-Checksum` must end with base64.") from None
    return Checksum(hashlib.new(algorithm, usedforsecurity=False), digest)


def state(upload: ResumableUpload) -> dict[str, str]:
    """The headers that tell how an upload stands."""
    return {
        "Upload-Offset": str(upload.offset),
        "Upload-Expires": format_datetime(
            datetime.fromtimestamp(upload.expires_at, UTC), usegmt=True
        ),
    }
