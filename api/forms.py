"""Request bodies: multipart forms read part by part, and strict JSON."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, BinaryIO, Final, NoReturn, cast

from flask import Flask, Request, g
from flask.json.provider import DefaultJSONProvider
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from werkzeug.exceptions import BadRequest
from werkzeug.http import parse_options_header

from api.errors import ApiError
from api.inputs import InputFile

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


def _check(value: object, depth: int = 0) -> None:
    if depth == _MOST_NESTED:
        raise ValueError("It is nested too deep.")
    if isinstance(value, str) and not value.isascii():
        value.encode()  # half of a surrogate pair cannot be: a ValueError
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    if isinstance(parts, list):
        for part in parts:
            _check(part, depth + 1)


def read_json_object(request: Request) -> dict[str, Any]:
    """Return a request's JSON body, which must be an object.

    Raises:
        ApiError: it is not.
    """
    try:
        body = request.get_json()
    except BadRequest:
        raise ApiError("bad_request", "The body is no JSON that can be read.") from None
    if not isinstance(body, dict):
        raise ApiError("bad_request", "The body must be one JSON object.")
    return body


class StrictJsonProvider(DefaultJSONProvider):
    """Flask's own, but for what it reads."""

    # The envelope reads best in its own order.
    sort_keys = False

    def loads(self, s: str | bytes, **_: Any) -> Any:  # noqa: ANN401 - the base class's
        """Parse a request's body; see `read_json`."""
        return read_json(s)


_CHUNK_BYTES: Final = 2**16
#: Largest text field of a form, unless the caller allows more.
_MAX_FIELD_BYTES: Final = 2**20
#: Most text fields of a form.
_MAX_FIELDS: Final = 64
#: Files of a form that is read whole: an image, a background, and a few that are refused by name.
_MAX_FILES: Final = 8
#: A file of a form stays in memory up to this size, and goes to a temporary file beyond it.
_MEMORY_BYTES: Final = 2**19
#: Charsets that a text field may name; each other field is read as UTF-8.
_CHARSETS: Final = frozenset({"ascii", "us-ascii", "utf-8", "iso-8859-1"})


def unbounded_body(request: Request) -> BinaryIO:
    """Return a request's body without the application's limit, for a handler with its own."""
    # None would mean the application's limit.
    request.max_content_length = sys.maxsize
    return cast("BinaryIO", request.stream)


def install_bodies(app: Flask) -> None:
    """Close the files of each request whose handler read them from here."""

    @app.teardown_request
    def _close(_error: BaseException | None) -> None:
        for stream in g.pop("form_files", ()):
            stream.close()


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text field of a form."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file of a form; its bytes have to be read before the next part is asked for."""

    name: str
    file_name: str
    chunks: Iterator[bytes]


def form_parts(
    read: Callable[[int], bytes],
    boundary: str,
    *,
    max_files: int,
    max_field_bytes: int = _MAX_FIELD_BYTES,
) -> Iterator[TextPart | FilePart]:
    """Yield the parts of a multipart form as they arrive; a file that is not read is skipped.

    Werkzeug's parser is not used: for one body length in 65,536 it appends a carriage return to a
    file, namely where one of its reads of 64 KiB ends inside the closing boundary.

    Args:
        read: returns up to that many bytes of the body; none at its end.
        boundary: from the content type.
        max_files: a form with more is refused.
        max_field_bytes: of one text field; a form with a larger one is refused.

    Raises:
        ApiError: the form is cut off, malformed, or has too many or too large parts.
    """
    # One more file than allowed, so that the caller can name its own limit.
    events = _parse(read, boundary, max_files + 1 + _MAX_FIELDS)
    for event in events:
        if not isinstance(event, MultipartSegment):
            continue
        name, file_name = _utf8(event.name), _file_name(event)
        # The bytes of the part that has begun: None follows them.
        data = map(bytes, takewhile(lambda each: each is not None, events))
        if file_name is None:
            yield TextPart(name, _text(name, data, event.charset, max_field_bytes))
        else:
            yield FilePart(name, file_name, data)
            for _ in data:
                pass


def _parse(read: Callable[[int], bytes], boundary: str, max_parts: int) -> Iterator[Any]:
    """Yield the parser's events: for each part its head, its bytes in pieces, and None."""
    try:
        # Decoded as UTF-8 later: a file name in another charset is no reason to refuse.
        parser = PushMultipartParser(
            boundary, max_segment_count=max_parts, header_charset="latin-1"
        )
        with parser:
            while not parser.closed:
                yield from parser.parse(read(_CHUNK_BYTES))
    except ParserLimitReached:
        fault = f"The form has more than {max_parts} parts, or a part's head is too long."
        raise ApiError("payload_too_large", fault) from None
    except MultipartError:
        raise ApiError(
            "bad_request", "The form is cut off, or is no multipart/form-data."
        ) from None


def _text(name: str, data: Iterable[bytes], charset: str | None, max_bytes: int) -> str:
    text = bytearray()
    for piece in data:
        text += piece
        if len(text) > max_bytes:
            raise ApiError(
                "payload_too_large",
                f"The form's field {name!r} has more than {max_bytes / 2**20:.1f} MB; "
                "send a file instead.",
            )
    known = (charset or "").lower()
    return text.decode(known if known in _CHARSETS else "utf-8", "replace")


def _utf8(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "replace")


def _file_name(segment: MultipartSegment) -> str | None:
    """The name of a part that is a file, in either of its two forms; None for a text field."""
    disposition = segment.header("Content-Disposition", "")
    if segment.filename is None and "filename*" in disposition.lower():
        # RFC 5987: filename*=UTF-8''%C3%BC.jpg, as some HTTP libraries still send it.
        name: str | None = parse_options_header(disposition)[1].get("filename")
        return name
    return None if segment.filename is None else _utf8(segment.filename)


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form by name; of a name that came twice, the first one.

    Attributes:
        texts: the text fields, empty ones left out: an HTML form sends them for "none".
        files: the files; one that has neither a name nor bytes was not chosen, and is left out.
    """

    texts: dict[str, str]
    files: dict[str, InputFile]

    def __contains__(self, name: str) -> bool:
        return name in self.texts or name in self.files


def read_form(request: Request, *, max_file_bytes: int) -> Form:
    """Read a whole form, multipart or urlencoded; of files see `read_file`.

    Raises:
        ApiError: the form cannot be read, or has too many or too large fields.
    """
    form = Form({}, {})
    if request.mimetype != "multipart/form-data":
        form.texts.update((name, text) for name, text in request.form.items() if text)
        return form
    if request.content_length == 0:
        return form
    # Bounded by `MAX_CONTENT_LENGTH`, like each body that is not unbounded.
    parts = form_parts(
        request.stream.read,
        form_boundary(request),
        max_files=_MAX_FILES,
        max_field_bytes=request.max_form_memory_size or _MAX_FIELD_BYTES,
    )
    for part in parts:
        if isinstance(part, FilePart):
            file = read_file(part, max_file_bytes)
            if file.file_name or file.length:
                form.files.setdefault(part.name, file)
        elif part.value:
            form.texts.setdefault(part.name, part.value)
    return form


def form_boundary(request: Request) -> str:
    """Return the boundary of a multipart request.

    Raises:
        ApiError: the content type names none.
    """
    boundary = request.mimetype_params.get("boundary", "")
    if not boundary:
        raise ApiError("bad_request", "The header `Content-Type` names no boundary of the form.")
    return boundary


def read_file(part: FilePart, max_bytes: int) -> InputFile:
    """Read a file of a form into memory, or into a temporary file if it is large.

    Of a file that is larger than allowed the length is right and the bytes are not all there.
    """
    stream = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - closed with the request
    g.setdefault("form_files", []).append(stream)
    digest, length = hashlib.sha256(), 0
    for chunk in part.chunks:
        length += len(chunk)
        if length <= max_bytes:
            digest.update(chunk)
            stream.write(chunk)
    stream.seek(0)
    return InputFile(cast("BinaryIO", stream), length, part.file_name, sha256=digest.hexdigest())
