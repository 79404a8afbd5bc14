"""Where a picture comes from: each way in opens as an `Upload`, no larger than is allowed."""

import base64
import binascii
import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from werkzeug.datastructures import FileStorage

from api.errors import ApiError
from api.settings import ApiSettings
from api.submission.submission import Upload
from api.upload_limit import too_large
from tasks.owners import Owner
from tasks.uploads.service import Uploads

#: Opens what a parameter names, for whoever asks: an upload is its owner's alone.
Opener = Callable[[str, Owner], Upload]

#: Parameters that are files of a form.
FILE_FIELDS: Final = frozenset({"image", "background_image"})
_DATA_PREFIX: Final = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w=.+-]+)*,", re.ASCII)
_SPACE: Final = re.compile(r"\s+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sources:
    """The ways in.

    Attributes:
        max_bytes: of one picture.
        openers: by the parameter's name; one that is not there is not offered.
    """

    max_bytes: int
    openers: Mapping[str, Opener]

    @classmethod
    def from_settings(cls, settings: ApiSettings, **openers: Opener) -> "Sources":
        """Every way in that these settings offer."""
        most = settings.max_image_bytes
        return cls(most, {"image_b64": from_base64("image_b64", most), **openers})

    def open(self, name: str, value: FileStorage | str, owner: Owner) -> Upload:
        """The picture that a parameter gives or names.

        Raises:
            ApiError: there is none, or it is empty or too large; `fields` names the parameter.
        """
        upload = self._open(name, value, owner)
        check_length(upload.length, self.max_bytes, name)
        return upload

    def _open(self, name: str, value: FileStorage | str, owner: Owner) -> Upload:
        if isinstance(value, FileStorage):
            return from_form(value)
        if name in FILE_FIELDS:
            sentence = f"The field `{name}` holds text; send it as a file."
            raise ApiError("missing_image", sentence, fields={name: sentence})
        if name not in self.openers:
            sentence = "This service does not take pictures that way."
            raise ApiError("invalid_parameter", f"{name}: {sentence}", fields={name: sentence})
        return self.openers[name](value, owner)


def check_length(length: int, limit: int, name: str) -> None:
    """Raise `ApiError` for a file that is empty, or longer than the limit in bytes."""
    if length == 0:
        raise ApiError("empty_image", fields={name: "0 bytes."})
    if length > limit:
        raise too_large(length, limit, name)


def from_form(file: FileStorage) -> Upload:
    """A file field, which the form's parser has put in memory or on disk."""
    length = file.stream.seek(0, os.SEEK_END)
    file.stream.seek(0)
    return Upload(file.stream, length, file.filename or "")  # type: ignore[arg-type] # typed IO[bytes]


def from_base64(name: str, max_bytes: int) -> Opener:
    """An opener for base64, perhaps with a `data:` prefix and line breaks."""

    def open_base64(text: str, _owner: Owner) -> Upload:
        plain = _SPACE.sub("", _DATA_PREFIX.sub("", text.lstrip(), count=1))
        # Judged before it is decoded: four characters stand for three bytes.
        check_length(len(plain) * 3 // 4 - plain[-2:].count("="), max_bytes, name)
        try:
            data = base64.b64decode(plain, validate=True)
        except (binascii.Error, ValueError):
            sentence = "This is no base64 (RFC 4648, with + and /, padded with =)."
            raise ApiError(
                "invalid_parameter", f"{name}: {sentence}", fields={name: sentence}
            ) from None
        return Upload(io.BytesIO(data), len(data))

    return open_base64


def from_uploads(uploads: Uploads) -> Opener:
    """An opener for finished uploads in pieces, which are read from the bucket as needed."""

    def open_upload(upload_id: str, owner: Owner) -> Upload:
        stream, upload = uploads.open(owner.id, upload_id)
        return Upload(stream, upload.length, upload.file_name)

    return open_upload
