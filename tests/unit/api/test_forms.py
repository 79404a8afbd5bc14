"""Forms are read as they arrive, whatever the pieces they arrive in, and JSON strictly."""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from flask import Flask, request
from flask.ctx import RequestContext
from hypothesis import given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from api.errors import ApiError
from api.forms import FilePart, Form, TextPart, form_parts, install_bodies, read_form, read_json

#: Makes a request of a body, as the application's handlers see it.
Post = Callable[..., AbstractContextManager[RequestContext]]


def _form(*fields: tuple[str, object]) -> bytes:
    body, _ = encode_multipart_formdata(fields, boundary="edge")
    return body


def _parts(data: bytes, *, size: int = 2**16) -> Iterator[TextPart | FilePart]:
    """The parts of a form whose body comes in pieces of a size."""
    stream = io.BytesIO(data)
    return form_parts(lambda most: stream.read(min(most, size)), "edge", max_files=10)


@given(st.binary(max_size=900), st.integers(1, 100))
def test_files_and_fields_come_in_their_order(content: bytes, size: int) -> None:
    data = _form(
        ("images", ("ü.jpg", content)), ("quality", "80"), ("images", ("b.png", content + b"!"))
    )
    seen = []
    for part in _parts(data, size=size):
        if isinstance(part, TextPart):
            seen.append((part.name, part.value))
        else:
            seen.append((part.file_name, b"".join(part.chunks)))
    assert seen == [("ü.jpg", content), ("quality", "80"), ("b.png", content + b"!")]


def test_a_file_that_is_not_read_is_skipped() -> None:
    data = _form(("images", ("a", b"x" * 500)), ("images", ("b", b"y")))
    names = [part.file_name for part in _parts(data) if isinstance(part, FilePart)]
    assert names == ["a", "b"]


# -- forms that are read whole --------------------------------------------------------------------

_TYPE = "multipart/form-data; boundary=edge"
_READ = 2**16


@pytest.fixture
def posted() -> Post:
    app = Flask("forms")
    install_bodies(app)

    def post(data: bytes, kind: str = _TYPE) -> AbstractContextManager[RequestContext]:
        return app.test_request_context("/", method="POST", data=data, content_type=kind)

    return post


def _read(most: int = 10 * 2**20) -> Form:
    return read_form(request, max_file_bytes=most)


@pytest.mark.parametrize("reads", [1, 2])
def test_no_byte_is_added_where_a_read_ends_inside_the_last_boundary(
    posted: Post, reads: int
) -> None:
    """Werkzeug 3.1.9 adds a carriage return to the file for one of these lengths."""
    whole = reads * _READ - len(_form(("image", ("a.jpg", b""))))
    for length in range(whole - 8, whole + len("\r\n--edge--\r\n") + 8):
        content = b"\xff" * length
        with posted(_form(("image", ("a.jpg", content)))):
            file = _read().files["image"]
            assert file.stream.read() == content, length
            assert file.length == length


def test_fields_and_files_are_told_apart(posted: Post) -> None:
    data = _form(
        ("quality", "80"),
        ("quality", "90"),
        ("matte_color", ""),
        ("image", ("ü.jpg", b"picture")),
        ("background_image", ("", b"")),
    )
    with posted(data):
        form = _read()
    assert form.texts == {"quality": "80"}
    assert list(form.files) == ["image"]
    assert (form.files["image"].file_name, form.files["image"].length) == ("ü.jpg", 7)


@pytest.mark.parametrize(
    ("head", "texts", "file_names"),
    [
        (b"""name="image"; filename*=UTF-8''%C3%BC.jpg""", {}, ["ü.jpg"]),
        (b"""name="image"; filename="\xfc.jpg" """, {}, ["\ufffd.jpg"]),
        (b"""name="image"; filename="\x95\\" """, {}, ["\ufffd\\"]),
        (b"""name="image"; filename=\xcf\xf0.jpg""", {}, ["\ufffd\ufffd.jpg"]),
        (b"""name="image"; filename*=x-none''%D6.jpg""", {}, ["%D6.jpg"]),
        (b"""name="note"\r\nContent-Type: text/plain; charset=ISO-8859-1""", {"note": "ü"}, []),
    ],
    ids=["RFC 5987", "latin-1", "Shift-JIS", "bare cp1251", "RFC 5987, no charset", "latin-1 text"],
)
def test_names_and_texts_of_older_clients(
    posted: Post, head: bytes, texts: dict[str, str], file_names: list[str]
) -> None:
    head = b"--edge\r\nContent-Disposition: form-data; " + head
    with posted(head + b"\r\n\r\n\xfc\r\n--edge--\r\n"):
        form = _read()
    assert form.texts == texts
    assert [file.file_name for file in form.files.values()] == file_names


def test_a_file_that_is_too_large_is_read_away_and_the_next_part_is_whole(posted: Post) -> None:
    data = _form(("image", ("a", b"x" * 300_000)), ("quality", "80"), ("other", ("b", b"y")))
    with posted(data):
        form = _read(most=100_000)
        large, small = form.files.values()
        assert large.length == 300_000
        assert len(large.stream.read()) <= 100_000
        assert (small.length, small.stream.read()) == (1, b"y")
    assert form.texts == {"quality": "80"}


_FILE = _form(("image", ("a", b"x" * 200)))


@pytest.mark.parametrize(
    ("data", "kind", "error", "words"),
    [
        (b"\r\n", _TYPE, "bad_request", "cut off"),
        (b"no form at all", _TYPE, "bad_request", "cut off"),
        *((_FILE[:kept], _TYPE, "bad_request", "cut off") for kept in (10, 100, -4)),
        (b"x", "multipart/form-data", "bad_request", "no boundary"),
        (_form(("note", "x" * 2**17)), _TYPE, "payload_too_large", "'note': It has more than 64"),
        (_form(*[("note", "x")] * 200), _TYPE, "payload_too_large", "more than 73 parts"),
        (
            _form(*(("image", (name, name.encode())) for name in ("a", "", "b"))),
            *(_TYPE, "invalid_parameter", "image: The form has more than one file of this name"),
        ),
    ],
    ids=["empty", "none", "10", "100", "-4", "no boundary", "large field", "many parts", "twice"],
)
def test_a_form_that_cannot_be_read(
    posted: Post, data: bytes, kind: str, error: str, words: str
) -> None:
    with posted(data, kind), pytest.raises(ApiError, match=words) as raised:
        _read()
    assert raised.value.row.type == error


# -- JSON -----------------------------------------------------------------------------------------


_NO_JSON = ("{", "NaN", '{"a": [-Infinity]}', '{"a": 1e400}', '"\\ud800"', '{"\\udfff": 1}')
_TOO_DEEP = ("[" * 100_000, "[" * 33 + "]" * 33)


@pytest.mark.parametrize(
    "text", [*_NO_JSON, *_TOO_DEEP, b"\xff\xfe\xfd"], ids=lambda text: repr(text)[:20]
)
def test_json_that_could_not_be_written_again_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_json(text)
