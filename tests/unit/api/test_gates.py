"""A server that falls silent: one waits for it, and the others are told at once."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from api.circuit_breaker import (
    PAUSE_SECONDS,
    BreakerPool,
    CircuitBreaker,
    CircuitOpenError,
    SilentStoreError,
)
from tasks.errors import ObjectStoreUnavailableError


class Server:
    """Answers probes, or does not; with a clock that stands still."""

    def __init__(self, trust: float = math.inf) -> None:
        self.now = 100.0
        self.away = False
        self.probes = 0
        self.reasons: set[str] = set()
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.gate = CircuitBreaker(self._probe, trust=trust, clock=lambda: self.now)

    def _probe(self) -> None:
        self.probes += 1
        self.asked.set()
        assert self.answers.wait(10)
        if self.away:
            raise ObjectStoreUnavailableError("gone")

    def passes(self) -> bool:
        try:
            self.gate.check()
        except CircuitOpenError as error:
            self.reasons.add(str(error))
            return False
        return True


def test_an_answer_counts_until_a_call_fails() -> None:
    server = Server()
    assert server.passes()
    server.now += 1e6
    assert server.passes()
    assert server.probes == 1
    server.gate.failed()
    assert server.passes()
    assert server.probes == 2


def test_an_answer_counts_for_its_time() -> None:
    server = Server(trust=1)
    assert server.passes()
    server.now += 0.9
    server.gate.answered()
    server.now += 0.9
    assert server.passes()
    assert server.probes == 1
    server.now += 0.2
    assert server.passes()
    assert server.probes == 2


def test_after_a_probe_without_an_answer_all_are_refused_for_a_while() -> None:
    server = Server()
    server.away = True
    assert not server.passes()
    server.now += PAUSE_SECONDS * 0.9
    assert not server.passes()
    assert server.probes == 1
    server.now += PAUSE_SECONDS * 0.2
    assert not server.passes()
    assert server.probes == 2
    server.away = False
    server.now += PAUSE_SECONDS * 1.1
    assert server.passes()
    assert server.passes()
    assert server.probes == 3
    assert server.reasons == {"gone"}


def test_many_find_out_by_one_probe() -> None:
    server = Server()
    server.away = True
    server.answers.clear()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(server.passes) for _ in range(8)]
        assert server.asked.wait(10)
        server.answers.set()
        assert [each.result(10) for each in waiting] == [False] * 8
    assert server.probes == 1


def test_nobody_waits_for_the_probe_of_a_server_that_is_known_to_be_away() -> None:
    server = Server()
    server.away = True
    assert not server.passes()
    server.now += 2 * PAUSE_SECONDS
    server.asked.clear()
    server.answers.clear()
    with ThreadPoolExecutor(1) as pool:
        probing = pool.submit(server.passes)
        assert server.asked.wait(10)
        assert not server.passes()
        assert not probing.done()
        server.away = False
        server.answers.set()
        assert probing.result(10)
    assert server.passes()


# -- calls of the store --------------------------------------------------------------------------


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[], None]], str]]:
    """The address of a server that does something before it answers."""
    servers = []

    def start(act: Callable[[], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                act()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/bucket/key"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _live(probes: list[float]) -> CircuitBreaker:
    return CircuitBreaker(lambda: probes.append(time.monotonic()), trust=1.0)


def test_a_slow_store_that_lives_is_waited_for(
    serve: Callable[[Callable[[], None]], str],
) -> None:
    probes: list[float] = []
    pool = BreakerPool(_live(probes))
    answer = pool.request("PUT", serve(lambda: time.sleep(2.5)), body=bytes(10 * 2**20))
    assert answer.status == 200
    # Before it, and while it was silent; since it answered, it need not be asked again.
    asked = len(probes)
    assert asked >= 2
    assert pool.request("PUT", serve(lambda: None), body=b"").status == 200
    assert len(probes) == asked


def test_a_store_that_falls_silent_is_left_alone(
    serve: Callable[[Callable[[], None]], str],
) -> None:
    told = threading.Event()
    calls: list[int] = []

    def probe() -> None:
        if calls:
            raise ObjectStoreUnavailableError("gone")

    def act() -> None:
        calls.append(1)
        told.wait(30)

    pool, address = BreakerPool(CircuitBreaker(probe, trust=1.0)), serve(act)
    began = time.monotonic()
    with pytest.raises(SilentStoreError, match="gone"):
        pool.request("PUT", address, body=b"picture")
    with pytest.raises(SilentStoreError, match="gone"):
        pool.request("PUT", address, body=b"picture")
    assert time.monotonic() - began < 10
    told.set()
    assert calls == [1]
