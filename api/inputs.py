"""Where a submission's pictures come from: form files, base64, URLs and finished uploads."""

import hashlib
import tempfile
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, cast

from flask import g, has_app_context

from api.callers import current_caller
from api.errors import ApiError
from api.long_texts import LongText, decode_base64
from api.places import Places
from inference.probe import PREFIX_SIZE, ImageHeader, ImageLimits, identify_format, probe_image
from tasks.api_keys import Owner
from tasks.errors import OutboundRequestError, UrlTooLargeError
from tasks.net.http_client import HttpClient
from tasks.object_store import background_key, original_key
from tasks.quotas import Quotas
from tasks.uploads.service import UploadService


def too_large(length: int, limit: int, field: str = "image") -> ApiError:
    """Return the error for a file of `length` bytes where `limit` are allowed."""
    sentence = f"The image is {length / 2**20:.1f} MB; the limit is {limit / 2**20:g} MB."
    return ApiError("image_too_large", sentence, fields={field: sentence})


#: Characters of a file's or an item's name that are kept.
MAX_NAME: Final = 255


class InputFile:
    """One file of a submission. Its digest and its header are read once at most.

    Args:
        stream: at its start, and seekable.
        length: of the stream, in bytes.
        file_name: the sender's name for it; may be empty, and is not to be trusted.
        sha256: hexadecimal digest of the bytes, where it is known already.
        object_key: of an object in the bucket that holds these bytes, if there is one.
    """

    def __init__(
        self,
        stream: BinaryIO,
        length: int,
        file_name: str = "",
        *,
        sha256: str | None = None,
        object_key: str | None = None,
    ) -> None:
        self.stream = stream
        self.length = length
        self.file_name = file_name[:MAX_NAME]
        self.object_key = object_key
        self._sha256 = sha256
        self._header: ImageHeader | None = None

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the bytes."""
        if self._sha256 is None:
            self.stream.seek(0)
            # mypy's BinaryIO has no readinto, but each of these streams has.
            digest = hashlib.file_digest(cast("Any", self.stream), "sha256")
            self._sha256 = digest.hexdigest()
            self.stream.seek(0)
        return self._sha256

    def probe(self, limits: ImageLimits) -> ImageHeader:
        """Read and judge the picture's header at the first call; later ones return its result.

        Raises:
            InferenceError: the header shows that the picture cannot be used.
        """
        if self._header is None:
            self._header = probe_image(self.stream, limits)
        return self._header


#: Name of the request's temporary files, in Flask's `g`.
_SPOOLED: Final = "spooled"
#: Parameters that are files in a form.
_FILE_FIELDS: Final = frozenset({"image", "background_image"})
#: A picture stays in memory up to this size, and goes to a temporary file beyond it.
_MEMORY_BYTES: Final = 2**19
#: Time limit of one fetch with its DNS lookups and redirects: a client is waiting.
_FETCH_SECONDS: Final = 20.0
#: Pictures that one process fetches by their address at once, half of them for one caller. Each
#: holds a thread for as long as a slow site likes.
FETCHES: Final = 32


def spool() -> BinaryIO:
    """Return a temporary file for a picture, which is closed with the request."""
    stream = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - closed with the request
    if has_app_context():
        g.setdefault(_SPOOLED, []).append(stream)
    return cast("BinaryIO", stream)


def close_spooled() -> None:
    """Close the temporary files that the request has had so far."""
    for stream in g.pop(_SPOOLED, ()):
        stream.close()


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """Loads the pictures that a submission's parameters give or name.

    Attributes:
        max_bytes: of one picture.
        http_client: fetches pictures by URL.
        uploads: the finished ones are copied from the bucket.
        quotas: a picture is charged before it is fetched.
        fetches: one place for each picture that is fetched by URL at once.
    """

    max_bytes: int
    http_client: HttpClient
    uploads: UploadService
    quotas: Quotas
    fetches: Places = field(default_factory=lambda: Places(FETCHES))

    def open(
        self, name: str, value: InputFile | str | LongText, owner: Owner, task_id: str
    ) -> InputFile:
        """Return the picture that a parameter gives or names, for a task that is to be recorded.

        What the owner is charged for one that is fetched has to be released if it becomes no task.

        Raises:
            ApiError: there is none, or it is empty or too large; `fields` names the parameter.
            QuotaExceededError: it would have to be fetched, and the owner's quota has no room.
        """
        picture = value if isinstance(value, InputFile) else self._load(name, value, owner, task_id)
        check_length(picture.length, self.max_bytes, name)
        return picture

    def _load(self, name: str, text: str | LongText, owner: Owner, task_id: str) -> InputFile:
        if name in _FILE_FIELDS:
            sentence = f"The field `{name}` holds text; send it as a file."
            raise ApiError("missing_image", sentence, fields={name: sentence})
        if name == "image_b64" or isinstance(text, LongText):
            return self._decode(name, text)
        key = background_key(task_id) if name == "background_url" else original_key(task_id)
        upload = self.uploads.complete(owner.id, text) if name == "upload_id" else None
        if upload is not None:
            check_length(upload.length, self.max_bytes, name)
        # Of an address the size is unknown, so that others near the quota's end are refused
        # meanwhile; of an upload it is not.
        self.quotas.reserve(owner, task_id, key, upload.length if upload else self.max_bytes)
        picture = self._fetch_upload(text, owner) if upload else self._fetch(name, text)
        # The rest of what was reserved is free again, for a background too.
        self.quotas.charge(owner, [task_id], {key: picture.length}, pending=True)
        return picture

    def _fetch_upload(self, upload_id: str, owner: Owner) -> InputFile:
        """Copy an upload into a temporary file: whoever judges it may read it to and fro."""
        chunks, upload = self.uploads.open(owner.id, upload_id)
        stream = spool()
        for chunk in chunks:
            stream.write(chunk)
        stream.seek(0)
        return InputFile(stream, upload.length, upload.file_name, object_key=upload.key)

    def _decode(self, name: str, text: str | LongText) -> InputFile:
        """Decode base64 into a temporary file; of too large a picture only the length is right."""
        stream, length = spool(), 0
        try:
            for piece in decode_base64(text):
                length += len(piece)
                if length <= self.max_bytes:
                    stream.write(piece)
        except ValueError:
            stream.close()
            sentence = "This is no base64 (RFC 4648, with + and /, padded with =)."
            raise ApiError(
                "invalid_parameter", f"{name}: {sentence}", fields={name: sentence}
            ) from None
        stream.seek(0)
        return InputFile(stream, length)

    def _fetch(self, name: str, url: str) -> InputFile:
        stream = spool()
        try:
            with self.fetches.hold(current_caller()) as placed:
                if not placed:
                    raise self._too_many_fetches(name)
                fetched = self.http_client.fetch(
                    url, stream, max_bytes=self.max_bytes, seconds=_FETCH_SECONDS
                )
        except UrlTooLargeError:
            # It was cut off at the limit, so its whole size is unknown.
            raise too_large(self.max_bytes + 1, self.max_bytes, name) from None
        except OutboundRequestError as error:
            raise ApiError(error.code, f"{name}: {error}", fields={name: str(error)}) from None
        check_length(fetched.length, self.max_bytes, name)
        stream.seek(0)
        if identify_format(stream.read(PREFIX_SIZE)) is None:
            kind = fetched.media_type or "something of no declared type"
            sentence = f"The address answered with {kind}, and its bytes are no picture."
            raise ApiError("invalid_image", f"{name}: {sentence}", fields={name: sentence})
        stream.seek(0)
        return InputFile(stream, fetched.length, fetched.file_name)

    def _too_many_fetches(self, name: str) -> ApiError:
        sentence = (
            f"{self.fetches.share} pictures are fetched for you at once, and fewer while many "
            "others have theirs fetched. Send it again after `Retry-After`, or send the file."
        )
        return ApiError(
            "too_many_fetches",
            f"{name}: {sentence}",
            fields={name: sentence},
        )


def check_length(length: int, limit: int, name: str) -> None:
    """Raise `ApiError` for a file that is empty, or longer than the limit in bytes."""
    if length == 0:
        raise ApiError("empty_image", fields={name: "0 bytes."})
    if length > limit:
        raise too_large(length, limit, name)
