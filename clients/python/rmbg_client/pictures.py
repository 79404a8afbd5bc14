"""What can be submitted, and the request bodies that carry it."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, TypeGuard

#: The service reads a file's kind from its bytes.
_MEDIA_TYPE: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Url:
    """A picture that the service fetches."""

    address: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that was uploaded before, in pieces."""

    upload_id: str


@dataclass(frozen=True, slots=True)
class Bytes:
    """A picture in memory, with a name that its cutout in an archive will have."""

    content: bytes
    name: str = "picture"


#: A path, bytes, an address (a text that begins with http:// or https:// is one, too) or an upload.
Picture: TypeAlias = str | os.PathLike[str] | bytes | Bytes | Url | Upload
#: A picture whose bytes are sent.
File: TypeAlias = str | os.PathLike[str] | bytes | Bytes

#: Called between two pieces of a body; raises if the time for it is over.
Check: TypeAlias = Callable[[], None]


def is_file(picture: Picture) -> bool:
    """Return whether a picture's bytes are sent."""
    return not isinstance(picture, Url | Upload) and not _is_address(picture)


def _is_address(picture: object) -> TypeGuard[str]:
    return isinstance(picture, str) and picture.lower().startswith(("http://", "https://"))


def readable_name(name: str) -> str:
    """Return a file's name as text: one that is no UTF-8 is read as Windows wrote it in Europe."""
    raw = os.fsencode(name)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


@dataclass(frozen=True, slots=True)
class Form:
    """A form with files, which are opened anew for each attempt and read while they are sent."""

    texts: Mapping[str, Any]
    files: Sequence[tuple[str, File]]

    def arguments(self, stack: ExitStack, check: Check) -> dict[str, Any]:
        """Return the arguments of httpx for this body; the stack closes the files."""
        files = [(field, self._part(file, stack, check)) for field, file in self.files]
        texts = {name: form_text(value) for name, value in self.texts.items()}
        return {"data": texts, "files": files}

    @staticmethod
    def _part(file: File, stack: ExitStack, check: Check) -> tuple[str, Any, str]:
        if isinstance(file, bytes):
            file = Bytes(file)
        if isinstance(file, Bytes):
            return file.name, file.content, _MEDIA_TYPE
        path = Path(file)
        opened = stack.enter_context(path.open("rb"))
        return readable_name(path.name), _Checked(opened, check), _MEDIA_TYPE


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON object."""

    values: Mapping[str, Any]

    def arguments(self, _stack: ExitStack, _check: Check) -> dict[str, Any]:
        """Return the arguments of httpx for this body."""
        return {"json": self.values}


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes as they are."""

    content: bytes

    def arguments(self, _stack: ExitStack, _check: Check) -> dict[str, Any]:
        """Return the arguments of httpx for this body."""
        return {"content": self.content}


Body: TypeAlias = Form | Json | Raw


class _Checked:
    """An open file that is read only as long as a check passes."""

    def __init__(self, file: IO[bytes], check: Check) -> None:
        self._file, self._check = file, check

    def read(self, size: int = -1) -> bytes:
        self._check()
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()


def form_text(value: Any) -> str:  # noqa: ANN401 - of any parameter
    """Return a parameter as a form's text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return ",".join(map(str, value))


def json_item(picture: Picture) -> dict[str, Any]:
    """Return the parameter that names a picture whose bytes are not sent."""
    if isinstance(picture, Url):
        return {"image_url": picture.address}
    if _is_address(picture):
        return {"image_url": picture}
    if isinstance(picture, Upload):
        return {"upload_id": picture.upload_id}
    raise TypeError("This picture's bytes are sent, in a form.")
