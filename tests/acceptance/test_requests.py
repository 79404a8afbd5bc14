"""Addresses, names and forms as real clients write them, through the running service."""

import base64
import io
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import urllib3

from tests.support.pictures import read_picture
from tests.support.service import RunningService, eventually
from tests.support.serving import Request, answer, serving
from tests.support.submissions import PICTURE, png

_PATH: Final = "/api/v1/remove-bg"
_WAITING: Final = {"Prefer": "wait=50"}
#: Longer than a connection may take to be set up (`HttpClient.connect_seconds`).
_THINKING_SECONDS: Final = 3.2
_B64: Final = base64.b64encode(PICTURE).decode()


def _post(url: str, path: str = _PATH, **more: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - urllib3's
    got = urllib3.request("POST", url + path, headers=_WAITING, retries=False, timeout=60, **more)
    return got.status, json.loads(got.data)


#: Where the site's redirections lead, as their servers write it.
_LOCATIONS: Final = {
    "/space": "/a b.png",
    "/utf-8": "/фото кота.png?größe=1",
    "/long": "/signed.png?token=" + "a" * 3900,
    "/fragment": "/a.png#top",
    "/upper": "HTTP://127.0.0.1:{port}/a.png",
    "/credentials": "http://user:word@127.0.0.1:{port}/a.png",
}


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A web server that thinks longer than a connection may take at `/slow`, and redirects."""
    never = threading.Event()

    def handle(request: Request) -> None:
        if location := _LOCATIONS.get(request.path):
            head = "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: "
            port = request.server.server_address[1]
            request.wfile.write(f"{head}{location.replace('{port}', str(port))}\r\n\r\n".encode())
            return
        if request.path == "/slow":
            never.wait(_THINKING_SECONDS)
        answer(200, PICTURE)(request)

    with serving(handle) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        *((f"{{site}}{path}", "") for path in _LOCATIONS if path != "/credentials"),
        ("{site}/credentials", "url_not_allowed: must not contain a user name or password"),
        ("{site}/slow", ""),
        ("{site}/a.png?token=" + "a" * 3900, ""),
        ("{site}/a.png?token=" + "a" * 4096, "invalid_parameter: the limit is 4096"),
        ("{site}/фото.png#top", ""),
        ("{site}/a b.png", "invalid_parameter: write a space as %20"),
        ("HTTP://127.0.0.1:{port}/a.png", ""),
        ("http://[::ffff:127.0.0.1]:{port}/", "url_not_allowed: not on the public internet"),
        ("http://[::1", "url_not_allowed: malformed"),
        ("http://user:word@127.0.0.1:{port}/a.png", "url_not_allowed: user name or password"),
        ("http://my_shop.invalid/a.png", "url_unreachable: does not know the host"),
        (f"data:image/png;base64,{_B64}", "invalid_parameter: begins with http://"),
    ],
)
def test_an_address_is_read_as_clients_write_it(
    service: RunningService, site: str, address: str, refused: str
) -> None:
    url = address.replace("{site}", site).replace("{port}", site.rpartition(":")[2])
    status, body = _post(service.url, json={"image_url": url})
    if refused:
        kind, _, words = refused.partition(": ")
        assert (body["error"]["type"], status // 100) == (kind, 4), body
        assert words in json.dumps(body, ensure_ascii=False)
    else:
        assert (status, body["data"]["status"]) == (200, "succeeded"), body


@pytest.mark.parametrize(
    "prefix",
    [
        "DATA:IMAGE/PNG;BASE64,",
        'data:image/png;name="a, b;c.png";base64,',
        "data:image/png;charset=utf-8;base64,",
    ],
)
def test_a_data_address_is_read_with_quotes_and_upper_case(
    service: RunningService, prefix: str
) -> None:
    status, body = _post(service.url, json={"image_b64": prefix + _B64})
    assert (status, body["data"]["status"]) == (200, "succeeded")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([("image", ("a.png", PICTURE)), ("image", ("b.png", PICTURE))], "more than one file"),
        ([("image", ("a.png", PICTURE)), ("image_url", "http://a.example/")], "image_url"),
        ([("image", ("a.png", PICTURE)), ("image_b64", _B64)], "image_b64"),
        ([("image", "a.png")], "send it as a file"),
    ],
    ids=["two files", "a file and an address", "a file and base64", "a text"],
)
def test_a_form_with_more_than_one_picture_is_refused(
    service: RunningService, fields: list[tuple[str, Any]], words: str
) -> None:
    status, body = _post(service.url, fields=fields)
    assert status // 100 == 4
    assert words in json.dumps(body)


#: Names as clients send them, and of the cutouts in a batch's archive.
_NAMES: Final = {
    "фото кота.jpg": "фото кота.png",
    "CON.png": "_CON.png",
    "e\u0301.jpg": "\xe9.png",
    "\xe9.jpg": "\xe9-2.png",
    "../../a/猫.jpg": "猫.png",
    "ж" * 150 + ".jpg": "ж" * 100 + ".png",
}


def test_names_are_kept_and_fit_every_file_system(service: RunningService) -> None:
    files = [("images", (name, png(size=(30 + at, 30)))) for at, name in enumerate(_NAMES)]
    _, body = _post(service.url, f"{_PATH}/batch", fields=files)
    path = f"/api/v1/batches/{body['data']['batch_id']}"

    def ended() -> dict[str, Any] | None:
        batch = service.client.request("GET", path)
        return batch if batch["status"] == "completed" else None

    batch = eventually("the batch is completed", ended)
    address = f"{service.url}{path}/archive"
    with zipfile.ZipFile(io.BytesIO(service.client.download(address))) as archive:
        assert archive.namelist() == list(_NAMES.values())
    task_id = batch["items"][0]["task_id"]
    named = f"filename*=UTF-8''{quote('фото кота.png')}"
    result = urllib3.request("GET", f"{service.url}/api/v1/tasks/{task_id}/result?download=true")
    assert named in result.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("charset", "text"),
    [("latin-1", "Müller.jpg"), ("shift-jis", "表"), ("gbk", "猫.jpg"), ("cp1251", "кот.jpg")],
)
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
