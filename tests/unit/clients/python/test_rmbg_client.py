"""The Python client without a service: retries, time limits, uploads, the API's tables."""

# ruff: noqa: ANN401, FBT001 - calls of both clients by their names

import ast
import asyncio
import base64
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

import rmbg_client
from api.errors import ERRORS
from api.parameters import TaskParameters
from api.schemas import BatchSchema, ItemSchema, TaskErrorSchema, TaskSchema
from inference.version import __version__
from rmbg_client import AsyncClient, Bytes, Client, NoAnswerError, RetryPolicy, Upload, Url
from rmbg_client.calls import CHUNK_BYTES
from rmbg_client.errors import NoCutoutError, ServiceError, WaitTimeoutError
from rmbg_client.models import Batch, BatchItem, Task, TaskError
from rmbg_client.parameters import PARAMETERS, Parameters
from rmbg_client.service_errors import SERVICE_ERRORS, TaskNotFoundError
from rmbg_client.transport import make_http
from tests.support.clock import Clock
from tests.support.paths import ROOT

CLIENT = ROOT / "clients" / "python"
URL = "http://rmbg/base/"
TASK = {
    **dict.fromkeys(TaskSchema().fields),
    "task_id": "rm-1",
    "status": "succeeded",
    "result_url": "http://store/cutout",
    "cached": False,
    "model": "u2netp",
    "attempts": 1,
    "metadata": {},
    "timings": {},
    **dict.fromkeys(("created_at", "expires_at"), "2026-11-27T10:00:00+00:00"),
}
QUEUED = {"task_id": "rm-1", "status": "queued", "position": 0}

Answers = Callable[[httpx.Request], httpx.Response]


def good(data: object, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": 0, "data": data}, headers=headers)


def refused(name: str, **headers: str) -> httpx.Response:
    row = ERRORS[name]
    body = {"code": row.code, "message": row.message, "request_id": "req-1"}
    error = {"type": name, "fields": {"image": "wrong"}}
    named = {header.replace("_", "-"): value for header, value in headers.items()}
    return httpx.Response(row.status, json={**body, "error": error}, headers=named)


class Scene:
    """A client whose service answers from a list; time passes by sleeping alone."""

    def __init__(self, answers: list[Any], *, is_async: bool = False, **options: Any) -> None:
        self.seen: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self.slept: list[float] = []
        self.clock = Clock(0.0)
        self._answers = iter(answers)
        self._is_async = is_async
        given = {"retries": RetryPolicy(random=lambda: 1.0), "api_key": "k", **options}
        self._options = {"clock": self.clock, **given}

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        self.bodies.append(request.content)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer  # type: ignore[no-any-return]

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.now += seconds

    async def _sleep_later(self, seconds: float) -> None:
        self._sleep(seconds)

    def run(self, call: str, *arguments: Any, **options: Any) -> Any:
        if self._is_async:
            return asyncio.run(self._run_async(call, *arguments, **options))
        http = httpx.Client(transport=httpx.MockTransport(self._answer))
        with http, Client(URL, http=http, sleep=self._sleep, **self._options) as client:
            return getattr(client, call)(*arguments, **options)

    async def _run_async(self, call: str, *arguments: Any, **options: Any) -> Any:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        sleep = self._sleep_later
        async with http, AsyncClient(URL, http=http, sleep=sleep, **self._options) as client:
            return await getattr(client, call)(*arguments, **options)


@pytest.fixture(params=[False, True], ids=["blocking", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_submission_is_sent_again_under_its_key_as_the_service_asks(
    is_async: bool, tmp_path: Path
) -> None:
    photo = tmp_path / "caf\udce9.jpg"
    photo.write_bytes(b"photo")
    scene = Scene(
        [
            refused("too_many_requests", Retry_After="7"),
            httpx.ReadError("cut off"),
            httpx.Response(502, text="<html>"),
            refused("idempotency_in_progress"),
            good(QUEUED, 202, **{"Idempotency-Replayed": "true"}),
        ],
        is_async=is_async,
    )
    found = scene.run("submit", photo, crop=True, metadata={"order": 17}, quality=80)
    assert (found.task_id, found.replayed, found.task) == ("rm-1", True, None)
    assert scene.slept == [7.0, 1.0, 2.0, 4.0]
    assert len({request.headers["Idempotency-Key"] for request in scene.seen}) == 1
    assert {str(request.url) for request in scene.seen} == {"http://rmbg/base/api/v1/remove-bg"}
    for body in scene.bodies:
        assert 'filename="café.jpg"'.encode() in body
        assert all(part in body for part in (b"photo", b'{"order": 17}', b"\r\n\r\ntrue\r\n"))


@pytest.mark.parametrize(
    ("picture", "sent"),
    [
        (Url("https://shop/a.jpg"), {"image_url": "https://shop/a.jpg"}),
        ("HTTPS://shop/a.jpg", {"image_url": "HTTPS://shop/a.jpg"}),
        (Upload("up-1"), {"upload_id": "up-1"}),
    ],
)
def test_addresses_and_uploads_are_sent_as_json(picture: Any, sent: dict[str, str]) -> None:
    values = {"batch_id": "rb-1", "status": "completed", "total": 0, "counts": {}, "items": []}
    batch = {name: values.get(name, TASK.get(name)) for name in BatchSchema().fields}
    scene = Scene([good(TASK), good(batch, 202)])
    assert scene.run("submit", picture, crop=True, wait=99).task.final
    assert scene.seen[0].headers["Prefer"] == "wait=20"
    assert json.loads(scene.bodies[0]) == {**sent, "crop": True}
    scene.run("submit_batch", [picture, picture], quality=5)
    assert json.loads(scene.bodies[1]) == {"quality": 5, "items": [sent, sent]}
    with pytest.raises(ValueError, match="two batches"):
        scene.run("submit_batch", [picture, b"bytes"])


@pytest.mark.parametrize(
    ("answers", "slept"),
    [
        ([refused("invalid_image")], []),  # it stays as it is
        ([refused("rate_limited", Retry_After="3600")], []),  # for the caller to decide
        ([refused("queue_full")] * 3, [0.5, 1.0]),
    ],
)
def test_a_refusal_has_the_type_of_its_error(answers: list[Any], slept: list[float]) -> None:
    scene = Scene(answers, retries=RetryPolicy(3, random=lambda: 1.0))
    with pytest.raises(ServiceError) as caught:
        scene.run("submit", b"bytes")
    error = caught.value
    assert type(error) is SERVICE_ERRORS[error.type]
    assert error.code == ERRORS[error.type].code
    assert (error.fields, error.request_id) == ({"image": "wrong"}, "req-1")
    assert scene.slept == slept


@pytest.mark.parametrize(
    ("call", "answers"),
    [
        ("cancel", [httpx.ReadError("lost"), refused("task_finished"), good(TASK)]),
        ("erase", [httpx.ReadError("lost"), refused("task_not_found")]),
        ("erase_batch", [refused("batch_not_found")]),
        ("end_upload", [refused("upload_not_found")]),
    ],
)
def test_what_an_attempt_without_an_answer_did_is_no_error(call: str, answers: list[Any]) -> None:
    scene = Scene(answers)
    scene.run(call, "id/../x")
    assert len(scene.seen) == len(answers)
    assert scene.seen[0].url.raw_path.endswith((b"id%2F..%2Fx", b"id%2F..%2Fx/cancel"))


def test_a_wait_outlasts_a_restart_and_ends_with_its_limit(is_async: bool) -> None:
    down = [httpx.ConnectError("refused")] * 20
    scene = Scene([*down[:12], good({**TASK, "status": "queued"}), good(TASK)], is_async=is_async)
    assert scene.run("wait", "rm-1", limit=300).status == "succeeded"
    scene = Scene(down, is_async=is_async)
    with pytest.raises(WaitTimeoutError, match="rm-1 did not end within 30 s"):
        scene.run("wait", "rm-1", limit=30)
    assert scene.clock.now == pytest.approx(30)
    with pytest.raises(TaskNotFoundError):
        Scene([refused("task_not_found")]).run("wait", "rm-1")
    with pytest.raises(NoCutoutError, match="failed"):
        Scene([good({**TASK, "status": "failed"})]).run("wait", "rm-1")


def test_an_expired_address_is_asked_for_again_and_gets_no_key(tmp_path: Path) -> None:
    old, new = ({**TASK, "result_url": f"http://store/{each}"} for each in ("old", "new"))
    answers = [good(old), httpx.Response(403, text="<Expired/>"), good(new)]
    target = tmp_path / ("ü" * 125 + ".png")  # 254 bytes
    scene = Scene([*answers, httpx.Response(200, content=b"cutout")])
    assert scene.run("download", "rm-1", target) == target
    assert target.read_bytes() == b"cutout"
    keyed = [request.url.path for request in scene.seen if "X-API-Key" in request.headers]
    assert keyed == ["/base/api/v1/tasks/rm-1"] * 2
    broken = Scene([good(old), *[httpx.ReadError("cut off")] * 8])
    target.unlink()
    with pytest.raises(NoAnswerError):
        broken.run("download", "rm-1", target)
    assert list(tmp_path.iterdir()) == []


class _Trickle(httpx.SyncByteStream):
    """A body whose pieces come a minute apart."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self._clock.now += 60
            yield b"x"


def test_the_time_limit_is_of_a_whole_answer() -> None:
    scene = Scene([good(TASK)], timeout=100, retries=RetryPolicy(1))
    scene._answers = iter([good(TASK), httpx.Response(200, stream=_Trickle(scene.clock))])
    with pytest.raises(NoAnswerError, match="within 100 s"):
        scene.run("result", "rm-1")
    assert scene.clock.now == 120


def test_an_upload_goes_on_where_the_service_says(is_async: bool) -> None:
    content = bytes(range(256)) * (CHUNK_BYTES // 256) + b"the end"
    got = bytearray()

    keys = list[str]()

    def lose(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        raise httpx.ReadError("cut off")

    def begun(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        name = request.headers["Upload-Metadata"].removeprefix("filename ")
        assert base64.b64decode(name).decode() == "ü.jpg"
        assert request.headers["Upload-Length"] == str(len(content))
        return httpx.Response(201, headers={"Location": "http://rmbg/api/v1/uploads/up-1"})

    def ask(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Upload-Offset": str(len(got))})

    def take(request: httpx.Request) -> httpx.Response:
        assert int(request.headers["Upload-Offset"]) == len(got)
        got.extend(request.content)
        return httpx.Response(204, headers={"Upload-Offset": str(len(got))})

    def lose_half(request: httpx.Request) -> httpx.Response:
        got.extend(request.content[:1000])
        raise httpx.ReadError("cut off")

    lost = [lose_half, refused("upload_locked"), ask, refused("checksum_mismatch"), ask]
    scene = Scene([lose, begun, ask, *lost, take, take], is_async=is_async)
    assert scene.run("upload", Bytes(content, "ü.jpg")) == "up-1"
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert bytes(got) == content
    got.clear()
    gone = Scene([begun, ask, refused("upload_expired")])
    with pytest.raises(ServiceError, match="expired"):
        gone.run("upload", Bytes(content, "ü.jpg"))


def test_both_clients_have_the_same_calls() -> None:
    calls = {
        name: inspect.signature(call)
        for name, call in vars(Client).items()
        if not name.startswith("_") and name != "close"
    }
    assert len(calls) > 15
    for name, signature in calls.items():
        assert inspect.signature(getattr(AsyncClient, name)) == signature, name


def test_the_parameters_are_those_of_the_api() -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    schemas = document["components"]["schemas"]
    known = set(schemas["RemovalForm"]["properties"])
    pictures = {"image", "image_url", "image_b64", "upload_id"}
    assert set(Parameters.__annotations__) == known - pictures
    assert [each.name for each in PARAMETERS] == list(TaskParameters().fields)


def test_the_answers_have_the_fields_of_the_api() -> None:
    schemas = {Task: TaskSchema, Batch: BatchSchema, BatchItem: ItemSchema}
    for own, schema in {**schemas, TaskError: TaskErrorSchema}.items():
        fields = {field.name for field in dataclasses.fields(own)}
        assert set(schema().fields) - fields <= {"status_url", "archive_url"}
        assert fields <= set(schema().fields), own


def test_the_client_stands_alone() -> None:
    allowed = {*sys.stdlib_module_names, "httpx2", "rmbg_client"}
    for path in (CLIENT / "rmbg_client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [each.name for each in node.names]
                roots = names if isinstance(node, ast.Import) else [str(node.module)]
                assert {root.partition(".")[0] for root in roots} <= allowed, path
    assert f'version = "{__version__}"' in (CLIENT / "pyproject.toml").read_text()
    assert all(hasattr(rmbg_client, name) for name in rmbg_client.__all__)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_what_cannot_work_is_refused_at_once(client: type[Client] | type[AsyncClient]) -> None:
    for url in ("", "localhost:8000", "ftp://shop.example", "http://"):
        with pytest.raises(ValueError, match="http://HOST:PORT"):
            client(url)
    with pytest.raises(ValueError, match="API key"):
        client(api_key="schlüssel")
    with pytest.raises(ValueError, match="1 for no retries"):
        RetryPolicy(attempts=0)
    with pytest.raises(NoAnswerError, match="no rmbg service"):
        Scene([httpx.Response(200, text="<html>")]).run("info")


@pytest.mark.parametrize("kind", [httpx.Client, httpx.AsyncClient])
def test_a_proxy_is_used_except_for_loopback(
    kind: type[httpx.Client] | type[httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "")
    for host, direct in {
        "127.0.0.1": True,
        "localhost": True,
        "[::1]": True,
        "shop": False,
    }.items():
        url = f"http://{host}:8000"
        http = make_http(kind, url)
        assert (http._transport_for_url(httpx.URL(url)) is http._transport) == direct, host
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example")
    monkeypatch.setitem(sys.modules, "socksio", None)
    make_http(kind, "http://127.0.0.1:8000")
    with pytest.raises(ValueError, match=r"httpx2\[socks\]"):
        make_http(kind, "http://shop:8000")


def test_certificates_that_cannot_be_read_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, reason in {"/none": "No such file", __file__: "no certificate"}.items():
        monkeypatch.setenv("SSL_CERT_FILE", path)
        with pytest.raises(ValueError, match=f"SSL_CERT_FILE .* cannot be read: .*{reason}"):
            Client()
