"""Bodies with long texts: what is read of them is small, and pictures come out of them whole."""

import base64
import io
import json
import random
import tempfile
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from flask import Flask, request

from api.errors import ApiError
from api.forms import Form, read_form, read_json_object
from api.long_texts import LongText, decode_base64, document_of, split_json

MB = 2**20
PICTURE = random.Random(3).randbytes(300_001)
TEXT = base64.b64encode(PICTURE).decode()
_JSON, _URLENCODED = "application/json", "application/x-www-form-urlencoded"


def _read(body: bytes, kind: str) -> dict[str, object] | Form:
    app = Flask("bodies")
    with app.test_request_context("/", method="POST", data=body, content_type=kind):
        if kind == _URLENCODED:
            return read_form(request, max_file_bytes=MB)
        return read_json_object(request)


@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        lambda text: json.dumps(text).replace("/", r"\/"),
        lambda text: json.dumps(text).replace("+", r"\u002B").replace("=", r"\u003d"),
        lambda text: json.dumps(f"\"DATA:image/PNG;name='a';BASE64,{text}\""),
        lambda _: json.dumps(base64.encodebytes(PICTURE).decode()),
    ],
    ids=["plain", "PHP", "C# and Gson", "data", "lines"],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_picture_comes_out_of_json_whole(write: Callable[[str], str], *, on_disk: bool) -> None:
    body = b'{"a": "\\"", "b": ["", {"image_b64": %s}], "c": 1}' % write(TEXT).encode()
    with tempfile.TemporaryFile() as file:
        file.write(body)
        split = split_json(document_of(file if on_disk else io.BytesIO(body)), 1000, "word")
    value = split.restore(json.loads(split.text))
    found = value["b"][1].pop("image_b64")
    assert value == {"a": '"', "b": ["", {}], "c": 1}
    assert b"".join(decode_base64(found)) == PICTURE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data:image/png;base64,QUJD", b"ABC"),
        ('Data:image/PNG;charset="utf-8";Base64,QUJD', b"ABC"),
        ("'data:image/png;name=\"\u00fc,.png\";base64,QUI='", b"AB"),
        ('"QUI="', b"AB"),
    ],
)
def test_a_data_address_may_have_quotes_and_upper_case(text: str, expected: bytes) -> None:
    assert b"".join(decode_base64(text)) == expected


@pytest.mark.parametrize("escape", [quote, quote_plus, str])
def test_a_picture_comes_out_of_a_form_whole(escape: Callable[[str], str]) -> None:
    form = _read(f"size=a%20b&image_file_b64={escape(TEXT)}&crop=1".encode(), _URLENCODED)
    assert isinstance(form, Form)
    assert form.texts == {"size": "a b", "crop": "1"}
    assert b"".join(decode_base64(form.long_texts["image_file_b64"])) == PICTURE


_PADDING_WITHIN = ("AAAA" * 2**16 + "=" + "AAAA" * 2**16, "AA==" + "A" * 2**18)
_QUOTES_WITHIN = ('QU"JD', '"QUJD" ,', "data:x,data:x,QUJD", 'data:a="b,QUJD')


@pytest.mark.parametrize("text", [*_PADDING_WITHIN, "AA", *_QUOTES_WITHIN])
def test_padding_and_quotes_end_base64(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        list(decode_base64(text))


#: Bodies, made when a test wants one: what they are answered, and their type.
_LONG: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "names": (lambda: b'{%s"a":1}' % (b'"a":1,' * MB), "payload_too_large", _JSON),
    "depth": (lambda: b"[" * 9 * MB, "payload_too_large", _JSON),
    "a long name": (lambda: b'{"%s":1}' % (b"a" * 9 * MB), "bad_request", _JSON),
    "a long text": (lambda: b'{"note":"%s"}' % (b"a" * 9 * MB), "payload_too_large", _JSON),
    "quotes": (lambda: b'{"image_b64":"%s"}' % (rb"\"" * 4 * MB), "bad_request", _JSON),
    "backslashes": (lambda: b'{"image_b64":"%s"}' % (b"\\" * 9 * MB), "bad_request", _JSON),
    "no end": (lambda: b'{"image_b64":"' + b"a" * 9 * MB, "bad_request", _JSON),
    "fields": (lambda: b"a=1&" * 3 * MB, "payload_too_large", _URLENCODED),
    "a long field": (lambda: b"note=" + b"%41" * 3 * MB, "payload_too_large", _URLENCODED),
    "a field's long name": (lambda: b"a" * 9 * MB, "payload_too_large", _URLENCODED),
}


@pytest.mark.parametrize("case", _LONG)
def test_what_is_no_picture_is_small(case: str) -> None:
    make, error, kind = _LONG[case]
    body = make()
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as raised:
            _read(body, kind)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert raised.value.row.type == error
    assert len(str(raised.value)) < 500
    # The test's client holds the body in memory, which a server's file is not: two copies of it.
    assert peak < 2 * len(body) + MB


def test_a_large_picture_takes_little_memory() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b'{"image_b64":"%s"}' % (b"A/+/" * 2 * MB))
        tracemalloc.start()
        split = split_json(document_of(file), 1000, "word")
        (text,) = split.long_texts.values()
        assert isinstance(text, LongText)
        assert sum(map(len, decode_base64(text))) == 6 * MB
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 * MB
