"""Request bodies: multipart forms read part by part, and strict JSON."""

import hashlib
import json
import math
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, BinaryIO, Final, NoReturn, cast
from urllib.parse import unquote_plus

from flask import Flask, Request
from flask.json.provider import DefaultJSONProvider
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from werkzeug.http import parse_options_header

from api.errors import MAX_SHOWN_NAME, ApiError
from api.inputs import MAX_NAME, InputFile, close_spooled, spool
from api.long_texts import (
    LONG_TEXT_BYTES,
    URL_ESCAPES,
    DocumentTooLargeError,
    LongText,
    document_of,
    split_json,
)

#: What is nested deeper is no parameter of this API, and would only wear out the stack.
_MOST_NESTED: Final = 32


def read_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Parse a document.

    Raises:
        ValueError: it is no JSON, holds NaN, a number beyond all finite ones or half a character,
            or is nested too deep.
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
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("A number is too large.")  # 1e400, which would be written as Infinity
    if isinstance(value, str) and not value.isascii():
        value.encode()  # half of a surrogate pair cannot be: a ValueError
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    if isinstance(parts, list):
        for part in parts:
            _check(part, depth + 1)


#: Parameters that are pictures in base64, in this API and in remove.bg's: they may be long.
_PICTURES: Final = frozenset({"image_b64", "image_file_b64"})


def read_json_object(request: Request, *, max_bytes: int = LONG_TEXT_BYTES) -> dict[str, Any]:
    """Return a request's JSON body, which must be an object; a long picture is a `LongText`.

    Args:
        request: whose body has not been read.
        max_bytes: of all but long pictures in base64.

    Raises:
        ApiError: the body is no JSON object, or is larger.
    """
    try:
        split = split_json(_document(request), max_bytes, secrets.token_hex(16))
        body = split.restore(read_json(split.text))
    except DocumentTooLargeError:
        raise ApiError(
            "payload_too_large",
            f"The JSON body may have {max_bytes // 2**10} kB beside pictures in base64; send less.",
        ) from None
    except ValueError:
        raise ApiError("bad_request", "The body is no JSON that can be read.") from None
    if not isinstance(body, dict):
        raise ApiError("bad_request", "The body must be one JSON object.")
    _check_long_texts("", body)
    return body


def _document(request: Request) -> bytes | Any:  # noqa: ANN401 - or a map of the file
    """Return a body; it stays in the file that the server read it into, if it is there."""
    body = request.environ["wsgi.input"]
    large = (request.content_length or 0) > LONG_TEXT_BYTES
    return document_of(body) if large and hasattr(body, "seek") else request.stream.read()


def _check_long_texts(name: str, value: object) -> None:
    if isinstance(value, LongText) and name not in _PICTURES:
        raise _long_field_error(name, LONG_TEXT_BYTES)
    if isinstance(value, dict):
        for inner, part in value.items():
            _check_long_texts(inner, part)
    elif isinstance(value, list):
        for part in value:
            _check_long_texts(name, part)


def _long_field_error(name: str, most: int) -> ApiError:
    sentence = f"It has more than {most / 2**10:g} kB, the limit of a text; send less."
    shown = repr(name[:MAX_SHOWN_NAME])
    return ApiError("payload_too_large", f"The field {shown}: {sentence}", fields={shown: sentence})


class StrictJsonProvider(DefaultJSONProvider):
    """Flask's own, but for what it reads."""

    # The envelope reads best in its own order.
    sort_keys = False

    def loads(self, s: str | bytes, **_: Any) -> Any:  # noqa: ANN401 - the base class's
        """Parse a request's body; see `read_json`."""
        return read_json(s)


_CHUNK_BYTES: Final = 2**16
#: Most text fields of a form, or of JSON that is read as one.
MAX_FIELDS: Final = 64
#: Files of a form that is read whole: an image, a background, and a few that are refused by name.
_MAX_FILES: Final = 8
#: Charsets that a text field may name; each other field is read as UTF-8.
_CHARSETS: Final = frozenset({"ascii", "us-ascii", "utf-8", "iso-8859-1"})


def unbounded_body(request: Request) -> BinaryIO:
    """Return a request's body without the application's limit, for a handler with its own."""
    # None would mean the application's limit.
    request.max_content_length = sys.maxsize
    return cast("BinaryIO", request.stream)


def install_bodies(app: Flask) -> None:
    """Close the temporary files of each request."""

    @app.teardown_request
    def _close(_error: BaseException | None) -> None:
        close_spooled()


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text field of a form; a long one is a picture."""

    name: str
    value: str | LongText


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
    max_picture_bytes: int = LONG_TEXT_BYTES,
) -> Iterator[TextPart | FilePart]:
    """Yield the parts of a multipart form as they arrive; a file that is not read is skipped.

    Werkzeug's parser is not used: for one body length in 65,536 it appends a carriage return to a
    file, namely where one of its reads of 64 KiB ends inside the closing boundary.

    Args:
        read: returns up to that many bytes of the body; none at its end.
        boundary: from the content type.
        max_files: a form with more is refused.
        max_picture_bytes: of a text field with a picture in base64; others may have 64 kB. A form
            with a larger one is refused.

    Raises:
        ApiError: the form is cut off, malformed, or has too many or too large parts.
    """
    # One more file than allowed, so that the caller can name its own limit.
    events = _parse(read, boundary, max_files + 1 + MAX_FIELDS)
    for event in events:
        if not isinstance(event, MultipartSegment):
            continue
        name, file_name = _utf8(event.name), _file_name(event)
        # The bytes of the part that has begun: None follows them.
        data = map(bytes, takewhile(lambda each: each is not None, events))
        if file_name is None:
            most = max_picture_bytes if name in _PICTURES else LONG_TEXT_BYTES
            yield TextPart(name, _text(name, data, event.charset, most))
        else:
            yield FilePart(name, file_name[:MAX_NAME], data)
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


def _text(name: str, data: Iterable[bytes], charset: str | None, most: int) -> str | LongText:
    with tempfile.SpooledTemporaryFile(LONG_TEXT_BYTES) as file:
        for piece in data:
            file.write(piece)
            if file.tell() > most:
                raise _long_field_error(name, most)
        length = file.tell()
        if length > LONG_TEXT_BYTES:
            return LongText(document_of(cast("BinaryIO", file)), 0, length)
        file.seek(0)
        known = (charset or "").lower()
        return file.read().decode(known if known in _CHARSETS else "utf-8", "replace")


def _utf8(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "replace")


_FILE_NAME: Final = re.compile(r";\s*filename\*?\s*=", re.IGNORECASE)


def _file_name(segment: MultipartSegment) -> str | None:
    """Return the name of a part that is a file, in either of its forms; None for a text field."""
    if segment.filename is not None:
        return _utf8(segment.filename)
    disposition = segment.header("Content-Disposition", "")
    if _FILE_NAME.search(disposition) is None:
        return None
    # RFC 5987: filename*=UTF-8''%C3%BC.jpg, as some HTTP libraries still send it. Bare names with
    # bytes beyond ASCII are in no standard; the part is a file all the same.
    name = parse_options_header(disposition)[1].get("filename")
    bare = _FILE_NAME.split(disposition, maxsplit=1)[1].partition(";")[0]
    return _utf8(bare.strip(' "')) if name is None else name


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form by name; of a text that came twice, the first one.

    Attributes:
        texts: the text fields, empty ones left out: an HTML form sends them for "none".
        files: the files; one that has neither a name nor bytes was not chosen, and is left out.
        long_texts: the pictures in base64 that are long.
    """

    texts: dict[str, str]
    files: dict[str, InputFile]
    long_texts: dict[str, LongText] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.texts or name in self.files or name in self.long_texts

    def add(self, name: str, value: str | LongText) -> None:
        """Add a text field, unless it is empty or there is one of this name."""
        if isinstance(value, LongText):
            self.long_texts.setdefault(name, value)
        elif value:
            self.texts.setdefault(name, value)

    def add_file(self, name: str, file: InputFile) -> None:
        """Add a file.

        Raises:
            ApiError: there is one of this name, and only one of them could be used.
        """
        if name in self.files:
            sentence = (
                "The form has more than one file of this name; the limit is 1. Send a request for "
                "each picture, or all as `images` to /api/v1/remove-bg/batch."
            )
            shown = name[:MAX_SHOWN_NAME]
            raise ApiError("invalid_parameter", f"{shown}: {sentence}", fields={shown: sentence})
        self.files[name] = file


def read_form(request: Request, *, max_file_bytes: int) -> Form:
    """Read a whole form, multipart or urlencoded; of files see `read_file`.

    Raises:
        ApiError: the form cannot be read, or has too many or too large fields.
    """
    form = Form({}, {})
    if request.mimetype != "multipart/form-data":
        _read_urlencoded(request, form)
        return form
    if request.content_length == 0:
        return form
    # Bounded by `MAX_CONTENT_LENGTH`, like each body that is not unbounded.
    parts = form_parts(
        request.stream.read,
        form_boundary(request),
        max_files=_MAX_FILES,
        max_picture_bytes=request.max_form_memory_size or LONG_TEXT_BYTES,
    )
    for part in parts:
        if isinstance(part, FilePart):
            file = read_file(part, max_file_bytes)
            if file.file_name or file.length:
                form.add_file(part.name, file)
        else:
            form.add(part.name, part.value)
    return form


def _read_urlencoded(request: Request, form: Form) -> None:
    document = _document(request)
    at = 0
    for _ in range(MAX_FIELDS + 1):
        if at >= len(document):
            return
        end = document.find(b"&", at)
        end = len(document) if end < 0 else end
        equals = document.find(b"=", at, min(end, at + LONG_TEXT_BYTES))
        equals = min(end, at + LONG_TEXT_BYTES) if equals < 0 else equals
        name = unquote_plus(document[at:equals].decode("utf-8", "replace"))
        if end - equals > LONG_TEXT_BYTES:
            if name not in _PICTURES:
                raise _long_field_error(name, LONG_TEXT_BYTES)
            form.add(name, LongText(document, equals + 1, end, URL_ESCAPES))
        else:
            form.add(name, unquote_plus(document[equals + 1 : end].decode("utf-8", "replace")))
        at = end + 1
    raise too_many_fields()


def too_many_fields() -> ApiError:
    """Return the error for a body of more than `MAX_FIELDS` fields."""
    sentence = f"The body has more than {MAX_FIELDS} fields, the limit; send fewer."
    return ApiError("payload_too_large", sentence)


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
    stream = spool()
    digest, length = hashlib.sha256(), 0
    for chunk in part.chunks:
        length += len(chunk)
        if length <= max_bytes:
            digest.update(chunk)
            stream.write(chunk)
    stream.seek(0)
    return InputFile(stream, length, part.file_name, sha256=digest.hexdigest())
