"""Clients that are slow, silent or refused: they keep nobody else from being served."""

import asyncio
import http.client
import json
import random
import socket
import threading
from collections.abc import Iterator
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
from tests.support.service import RunningApi, eventually, running_api
from tests.support.slow_clients import SLOW_CLIENTS, attacking
from tests.support.submissions import PICTURE

MB: Final = 2**20
#: Requests that wait, of each kind so many; `make test-hostile` takes the full size.
SMALL, FULL = 40, 400
_HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5000000\r\n\r\n"


@pytest.fixture(scope="module")
def api(
    servers: Servers, service_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningApi]:
    """The API without workers: what is submitted stays queued."""
    own = {"RMBG_REDIS_URL": servers.new_database(), "RMBG_AUTH": "on", "RMBG_API_WORKERS": "2"}
    with running_api(service_environment | own, tmp_path_factory.mktemp("api") / "api.log") as api:
        yield api


def _new_key(api: RunningApi) -> str:
    with connect(api.env["RMBG_REDIS_URL"]) as client:
        return ApiKeys(client).add(f"owner {random.getrandbits(64)}")[1]


@pytest.fixture
def key(api: RunningApi) -> str:
    return _new_key(api)


@pytest.mark.parametrize(
    "share", [0.1, pytest.param(1.0, marks=[pytest.mark.slow, pytest.mark.hostile])]
)
def test_slow_clients_hold_up_nobody_and_are_closed(
    api: RunningApi, key: str, coffee: Path, share: float
) -> None:
    """All kinds at once, which come back as soon as they are closed."""
    picture = coffee.read_bytes()
    with attacking(api.port, _new_key(api), share=share) as attack:
        for _ in range(20):
            assert api.submit(picture, key).status == 202
            assert urllib3.request("GET", f"{api.url}/healthz/live", timeout=10).status == 200
        outcomes = attack.stop()
    for kind, outcome in outcomes.items():
        # Bodies of one caller beyond its places are refused at once.
        found = [each for each in outcome.statuses if each != "503"]
        assert (outcome.left, tuple(found)) == (0, SLOW_CLIENTS[kind].statuses), kind


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
async def test_requests_that_wait_leave_places_and_threads_to_other_owners(
    api: RunningApi, key: str, count: int
) -> None:
    """Of one owner, so many long polls, event streams and pictures on a slow site."""
    over, begun, crowd = threading.Event(), asyncio.Semaphore(0), _new_key(api)

    def honest() -> None:
        for number in range(10):
            headers = {"Prefer": "wait=1"} if number < 2 else {}
            answer = api.submit(PICTURE, key, **headers)
            assert answer.status == 202
            assert ("Preference-Applied" in answer.headers) == bool(headers)

    async def ask(request: bytes) -> None:
        answer, to = await asyncio.open_connection("127.0.0.1", api.port)
        try:
            to.write(request)
            begun.release()
            await answer.read(2**16)
        finally:
            to.close()

    def silent(client: socket.socket) -> None:
        with client:
            over.wait(60)

    task = json.loads(api.submit(PICTURE, crowd).data)["data"]["task_id"]
    with listening(silent) as site:
        try:
            requests = _requests_that_wait(f"/api/v1/tasks/{task}", crowd, site)
            waiting = [asyncio.ensure_future(ask(each)) for each in count * requests]
            for _ in waiting:
                await begun.acquire()
            await asyncio.to_thread(honest)
            for each in waiting:
                each.cancel()
            await asyncio.wait(waiting)
        finally:
            over.set()


def test_a_head_without_end_is_refused(api: RunningApi) -> None:
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
    api: RunningApi, key: str, case: str, *, announced: bool
) -> None:
    status, path, headers, size = _REFUSED[case]
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    # It reads nothing until it has sent all.
    body: object = bytes(size * MB) if announced else (bytes(MB) for _ in range(size))
    headers = {"X-API-Key": key, "Content-Type": "multipart/form-data; boundary=x"} | headers
    connection.request("POST", path, body, headers, encode_chunked=not announced)  # type: ignore[arg-type] # any iterable
    answer = connection.getresponse()
    assert answer.status == status
    assert json.loads(answer.read())["code"] // 100 == status


def test_node_reads_a_refusal_while_it_sends(api: RunningApi) -> None:
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


async def test_expect_100_continue_is_answered_before_the_body_is_sent(
    api: RunningApi, key: str
) -> None:
    async def ask(key: str) -> bytes:
        answer, to = await asyncio.open_connection("127.0.0.1", api.port)
        to.write(_HEAD % (b"/api/v1/remove-bg", key.encode()) + b"Expect: 100-continue\r\n" + _FORM)
        try:
            async with asyncio.timeout(20):
                return await answer.readline()
        finally:
            to.close()

    assert await ask(key) == b"HTTP/1.1 100 Continue\r\n"
    assert (await ask("guessed")).startswith(b"HTTP/1.1 401")


def test_a_chunk_that_is_cut_off_is_kept_as_far_as_it_came(api: RunningApi, key: str) -> None:
    """Also beyond the parts of 5 MiB in which it is handed on."""
    data = random.Random(18).randbytes(9 * MB)
    tus = {"Tus-Resumable": "1.0.0", "X-API-Key": key}
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
        lambda: urllib3.request("HEAD", url, headers=tus).headers.get("Upload-Offset") == kept,
    )
    rest = chunk | {"Upload-Offset": kept}
    done = urllib3.request("PATCH", url, body=data[7 * MB :], headers=rest)
    assert (done.status, done.headers["Upload-Offset"]) == (204, str(len(data)))
