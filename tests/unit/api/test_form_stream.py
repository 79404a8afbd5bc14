"""Forms are read as they come, whatever the pieces they come in."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from api.errors import ApiError
from api.forms import FilePart, FormStream, TextPart


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


def _stream(data: bytes, *, size: int = 2**16, most: int = 1000, files: int = 10) -> FormStream:
    return FormStream(_Dribble(data, size), "edge", most, files)


@given(st.binary(max_size=900), st.integers(1, 100))
def test_files_and_fields_come_in_their_order(content: bytes, size: int) -> None:
    data = _form(
        [("images", ("ü.jpg", content)), ("quality", "80"), ("images", ("b.png", content + b"!"))]
    )
    seen = []
    for part in _stream(data, size=size).parts():
        if isinstance(part, TextPart):
            seen.append((part.name, part.value))
        else:
            seen.append((part.file_name, io.BufferedReader(part).read()))
    assert seen == [("ü.jpg", content), ("quality", "80"), ("b.png", content + b"!")]


def test_a_file_that_is_not_read_is_skipped() -> None:
    data = _form([("images", ("a", b"x" * 500)), ("images", ("b", b"y"))])
    names = [part.file_name for part in _stream(data).parts() if isinstance(part, FilePart)]
    assert names == ["a", "b"]


def test_a_file_that_is_too_large_is_read_away_and_the_next_one_is_whole() -> None:
    data = _form([("images", ("a", b"x" * 100_000)), ("images", ("b", b"y"))])
    read = []
    for part in _stream(data, size=64).parts():
        assert isinstance(part, FilePart)
        content = io.BufferedReader(part).read()
        read.append((part.length, part.too_large, len(content) <= 1000))
    assert read == [(100_000, True, True), (1, False, True)]


@pytest.mark.parametrize("keep", [0, 10, 100, 180])
def test_a_form_that_is_cut_off_is_told(keep: int) -> None:
    data = _form([("images", ("a.jpg", b"x" * 200))])
    with pytest.raises(ApiError, match="cut off"):
        list(_stream(data[:keep]).parts())


def test_endless_fields_are_refused() -> None:
    with pytest.raises(ApiError, match="too large"):
        list(_stream(_form([("note", "x" * 2**21)])).parts())
    with pytest.raises(ApiError, match="too many"):
        list(_stream(_form([("note", "x")] * 200)).parts())
