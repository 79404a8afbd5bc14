"""A connection whose client takes nothing of its answer, and how many a process has to Redis."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from unittest.mock import Mock

import h11
import pytest
from uvicorn._types import ASGIApplication
from uvicorn.config import Config
from uvicorn.server import ServerState

from api import server
from api.circuit_breaker import REDIS_CONNECTIONS, BreakerRedis, CircuitBreaker
from api.server import _THREADS, Connection, ConnectionTable, connection_table, share_files
from api.wsgi_bridge import CONNECTION


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
async def test_a_connection_with_an_unread_answer_is_closed(
    monkeypatch: pytest.MonkeyPatch, close: bytes
) -> None:
    monkeypatch.setattr(server, "SEND_SECONDS", 0.2)
    lost = asyncio.Event()

    async def answer(_scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 2**22})

    class Observed(Connection):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    async with _listening(answer, Observed) as address:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(address)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n")
            await asyncio.wait_for(lost.wait(), 30)


async def test_a_wait_is_cancelled_once_its_client_has_gone() -> None:
    waits = asyncio.Queue[asyncio.Future[None]]()

    async def answer(scope: Any, _receive: Any, _send: Any) -> None:  # noqa: ANN401 - ASGI's
        for _ in range(2):  # the second one begins when it has gone
            wait = asyncio.get_running_loop().create_future()
            scope["extensions"][CONNECTION].on_wait(wait)
            waits.put_nowait(wait)
            await asyncio.wait([wait])

    async with _connected(answer) as (_, to):
        to.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        first = await waits.get()
        to.close()
        second = await asyncio.wait_for(waits.get(), 30)
        assert first.cancelled()
        await asyncio.wait([second], timeout=30)
        assert second.cancelled()


async def test_of_too_many_connections_the_one_whose_request_waits_for_its_turn_is_closed() -> None:
    asked = asyncio.Queue[None]()

    async def answer(scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        if scope["raw_path"] == b"/waits":
            wait = asyncio.get_running_loop().create_future()
            scope["extensions"][CONNECTION].on_wait(wait)
            asked.put_nowait(None)
            await asyncio.wait([wait])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async with _listening(answer, most=2) as address, AsyncExitStack() as stack:

        async def send(path: bytes) -> asyncio.StreamReader:
            reading, to = await asyncio.open_connection(*address)
            stack.callback(to.close)
            to.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            return reading

        waiting = []
        for _ in range(2):
            waiting.append(await send(b"/waits"))
            await asked.get()
        assert await (await send(b"/new")).read(12) == b"HTTP/1.1 200"
        refusal = await waiting[0].read()
        assert refusal.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5\r\n" in refusal


@asynccontextmanager
async def _listening(
    answer: ASGIApplication, kind: type[Connection] = Connection, *, most: int = 8
) -> AsyncIterator[tuple[str, int]]:
    """The address of an application that has so many connections."""
    table, config = ConnectionTable(most, most), Config(answer, log_config=None)
    config.load()
    listening = await asyncio.get_running_loop().create_server(
        lambda: kind(config, ServerState(), {}, table=table), "127.0.0.1"
    )
    async with listening:
        yield listening.sockets[0].getsockname()


@asynccontextmanager
async def _connected(
    answer: ASGIApplication,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an application."""
    async with _listening(answer) as address:
        reading, to = await asyncio.open_connection(*address)
        yield reading, to
        to.close()


@pytest.mark.parametrize(
    ("line", "lengths", "expected"),
    [
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
        ("POST / HTTP/1.0", "Transfer-Encoding: chunked", 400),
        ("POST / HTTP/1.1", "Transfer-Encoding: xchunked", 400),
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        ("POST / HTTP/1.1", "Transfer-Encoding : chunked", 400),
        ("POST / HTTP/1.1", "Content-Length: 5\r\nContent-Length: 6", 400),
        ("POST / HTTP/1.1", "Content-Length: +5", 400),
        ("POST / HTTP/1.1", "X: a\r\n Content-Length: 5\r\nTransfer-Encoding: chunked", 200),
    ],
)
async def test_no_body_has_an_end_that_depends_on_who_reads_it(
    line: str, lengths: str, expected: int
) -> None:
    """What a proxy takes for a body is no request here, and the other way round."""
    asked = []

    async def answer(scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async with _connected(answer) as (reading, to):
        to.write(f"{line}\r\nHost: x\r\n{lengths}\r\n\r\n0\r\n\r\n".encode())
        if expected == 400:
            to.write(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        got = await reading.read(-1 if expected == 400 else 12)
    assert got.startswith(b"HTTP/1.1 %d" % expected)
    assert asked == ["/"] * (expected == 200)


@pytest.mark.parametrize(
    ("head", "trailers", "expected"),
    [
        (b"a:\r\n" * 97, b"", 200),
        (b"a:\r\n" * 98, b"", 431),
        (b"a: b\n c\n" * 49, b"", 431),
        (b"a: %b\r\n" % bytes(2**16).replace(b"\0", b"b"), b"", 431),
        (b"", b"a:\r\n" * 100, 200),
        (b"", b"a:\r\n" * 101, 431),
    ],
)
def test_a_head_and_trailers_are_bounded_also_where_they_come_at_once(
    head: bytes, trailers: bytes, expected: int
) -> None:
    parser = server.BoundedParser()
    parser.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\n%b" % head)
    parser.receive_data(b"Transfer-Encoding: chunked\r\n\r\n0\r\n%b\r\n" % trailers)

    def parse() -> int:
        try:
            while not isinstance(parser.next_event(), h11.EndOfMessage):
                pass
        except h11.RemoteProtocolError:
            assert parser.too_large_head
            return 431
        return 200

    assert parse() == expected


@pytest.mark.parametrize(
    ("chunk", "count", "begun", "expected"),
    [
        (1, 50_000, False, b"HTTP/1.1 400"),
        (99, 50_000, False, b"HTTP/1.1 400"),
        (1, 50_000, True, b""),
        (1, 4000, False, b"HTTP/1.1 200"),
        (256, 20_000, False, b"HTTP/1.1 200"),
    ],
)
async def test_a_body_in_tiny_chunks_is_parsed_no_further(
    chunk: int, count: int, expected: bytes, *, begun: bool
) -> None:
    """Also while it is read on after its refusal."""

    async def answer(_scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        head = {"type": "http.response.start", "status": 200, "headers": []}
        if begun:
            await send(head)
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            await send(head)
            await send({"type": "http.response.body"})

    got = b""
    async with _connected(answer) as (reading, to):
        to.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        if begun:
            await reading.readuntil(b"\r\n\r\n")
        to.write(count * (b"%x\r\n%b\r\n" % (chunk, bytes(chunk))) + b"0\r\n\r\n")
        with suppress(ConnectionError):
            got = await reading.read(12)
    assert got == expected


@pytest.mark.parametrize(("proxies", "closed"), [(0, 1), (1, 0)])
def test_the_connections_of_trusted_proxies_are_not_those_of_one_address(
    monkeypatch: pytest.MonkeyPatch, proxies: int, closed: int
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS_PER_ADDRESS", 3)
    table, connections = connection_table(10, proxies), [Mock(address="a") for _ in range(4)]
    for each in connections:
        table.add(each)
    assert [each.make_room.call_count for each in connections] == [closed, 0, 0, 0]


@pytest.mark.parametrize(
    ("files", "connections", "bodies"),
    [(20_000, 4096, 1024), (6144, 4096, 1024), (4096, 2458, 614), (1024, 410, 102), (64, 26, 6)],
)
def test_connections_and_bodies_leave_a_process_the_files_of_its_threads(
    files: int, connections: int, bodies: int
) -> None:
    assert share_files(files) == (connections, bodies)
    assert connections + bodies + min(1024, files // 2) <= files


def test_each_thread_can_have_a_connection_to_redis() -> None:
    client = BreakerRedis.connect("redis://localhost", CircuitBreaker())
    assert client.connection_pool.max_connections == REDIS_CONNECTIONS > _THREADS
