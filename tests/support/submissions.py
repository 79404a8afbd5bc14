"""Sends pictures to the API, and reads its answers."""

import zlib
from typing import Any, Final

from PIL import Image
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from api.errors import ERRORS
from tests.support.pictures import picture_file

PATH: Final = "/api/v1/remove-bg"


def png(color: str = "teal", size: tuple[int, int] = (40, 30)) -> bytes:
    """Return a small picture of one colour."""
    return picture_file(Image.new("RGB", size, color))


def bomb() -> bytes:
    """Return a small PNG whose header promises 30,000 × 30,000 pixels."""
    file = png(size=(1, 1))
    header = file[12:16] + (30_000).to_bytes(4, "big") * 2 + file[24:29]
    return file[:12] + header + zlib.crc32(header).to_bytes(4, "big") + file[33:]


PICTURE: Final = png()


def form(*fields: tuple[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - text, or a file's name and bytes
    """Return the arguments that make a call of a test client send a form."""
    body, kind = encode_multipart_formdata([*fields, *more.items()])
    return {"data": body, "content_type": kind}


def data_of(answer: TestResponse, status: int = 202) -> dict[str, Any]:
    """Return what an answer of this status holds; its envelope is checked."""
    assert answer.status_code == status, answer.text
    body = answer.get_json()
    assert set(body) == {"code", "message", "data", "request_id"}
    assert body["code"] == 0
    return dict(body["data"])


def task_id_of(answer: TestResponse) -> str:
    """Return the id of the task that was accepted."""
    assert answer.status_code in {200, 202}, answer.text
    return str(answer.get_json()["data"]["task_id"])


def refusal(answer: TestResponse, says: str = "") -> tuple[int, str]:
    """Return the status and the type of an error; its envelope, and what it says, are checked."""
    body = answer.get_json()
    assert set(body) == {"code", "message", "data", "error", "request_id"}
    assert body["data"] is None
    assert body["message"]
    assert says in body["message"]
    row = ERRORS[body["error"]["type"]]
    assert (body["code"], answer.status_code) == (row.code, row.status)
    return answer.status_code, row.type


def refused_fields(answer: TestResponse) -> tuple[int, str, set[str]]:
    """Return the status and the type of an error, and the fields that it names."""
    return *refusal(answer), set(answer.get_json()["error"]["fields"])
