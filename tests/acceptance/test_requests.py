"""Addresses, names and forms as real clients write them, through the running service."""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import urllib3

from tests.support.pictures import read_picture
from tests.support.service import RunningService
from tests.support.serving import Request, answer, serving
from tests.support.submissions import PICTURE

_PATH: Final = "/api/v1/remove-bg"
_WAITING: Final = {"Prefer": "wait=50"}


def _post(url: str, path: str = _PATH, **more: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - urllib3's
    got = urllib3.request("POST", url + path, headers=_WAITING, retries=False, timeout=60, **more)
    return got.status, json.loads(got.data)


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("{site}/фото.png?token=" + "a" * 3000 + "#top", ""),
        ("HTTP://{host}/moved", ""),
        ("http://[::ffff:{host}/", "url_not_allowed: malformed"),
        ("http://user:word@{host}/a.png", "url_not_allowed: user name or password"),
        ("http://my_shop.invalid/a.png", "url_unreachable: no public address"),
    ],
)
def test_an_address_is_read_as_clients_write_it(
    service: RunningService, address: str, refused: str
) -> None:
    def handle(request: Request) -> None:
        moved = request.path == "/moved"
        (answer(302, Location="/a b.png") if moved else answer(200, PICTURE))(request)

    with serving(handle) as port:
        url = address.format(site=f"http://127.0.0.1:{port}", host=f"127.0.0.1:{port}")
        status, body = _post(service.url, json={"image_url": url})
    if refused:
        kind, _, words = refused.partition(": ")
        assert (body["error"]["type"], status // 100) == (kind, 4), body
        assert words in json.dumps(body, ensure_ascii=False)
    else:
        assert (status, body["data"]["status"]) == (200, "succeeded"), body


def test_a_cutout_has_the_name_of_its_picture_in_any_script(service: RunningService) -> None:
    _, body = _post(service.url, fields={"image": ("фото кота.jpg", PICTURE)})
    url = f"{service.url}/api/v1/tasks/{body['data']['task_id']}/result?download=true"
    named = f"filename*=UTF-8''{quote('фото кота.png')}"
    assert named in urllib3.request("GET", url).headers["Content-Disposition"]


@pytest.mark.parametrize(("charset", "text"), [("latin-1", "Müller.jpg"), ("shift-jis", "表")])
def test_curl_sends_a_file_whose_name_is_no_utf_8(
    service: RunningService, coffee: Path, tmp_path: Path, charset: str, text: str
) -> None:
    """The second byte of the Japanese letter is a backslash, before the closing quote."""
    name = text.encode(charset)
    picture = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - a name of bytes
    Path(os.fsdecode(picture)).write_bytes(coffee.read_bytes())

    def curl(path: str, *arguments: bytes) -> bytes:
        address = f"{service.url}{path}"
        return subprocess.run(
            [b"curl", b"-sf", b"-H", b"Prefer: wait=50", *arguments, address],
            capture_output=True,
            check=True,
        ).stdout

    single = json.loads(curl(_PATH, b"-F", b"image=@" + picture))["data"]
    assert single["status"] == "succeeded"
    sent = (b"-F", b"images=@" + picture)
    batch = json.loads(curl(f"{_PATH}/batch", *sent, *sent))["data"]
    assert batch["total"] == 2
    assert read_picture(curl("/v1.0/removebg", b"-F", b"image_file=@" + picture)).mode == "RGBA"
    upload = (f"Upload-Length: {coffee.stat().st_size}", "Tus-Resumable: 1.0.0")
    named = f"Upload-Metadata: filename {base64.b64encode(name).decode()}"
    heads = [part for text in (*upload, named) for part in (b"-H", text.encode())]
    assert curl("/api/v1/uploads", b"-X", b"POST", *heads, b"-w", b"%{http_code}") == b"201"
