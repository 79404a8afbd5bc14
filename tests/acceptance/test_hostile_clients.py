"""Clients that are slow, silent or refused: they keep nobody else from being served."""

import asyncio
import http.client
import json
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from typing import Final

import pytest
import urllib3

from api.server import MAX_HEAD_BYTES
from tasks.api_keys import ApiKeys
from tasks.redis_client import connect
from tests.support.listening import listening
from tests.support.programs import run_program
from tests.support.servers import Servers
from tests.support.service import eventually, running_api
from tests.support.slow_clients import SLOW_CLIENTS, attacking

MB: Final = 2**20
#: Requests that wait, of each kind so many; `make test-hostile` takes the full size.
SMALL, FULL = 40, 400
_HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5000000\r\n\r\n"


@dataclass(frozen=True)
class Api:
    """The API as it is served, without workers: what is submitted stays queued."""

    url: str
    port: int
    key: str
    redis_url: str

    def new_key(self) -> str:
        with connect(self.redis_url) as client:
            return ApiKeys(client).add(f"owner {random.getrandbits(64)}")[1]

    def submit(self, picture: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
        return urllib3.request(
            "POST",
            f"{self.url}/api/v1/remove-bg",
            fields={"image": ("a.jpg", picture), "cache": "false"},
            headers={"X-API-Key": self.key, **headers},
            retries=False,
            timeout=30,
        )


@pytest.fixture(scope="module")
def api(
    servers: Servers,
    service_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    url = servers.new_database()
    env = service_environment | {"RMBG_REDIS_URL": url, "RMBG_AUTH": "on", "RMBG_API_WORKERS": "2"}
    with connect(url) as client:
        _, key = ApiKeys(client).add("shop")
    with running_api(env, tmp_path_factory.mktemp("api") / "api.log") as api:
        yield Api(api.url, api.port, key, url)


@pytest.mark.parametrize(
    "share", [0.1, pytest.param(1.0, marks=[pytest.mark.slow, pytest.mark.hostile])]
)
def test_slow_clients_hold_up_nobody_and_are_closed(api: Api, coffee: Path, share: float) -> None:
    """All kinds at once, which come back as soon as they are closed."""
    picture, honest = coffee.read_bytes(), replace(api, key=api.new_key())
    with attacking(api.port, api.key, share=share) as attack:
        for _ in range(20):
            assert honest.submit(picture).status == 202
            assert urllib3.request("GET", f"{api.url}/healthz/live", timeout=10).status == 200
        outcomes = attack.stop()
    for kind, outcome in outcomes.items():
        # Bodies of one caller beyond its places are refused at once.
        found = [each for each in outcome.statuses if each != "503"]
        assert (outcome.left, tuple(found)) == (0, SLOW_CLIENTS[kind].statuses), kind


async def _raw(api: Api, request: bytes, begun: asyncio.Semaphore) -> bytes:
    """Send a request; return the first line and more of what comes until the connection ends."""
    answer, to = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        to.write(request)
        begun.release()
        return await answer.read(2**16)
    finally:
        to.close()


def _requests_that_wait(task: str, key: str, slow_site: int) -> list[bytes]:
    get = f"GET %s HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n"
    body = json.dumps({"image_url": f"http://127.0.0.1:{slow_site}/a.png"})
    post = (
        f"POST /api/v1/remove-bg HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    return [each.encode() for each in (get % f"{task}?wait=60", get % f"{task}/events", post)]


@pytest.mark.parametrize(
    "count", [2 * SMALL, pytest.param(FULL, marks=[pytest.mark.slow, pytest.mark.hostile])]
)
def test_requests_that_wait_leave_places_and_threads_to_other_owners(
    api: Api, coffee: Path, count: int
) -> None:
    """Of one owner, so many long polls, event streams and pictures on a slow site."""
    picture, over = coffee.read_bytes(), threading.Event()

    def honest() -> None:
        for number in range(10):
            headers = {"Prefer": "wait=1"} if number < 2 else {}
            answer = api.submit(picture, **headers)
            assert answer.status == 202
            assert ("Preference-Applied" in answer.headers) == bool(headers)

    async def beside(requests: list[bytes]) -> None:
        begun = asyncio.Semaphore(0)
        waiting = [asyncio.ensure_future(_raw(api, each, begun)) for each in count * requests]
        for _ in waiting:
            await begun.acquire()
        await asyncio.to_thread(honest)
        for each in waiting:
            each.cancel()

    def silent(client: socket.socket) -> None:
        with client:
            over.wait(60)

    crowd = replace(api, key=api.new_key())
    task = json.loads(crowd.submit(picture).data)["data"]["task_id"]
    with listening(silent) as site:
        try:
            asyncio.run(beside(_requests_that_wait(f"/api/v1/tasks/{task}", crowd.key, site)))
        finally:
            over.set()


def test_a_head_without_end_is_refused(api: Api) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    connection.putrequest("GET", "/api/v1/info")
    connection.putheader("X-Long", "a" * (2 * MAX_HEAD_BYTES))
    connection.endheaders()
    assert connection.getresponse().status == 431


_REFUSED: Final = {
    "a wrong key": (401, "/api/v1/remove-bg", {"X-API-Key": "guessed"}, 20),
    "no such endpoint": (404, "/api/v1/nothing", {}, 20),
    "too large": (413, "/api/v1/remove-bg", {}, 40),
    "an old tus": (412, "/api/v1/uploads", {"Tus-Resumable": "0.9"}, 20),
}


@pytest.mark.parametrize("case", _REFUSED)
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_refused_client_reads_the_answer_though_it_sends_on(
    api: Api, case: str, *, announced: bool
) -> None:
    status, path, headers, size = _REFUSED[case]
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    # It reads nothing until it has sent all.
    body: object = bytes(size * MB) if announced else (bytes(MB) for _ in range(size))
    headers = {"X-API-Key": api.key, "Content-Type": "multipart/form-data; boundary=x"} | headers
    connection.request("POST", path, body, headers, encode_chunked=not announced)  # type: ignore[arg-type] # any iterable
    answer = connection.getresponse()
    assert answer.status == status
    assert json.loads(answer.read())["code"] // 100 == status


def test_node_reads_a_refusal_while_it_sends(api: Api) -> None:
    node = which("node")
    if node is None:
        pytest.skip("needs node")
    script = """
    const body = new Uint8Array(20 * 2 ** 20);
    for (let i = 0; i < 7; i++) {
      const answer = await fetch(process.argv[1], {method: "POST", body});
      console.log(answer.status, (await answer.json()).error.type);
    }"""
    done = run_program(node, "--input-type=module", "-e", script, f"{api.url}/api/v1/remove-bg")
    assert done.stdout.splitlines() == ["401 unauthorized"] * 7, done.stderr


def test_expect_100_continue_is_answered_before_the_body_is_sent(api: Api) -> None:
    async def ask(key: str) -> bytes:
        answer, to = await asyncio.open_connection("127.0.0.1", api.port)
        to.write(_HEAD % (b"/api/v1/remove-bg", key.encode()) + b"Expect: 100-continue\r\n" + _FORM)
        try:
            async with asyncio.timeout(20):
                return await answer.readline()
        finally:
            to.close()

    assert asyncio.run(ask(api.key)) == b"HTTP/1.1 100 Continue\r\n"
    assert asyncio.run(ask("guessed")).startswith(b"HTTP/1.1 401")


def test_a_chunk_that_is_cut_off_is_kept_as_far_as_it_came(api: Api) -> None:
    """Also beyond the parts of 5 MiB in which it is handed on."""
    data = random.Random(18).randbytes(9 * MB)
    tus = {"Tus-Resumable": "1.0.0", "X-API-Key": api.key}
    length = {"Upload-Length": str(len(data))}
    began = urllib3.request("POST", f"{api.url}/api/v1/uploads", headers=tus | length)
    url = began.headers["Location"]
    chunk = tus | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    connection.putrequest("PATCH", url.removeprefix(api.url))
    for name, value in {**chunk, "Content-Length": str(len(data))}.items():
        connection.putheader(name, value)
    connection.endheaders(data[: 7 * MB])
    connection.close()
    kept = str(7 * MB)
    eventually(
        "what came is kept",
        lambda: urllib3.request("HEAD", url, headers=tus).headers["Upload-Offset"] == kept,
    )
    rest = chunk | {"Upload-Offset": kept}
    done = urllib3.request("PATCH", url, body=data[7 * MB :], headers=rest)
    assert (done.status, done.headers["Upload-Offset"]) == (204, str(len(data)))
