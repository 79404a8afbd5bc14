"""Request bodies: streamed bodies, multipart forms read part by part, and strict JSON."""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

from flask import Request
from flask.json.provider import DefaultJSONProvider
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from api.errors import ApiError

#: What is nested deeper is no parameter of this API, and would only wear out the stack.
_MOST_NESTED: Final = 32


def read_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Parse a document.

    Raises:
        ValueError: it is no JSON, holds NaN, infinity or half a character, or is nested too deep.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("It is nested too deep.") from error
    _check(value)
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON.")


def _check(value: object) -> None:
    layer = [value]
    for _ in range(_MOST_NESTED):
        layer = [part for each in layer for part in _parts(each)]
        if not layer:
            return
    raise ValueError("It is nested too deep.")


def _parts(value: object) -> list[object]:
    if isinstance(value, str) and not value.isascii():
        value.encode()  # half of a surrogate pair cannot be: a ValueError
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []


class StrictJsonProvider(DefaultJSONProvider):
    """Flask's own, but for what it reads."""

    # The envelope reads best in its own order.
    sort_keys = False

    def loads(self, s: str | bytes, **_: Any) -> Any:  # noqa: ANN401 - the base class's
        """Parse a request's body; see `read_json`."""
        return read_json(s)


#: Blueprints whose handlers read their bodies themselves, and bound them too.
STREAMED_BLUEPRINTS: Final = frozenset({"uploads", "batches"})

#: A client that sends nothing for so long has gone.
_SILENCE_SECONDS: Final = 60

#: A client that is still sending sees our answer only if we read what it sends; up to here.
_DRAIN_BYTES: Final = 64 * 2**20

_CHUNK_BYTES: Final = 2**16


class StreamedBody:
    """A request's body; it ends where its client goes away, and `cut_off` says so."""

    def __init__(self, request: Request) -> None:
        # None would stand for the application's own limit.
        request.max_content_length = sys.maxsize
        socket = request.environ.get("gunicorn.socket")
        if socket is not None:
            socket.settimeout(_SILENCE_SECONDS)
        self._stream = request.stream
        self.cut_off = False

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        if self.cut_off:
            return b""
        try:
            return self._stream.read(size)
        except (ClientDisconnected, RequestEntityTooLarge, OSError):
            self.cut_off = True
            return b""

    def drain(self) -> None:
        """Read what is still being sent, so that the client comes to read the answer."""
        left = _DRAIN_BYTES
        while left > 0:
            piece = self.read(_CHUNK_BYTES)
            if not piece:
                return
            left -= len(piece)


#: Of a field that is no file.
_MAX_FIELD_BYTES: Final = 2**20

_MAX_FIELD_PARTS: Final = 64


class Body(Protocol):
    """A request's body."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A field of the form."""

    name: str
    value: str


class FilePart(io.RawIOBase):
    """A file of the form, to be read before the next part is asked for."""

    def __init__(self, name: str, file_name: str, chunks: Iterator[bytes], most: int) -> None:
        super().__init__()
        self.name = name
        self.file_name = file_name
        self._chunks = chunks
        self._most = most
        self._rest = b""
        self.length = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of what was kept of it, as hexadecimal digits."""
        return self._hash.hexdigest()

    @property
    def too_large(self) -> bool:
        """Did more come than is allowed? What is beyond that is read away, and kept nowhere."""
        return self.length > self._most

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "memoryview[int] | bytearray") -> int:  # type: ignore[override] # narrower than the base's
        """Fill a buffer as far as there is something."""
        if not self._rest:
            self._rest = next(self._chunks, b"")
            self.length += len(self._rest)
            if self.too_large:
                self.skip()
            self._hash.update(self._rest)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def skip(self) -> None:
        """Read what is left, and keep none of it."""
        self._rest = b""
        for chunk in self._chunks:
            self.length += len(chunk)


class FormStream:
    """The parts of a form in their order.

    Werkzeug's decoder is not used: it adds a carriage return to a file where a piece of the body
    ends inside the last boundary.

    Args:
        body: the request's.
        boundary: from its content type.
        max_file_bytes: of one file.
        max_files: more are refused.
    """

    def __init__(self, body: Body, boundary: str, max_file_bytes: int, max_files: int) -> None:
        self._max_file_bytes = max_file_bytes
        # One more, so that it is ours to say what is too many.
        most = max_files + _MAX_FIELD_PARTS + 1
        self._events = _events(body, boundary, most)

    def parts(self) -> Iterator[TextPart | FilePart]:
        """Each part; a file's bytes are read from it, and skipped if they are not.

        Raises:
            ApiError: the form is cut off, malformed, or has too much in it.
        """
        for event in self._events:
            if not isinstance(event, MultipartSegment):
                continue
            if event.filename is None:
                yield TextPart(event.name, self._text())
                continue
            part = FilePart(event.name, event.filename, self._data(), self._max_file_bytes)
            yield part
            part.skip()

    def _text(self) -> str:
        text = bytearray()
        for piece in self._data():
            text += piece
            if len(text) > _MAX_FIELD_BYTES:
                raise ApiError("payload_too_large", "A field of the form is too large.")
        return text.decode("utf-8", "replace")

    def _data(self) -> Iterator[bytes]:
        """The bytes of the part that has begun."""
        for event in self._events:
            if event is None:
                return
            yield bytes(event)


def _events(body: Body, boundary: str, most: int) -> Iterator[Any]:
    """A part's head, its bytes in pieces, and None at its end; and so on."""
    try:
        parser = PushMultipartParser(boundary, max_segment_count=most)
        with parser:
            while not parser.closed:
                yield from parser.parse(body.read(_CHUNK_BYTES))
    except ParserLimitReached:
        raise ApiError(
            "payload_too_large", "The form has too many parts, or too large ones."
        ) from None
    except MultipartError:
        raise ApiError("bad_request", "The form is cut off, or is none.") from None
