"""Requests to the remove.bg API, and its errors."""

import io
from typing import Final

from flask.testing import FlaskClient
from PIL import Image
from urllib3 import encode_multipart_formdata
from werkzeug.test import TestResponse

REMOVE: Final = "/v1.0/removebg"

#: A part of a form: name, bytes, media type.
File = tuple[str, bytes, str]


def picture(name: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
    """Return a noisy picture in a format of Pillow."""
    stream = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(stream, name)
    return stream.getvalue()


def send(client: FlaskClient, path: str = REMOVE, **form: File | str) -> TestResponse:
    """Post a form."""
    body, kind = encode_multipart_formdata(form)
    return client.post(path, data=body, content_type=kind)


def error_of(answer: TestResponse) -> tuple[int, str]:
    """Return the status and the code of a failure, whose shape is checked."""
    (error,) = answer.get_json()["errors"]
    assert set(error) in ({"title", "code"}, {"title", "code", "detail"})
    assert all(isinstance(value, str) and value for value in error.values())
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    return answer.status_code, error["code"]


def accepted(answer: TestResponse) -> bool:
    """Return whether it passed all checks: there is no worker, so it is not finished in time."""
    return error_of(answer) == (503, "not_finished")
