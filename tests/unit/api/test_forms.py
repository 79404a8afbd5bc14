"""Forms are read as they arrive, whatever the pieces they arrive in."""

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
from api.forms import FilePart, Form, TextPart, form_parts, install_bodies, read_file, read_form


class _Dribble:
    """Gives a body in pieces of its own choice."""

    def __init__(self, data: bytes, size: int) -> None:
        self._stream = io.BytesIO(data)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._size))


def _form(fields: list[tuple[str, object]]) -> bytes:
    body, _ = encode_multipart_formdata(fields, boundary="edge")
    return body


def _parts(data: bytes, *, size: int = 2**16) -> Iterator[TextPart | FilePart]:
    return form_parts(_Dribble(data, size).read, "edge", max_files=10)


@given(st.binary(max_size=900), st.integers(1, 100))
def test_files_and_fields_come_in_their_order(content: bytes, size: int) -> None:
    data = _form(
        [("images", ("ü.jpg", content)), ("quality", "80"), ("images", ("b.png", content + b"!"))]
    )
    seen = []
    for part in _parts(data, size=size):
        if isinstance(part, TextPart):
            seen.append((part.name, part.value))
        else:
            seen.append((part.file_name, b"".join(part.chunks)))
    assert seen == [("ü.jpg", content), ("quality", "80"), ("b.png", content + b"!")]


def test_a_file_that_is_not_read_is_skipped() -> None:
    data = _form([("images", ("a", b"x" * 500)), ("images", ("b", b"y"))])
    names = [part.file_name for part in _parts(data) if isinstance(part, FilePart)]
    assert names == ["a", "b"]


@pytest.mark.parametrize("keep", [0, 10, 100, 180])
def test_a_form_that_is_cut_off_is_told(keep: int) -> None:
    data = _form([("images", ("a.jpg", b"x" * 200))])
    with pytest.raises(ApiError, match="cut off"):
        list(_parts(data[:keep]))


def test_endless_fields_are_refused() -> None:
    with pytest.raises(ApiError, match=r"'note' has more than 1\.0 MB"):
        list(_parts(_form([("note", "x" * 2**21)])))
    with pytest.raises(ApiError, match="more than 75 parts"):
        list(_parts(_form([("note", "x")] * 200)))


# -- forms that are read whole --------------------------------------------------------------------

_TYPE = "multipart/form-data; boundary=edge"
_READ = 2**16


@pytest.fixture
def posted() -> Callable[..., AbstractContextManager[RequestContext]]:
    """A request of a body, as the application's handlers see it."""
    app = Flask("forms")
    install_bodies(app)

    def post(data: bytes, kind: str = _TYPE) -> AbstractContextManager[RequestContext]:
        return app.test_request_context("/", method="POST", data=data, content_type=kind)

    return post


def _read(most: int = 10 * 2**20) -> Form:
    return read_form(request, max_file_bytes=most)


@pytest.mark.parametrize("reads", [1, 2])
def test_no_byte_is_added_where_a_read_ends_inside_the_last_boundary(
    posted: Callable[..., AbstractContextManager[RequestContext]], reads: int
) -> None:
    """Werkzeug 3.1.9 adds a carriage return to the file for one of these lengths."""
    around = len(_form([("image", ("a.jpg", b""))])) + 8
    for length in range(reads * _READ - around, reads * _READ + 8):
        content = b"\xff" * length
        with posted(_form([("image", ("a.jpg", content))])):
            file = _read().files["image"]
            assert file.stream.read() == content, length
            assert file.length == length


def test_fields_and_files_are_told_apart(
    posted: Callable[..., AbstractContextManager[RequestContext]],
) -> None:
    data = _form(
        [
            ("quality", "80"),
            ("quality", "90"),
            ("matte_color", ""),
            ("image", ("ü.jpg", b"picture")),
            ("background_image", ("", b"")),
        ]
    )
    with posted(data):
        form = _read()
    assert form.texts == {"quality": "80"}
    assert list(form.files) == ["image"]
    assert (form.files["image"].file_name, form.files["image"].length) == ("ü.jpg", 7)


def _part(head: bytes, content: bytes = b"x") -> bytes:
    return b"--edge\r\n" + head + b"\r\n\r\n" + content + b"\r\n--edge--\r\n"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"""Content-Disposition: form-data; name="image"; filename*=UTF-8''%C3%BC.jpg""", "ü.jpg"),
        (b"""Content-Disposition: form-data; name="image"; filename="\xfc.jpg" """, "\ufffd.jpg"),
    ],
    ids=["RFC 5987", "latin-1"],
)
def test_file_names_of_older_clients(
    posted: Callable[..., AbstractContextManager[RequestContext]], head: bytes, name: str
) -> None:
    with posted(_part(head)):
        assert _read().files["image"].file_name == name


def test_a_field_may_name_its_charset(
    posted: Callable[..., AbstractContextManager[RequestContext]],
) -> None:
    head = b"""Content-Disposition: form-data; name="metadata"
Content-Type: text/plain; charset=ISO-8859-1""".replace(b"\n", b"\r\n")
    with posted(_part(head, b"\xfc")):
        assert _read().texts == {"metadata": "ü"}


def test_a_file_that_is_too_large_is_read_away_and_the_next_one_is_whole(
    posted: Callable[..., AbstractContextManager[RequestContext]],
) -> None:
    data = _form([("images", ("a", b"x" * 100_000)), ("images", ("b", b"y"))])
    with posted(data):
        parts = _parts(data, size=64)
        large, small = (read_file(each, 1000) for each in parts if isinstance(each, FilePart))
        assert large.length == 100_000
        assert len(large.stream.read()) <= 1000
        assert (small.length, small.stream.read()) == (1, b"y")


def test_of_a_file_that_is_too_large_the_length_is_known(
    posted: Callable[..., AbstractContextManager[RequestContext]],
) -> None:
    with posted(_form([("image", ("a.jpg", b"x" * 300_000)), ("quality", "80")])):
        form = _read(most=100_000)
    assert form.files["image"].length == 300_000
    assert form.texts == {"quality": "80"}


@pytest.mark.parametrize(
    ("data", "kind", "error"),
    [
        (b"\r\n", _TYPE, "bad_request"),
        (b"no form at all", _TYPE, "bad_request"),
        (_form([("image", ("a", b"x"))])[:-4], _TYPE, "bad_request"),
        (b"x", "multipart/form-data", "bad_request"),
        (_form([("note", "x" * 600_000)]), _TYPE, "payload_too_large"),
    ],
    ids=["empty", "none", "cut off", "no boundary", "large field"],
)
def test_a_form_that_cannot_be_read(
    posted: Callable[..., AbstractContextManager[RequestContext]],
    data: bytes,
    kind: str,
    error: str,
) -> None:
    with posted(data, kind), pytest.raises(ApiError) as raised:
        _read()
    assert raised.value.row.type == error
