"""How the bridge shares its threads and the disk among callers, and sends answers."""

import asyncio
import io
import threading
import time
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask, Response, request

from api.body_reader import BodyReader, BodyShares, End, Receive
from api.callers import OWNER, TRUSTED_PROXIES, given_key
from api.places import TimeShares
from api.wsgi_bridge import (
    CONNECTION,
    MAX_BODY,
    REFUSAL,
    ApiFlask,
    WsgiBridge,
    make_environ,
)
from tasks.api_keys import Owner
from tasks.capacity import FREE_BYTES
from tests.support.clock import Clock

_THREADS = 4
_GB = 2**30


def _app(revoked: Collection[str] = ()) -> Flask:
    """Make an application that knows the owners of the keys `a` and `b`, but for revoked ones."""
    app = ApiFlask(__name__)
    app.config[TRUSTED_PROXIES] = 1

    @app.before_request
    def judge() -> str | tuple[str, int] | None:
        key = given_key(request.environ)
        if key in revoked:
            return "", 401
        if key in {"a", "b"}:
            request.environ[OWNER] = Owner(f"owner {key}", f"{key}")
        request.environ[MAX_BODY] = _GB
        return request.environ.get(REFUSAL)

    app.add_url_rule("/quick", "quick", lambda: "")
    app.add_url_rule("/healthz/quick", "healthy", lambda: "")
    return app


async def _ask(bridge: WsgiBridge, path: str, *, address: str = "127.0.0.1", **headers: str) -> int:
    """Send a request without a body; its status."""
    sent = await _sent(bridge, _scope(path, address, **headers), asyncio.Event().wait)
    return int(sent[0]["status"])


async def _sent(bridge: WsgiBridge, scope: dict[str, Any], receive: Receive) -> list[Any]:
    """What a request is answered: the head, and slices of the body."""
    sent = list[Any]()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await bridge(scope, receive, send)
    return sent


def _body(sent: list[Any]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


class _Processor:
    """The processor's time of each thread: what is busy takes some, and all else none."""

    def __init__(self) -> None:
        self._spent = threading.local()

    def thread_time(self) -> float:
        return getattr(self._spent, "seconds", 0.0)

    def be_busy(self) -> str:
        self._spent.seconds = self.thread_time() + 0.05
        return "done"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> _Processor:
    """In place of the real one, of which a collection of garbage takes more than a share."""
    made = _Processor()
    clocks = SimpleNamespace(thread_time=made.thread_time, perf_counter=time.perf_counter)
    monkeypatch.setattr("api.wsgi_bridge.time", clocks)
    return made


def _scope(path: str, address: str = "127.0.0.1", **headers: str) -> dict[str, Any]:
    given = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return {
        "method": "GET",
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": given,
        "scheme": "http",
        "http_version": "1.1",
        "client": (address, 1),
        "extensions": {CONNECTION: Mock(lost=False)},
    }


@pytest.mark.parametrize(
    "spellings",
    [
        [{"authorization": f"bearer{' ' * (spaces + 1)}a"} for spaces in range(20)],
        [{"authorization": "Bearer a"}, {"x_api_key": "a"}],
        [{"x_api_key": f"guessed {number}"} for number in range(20)],
        [{"authorization": f"Basic {number}"} for number in range(20)],
        [{"x_forwarded_for": f"192.0.2.{number}, 192.0.2.1"} for number in range(20)],
        [{"x_forwarded_for": f"2001:db8::{number}"} for number in range(20)],
    ],
)
async def test_a_caller_whose_requests_are_slow_leaves_threads_to_others(
    spellings: list[dict[str, str]],
) -> None:
    app, running, go_on = _app(), threading.Semaphore(0), threading.Event()

    @app.get("/slow")
    @app.get("/healthz/slow")
    def hold() -> str:
        running.release()
        assert go_on.wait(30)
        return ""

    with WsgiBridge(app, threads=_THREADS) as bridge:
        # Each owner is known from its first request on.
        others = [await _ask(bridge, "/quick", x_api_key=key) for key in "ab"]
        slow = [
            asyncio.ensure_future(_ask(bridge, "/slow", **spellings[number % len(spellings)]))
            for number in range(20)
        ]
        for _ in range(_THREADS // 2):
            await asyncio.to_thread(running.acquire)
        others += [
            await _ask(bridge, "/quick", x_api_key="b"),
            await _ask(bridge, "/quick", address="127.0.0.2"),
            await _ask(bridge, "/quick", x_forwarded_for="192.0.2.2"),
        ]
        # One that waits for a turn may be given up; its turn goes to the next.
        slow.pop().cancel()
        assert not running.acquire(blocking=False)
        # One address leaves a thread for health checks to others.
        slow += [asyncio.ensure_future(_ask(bridge, "/healthz/slow")) for _ in range(20)]
        await asyncio.to_thread(running.acquire)
        others.append(await _ask(bridge, "/healthz/quick", address="127.0.0.2"))
        go_on.set()
        assert others + await asyncio.gather(*slow) == [200] * 45


@pytest.mark.parametrize(
    ("paths", "waits"),
    [
        (8 * ["/busy"], True),
        (["/pieces"], True),
        (1000 * ["/quick"], True),
        (8 * ["/healthz/live"], True),
        (["/busy", "/healthz/live"], False),
    ],
)
async def test_a_caller_waits_for_its_share_of_the_time_and_its_health_checks_for_theirs(
    processor: _Processor, paths: list[str], *, waits: bool
) -> None:
    app = _app()
    app.add_url_rule("/busy", "busy", processor.be_busy)
    app.add_url_rule("/healthz/live", "live", processor.be_busy)
    app.add_url_rule("/pieces", "pieces", lambda: Response(processor.be_busy() for _ in range(8)))

    async def any_waits(bridge: WsgiBridge) -> bool:
        # Its clock stands still: no share comes back.
        shares = bridge._time_shares = TimeShares(Clock())
        await _ask(bridge, "/busy", x_api_key="a")
        for path in paths:
            asked = asyncio.ensure_future(_ask(bridge, path, x_api_key="b"))
            while not asked.done():
                await asyncio.sleep(0.01)
                if any(each.waiting for each in shares._used.values()):
                    asked.cancel()
                    await asyncio.wait([asked])
                    return True
        return False

    with WsgiBridge(app, threads=_THREADS) as bridge:
        assert await any_waits(bridge) == waits


async def test_the_first_request_of_a_key_does_not_wait_among_those_of_its_address(
    processor: _Processor,
) -> None:
    app, asked = _app(), list[str | None]()
    app.add_url_rule("/busy", "busy", processor.be_busy)
    app.before_request(lambda: asked.append(given_key(request.environ)))
    with WsgiBridge(app, threads=_THREADS) as bridge:
        shares = bridge._time_shares = TimeShares(Clock())  # no share comes back
        address = shares._of("from 127.0.0.1")
        await _ask(bridge, "/quick", x_api_key="b")
        await _ask(bridge, "/busy")
        waiting = asyncio.ensure_future(_ask(bridge, "/busy"))
        await asyncio.sleep(0)
        assert address.waiting
        asked.clear()
        used = address.until
        requests = [_ask(bridge, "/quick", x_api_key="a") for _ in range(3)]
        assert await asyncio.wait_for(asyncio.gather(*requests), 30) == [200] * 3
        assert asked == ["a"] * 4, "one of them is judged first"
        assert not waiting.done()
        # What finding that out takes is its address's too, whichever keys it tries.
        assert address.until > used
        waiting.cancel()


async def test_a_revoked_key_takes_no_share_of_its_owners() -> None:
    revoked, callers = set[str](), list[str]()
    with WsgiBridge(_app(revoked), threads=_THREADS) as bridge:
        for now_revoked in ([], ["a"], ["a"]):
            revoked.update(now_revoked)
            await _ask(bridge, "/quick", x_api_key="a")
            callers.append(bridge.caller(make_environ(_scope("/quick", x_api_key="a"))))
    assert callers == ["owner a", "from 127.0.0.1", "from 127.0.0.1"]


@pytest.mark.parametrize(("path", "expected"), [("/busy", 2), ("/api/v1/uploads/x", 3)])
async def test_a_call_is_not_begun_once_its_client_has_gone_but_for_parts_of_uploads(
    path: str, expected: int, processor: _Processor
) -> None:
    app, run = _app(), list[str]()

    @app.route("/busy", methods=["GET", "PATCH"])
    @app.route("/api/v1/uploads/x", methods=["PATCH"])
    def busy() -> str:
        run.append(request.path)
        return processor.be_busy()

    with WsgiBridge(app, threads=_THREADS) as bridge:
        clock = Clock()
        bridge._time_shares = TimeShares(clock)
        for key in "ab":
            await _ask(bridge, "/busy", x_api_key=key)
        scope = _scope(path, x_api_key="b", content_type="application/offset+octet-stream")
        gone = Mock(lost=True, on_wait=lambda wait: wait.cancel())
        scope |= {"method": "PATCH", "extensions": {CONNECTION: gone}}
        asyncio.get_running_loop().call_later(0.1, setattr, clock, "now", clock.now + 10)
        await _sent(bridge, scope, asyncio.Event().wait)
    assert len(run) == expected


async def test_an_answer_is_sent_in_slices_that_a_slow_client_can_take() -> None:
    app, body = _app(), bytes(range(256)) * 9000
    app.add_url_rule("/large", "large", lambda: Response(body))

    with WsgiBridge(app, threads=_THREADS) as bridge:
        sent = await _sent(bridge, _scope("/large"), asyncio.Event().wait)
    assert _body(sent) == body
    assert max(len(message.get("body", b"")) for message in sent) == 2**18


def test_a_caller_has_no_more_of_the_disk_than_it_leaves_free() -> None:
    taken = 0
    shares = BodyShares(lambda _: (100 * _GB, taken, 16 * _GB + FREE_BYTES - taken))
    with shares.share("a") as first, shares.share("a") as second, shares.share("b") as other:
        taken = 8 * _GB
        assert first(4 * _GB)
        assert second(4 * _GB)
        assert not second(5 * _GB)
        assert other(8 * _GB)
        taken = 16 * _GB
        assert not other(_GB)
    taken = 0
    with shares.share("a") as later:
        assert later(16 * _GB)
        assert not later(17 * _GB)
    with BodyShares(lambda _: (FREE_BYTES, 0, FREE_BYTES)).share("a") as on_a_small_disk:
        assert on_a_small_disk(FREE_BYTES // 2)


async def test_a_body_that_finds_no_room_is_read_no_further() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 2**16, "more_body": True}

    reader = BodyReader(receive, _GB, has_room=lambda length: length < 5 * 2**20)
    assert await reader.read_into(io.BytesIO(), _GB) is End.NO_ROOM
    assert reader.length == 5 * 2**20


@pytest.mark.parametrize(("free", "answer", "kept"), [(6, b"", 12), (4, b"store_full", 4)])
async def test_of_an_uploads_chunk_each_part_needs_room(
    free: int, answer: bytes, kept: int
) -> None:
    app, sizes = _app(), list[int]()
    pieces = iter([True] * 12 * 16 + [False])

    @app.route("/api/v1/uploads/x", methods=["PATCH"])
    def take() -> tuple[str, int]:
        sizes.append(len(request.get_data()))
        return "", 204

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(2**16), "more_body": next(pieces)}

    with WsgiBridge(app, threads=_THREADS) as bridge:
        bridge.body_shares = BodyShares(lambda _: (_GB, 0, _GB // 8 + free * 2**20))
        headers = {"content_type": "application/offset+octet-stream"}
        scope = _scope("/api/v1/uploads/x", transfer_encoding="chunked", **headers)
        scope["method"] = "PATCH"
        sent = _body(await _sent(bridge, scope, receive))
    assert (sent, sum(sizes) // 2**20) == (answer, kept)


async def test_bodies_have_places_that_callers_share() -> None:
    """A body that fits into memory needs none."""
    app, large = _app(), 2**16 + 1
    app.add_url_rule("/", "body", lambda: "taken", methods=["POST"])

    go_on, reading, asking = asyncio.Event(), asyncio.Semaphore(0), []

    async def post(key: str, length: int) -> bytes:
        scope = _scope("/", x_api_key=key, content_length=str(length)) | {"method": "POST"}

        async def receive() -> dict[str, Any]:
            reading.release()
            await go_on.wait()
            return {"type": "http.request", "body": bytes(length)}

        return _body(await _sent(bridge, scope, receive))

    with WsgiBridge(app, threads=_THREADS, bodies=8) as bridge:
        for key in "ab":  # each owner is known from its first request on
            await _ask(bridge, "/quick", x_api_key=key)
        for key, length in [("a", large)] * 5 + [("b", large)] * 3 + [("a", 2**16), ("c", large)]:
            asking.append(asyncio.ensure_future(post(key, length)))
            await reading.acquire()  # it is read, or read on
        go_on.set()
        taken, refused = b"taken", b"too_many_bodies"
        expected = [taken] * 4 + [refused] + [taken] * 2 + [refused] + [taken] * 2
        assert await asyncio.gather(*asking) == expected
        assert bridge.bodies.take("a")
