"""A server that stops answering: the first callers wait for it, and the others fail at once."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.exceptions import ResponseError as ResponseStatusError
from urllib3.exceptions import TimeoutError as StoreTimeoutError

from api.circuit_breaker import (
    CHECK_SECONDS,
    OPEN_SECONDS,
    READ_SECONDS,
    BreakerPool,
    BreakerRedis,
    CircuitBreaker,
    CircuitOpenError,
)

if TYPE_CHECKING:
    from urllib3.connectionpool import ConnectionPool


class Server:
    """Answers calls through a breaker, or does not; its clock stands still."""

    def __init__(self) -> None:
        self.now = 100.0
        self.error: Exception | None = None
        self.calls = 0
        self.dropped = 0
        self.called = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.breaker = CircuitBreaker(clock=lambda: self.now)

    def ask(self) -> str:
        """What a call came to: answered, failed or refused."""
        try:
            with self.breaker.call(self._drop):
                self._answer()
        except CircuitOpenError as error:
            return "refused" if str(error) == "gone" else str(error)
        except (RedisError, HTTPError):
            return "failed"
        return "answered"

    def _answer(self) -> None:
        self.calls += 1
        self.called.set()
        assert self.answers.wait(10)
        if self.error:
            raise self.error

    def _drop(self) -> None:
        self.dropped += 1


@pytest.mark.parametrize("error", [RedisTimeoutError("gone"), StoreTimeoutError("gone")], ids=type)
def test_after_a_failure_calls_are_refused_until_a_probe_is_answered(error: Exception) -> None:
    server = Server()
    assert server.ask() == "answered"
    server.error = error
    assert server.ask() == "failed"
    assert server.dropped == 1
    server.now += OPEN_SECONDS * 0.9
    assert server.ask() == "refused"
    server.now += OPEN_SECONDS * 0.2
    assert server.ask() == "failed"
    assert server.ask() == "refused"
    server.error = None
    server.now += OPEN_SECONDS * 1.1
    assert server.ask() == "answered"
    assert server.ask() == "answered"
    assert server.calls == 5


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), HTTPError("gone")], ids=type)
def test_after_a_cut_connection_the_next_call_is_a_probe(error: Exception) -> None:
    server = Server()
    server.error = error
    assert [server.ask(), server.ask()] == ["failed", "failed"]
    server.error = None
    assert server.ask() == "answered"


def test_the_caller_that_failed_goes_on_if_its_check_is_answered() -> None:
    server = Server()
    server.error = RedisTimeoutError("gone")
    assert server.ask() == "failed"
    server.error = None
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(server.ask).result(10) == "refused"
    with server.breaker.call(lambda: None, lambda: True):
        pass
    assert server.ask() == "answered"


def test_a_status_that_is_not_retried_any_more_is_an_answer() -> None:
    server = Server()
    pool = cast("ConnectionPool", None)
    server.error = MaxRetryError(pool, "/", ResponseStatusError("too many 503 error responses"))
    assert [server.ask(), server.ask()] == ["failed", "failed"]
    assert server.dropped == 0


def test_an_error_that_the_server_answers_with_is_an_answer() -> None:
    server = Server()
    server.error = ResponseError("wrong type")
    assert server.ask() == "failed"
    assert server.ask() == "failed"
    server.error = RedisTimeoutError("gone")
    assert server.ask() == "failed"
    server.now += OPEN_SECONDS
    server.error = ResponseError("wrong type")
    assert server.ask() == "failed"
    assert server.ask() == "failed"


def test_one_caller_probes_and_the_others_do_not_wait_for_it() -> None:
    server = Server()
    server.error = RedisTimeoutError("gone")
    server.ask()
    server.now += OPEN_SECONDS
    server.called.clear()
    server.answers.clear()
    with ThreadPoolExecutor(8) as pool:
        probe = pool.submit(server.ask)
        assert server.called.wait(10)
        assert [pool.submit(server.ask).result(10) for _ in range(7)] == ["refused"] * 7
        server.error = None
        server.answers.set()
        assert probe.result(10) == "answered"
    assert server.ask() == "answered"
    assert server.calls == 3


def test_a_call_that_the_probe_makes_within_itself_passes() -> None:
    server = Server()
    server.error = RedisTimeoutError("gone")
    server.ask()
    server.error = None
    server.now += OPEN_SECONDS
    with server.breaker.call(lambda: None):
        assert server.ask() == "answered"


def test_a_probe_that_is_interrupted_makes_room_for_another() -> None:
    server = Server()
    server.error = RedisTimeoutError("gone")
    server.ask()
    server.now += OPEN_SECONDS
    with pytest.raises(SystemExit), server.breaker.call(lambda: None):
        raise SystemExit
    server.error = None
    assert ThreadPoolExecutor(1).submit(server.ask).result(10) == "answered"


def test_one_slow_call_beside_others_that_are_answered_opens_nothing() -> None:
    server = Server()
    server.error = RedisTimeoutError("gone")
    server.answers.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.ask)
        assert server.called.wait(10)
        server.now += 1
        server.breaker.record_success()
        server.answers.set()
        assert slow.result(10) == "failed"
    server.error = None
    assert server.ask() == "answered"
    assert server.dropped == 0


# -- Redis and S3 ---------------------------------------------------------------------------------


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and answers nothing, as a stopped process does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _seconds(call: Callable[[], object], error: type[Exception]) -> float:
    began = time.monotonic()
    with pytest.raises(error):
        call()
    return time.monotonic() - began


def test_a_redis_that_hangs_is_waited_for_once(silent_port: int) -> None:
    client = BreakerRedis.connect(f"redis://127.0.0.1:{silent_port}/0", CircuitBreaker())
    assert 2 < _seconds(client.ping, RedisTimeoutError) < 5
    assert _seconds(client.ping, CircuitOpenError) < CHECK_SECONDS + 0.5
    assert _seconds(client.ping, CircuitOpenError) < 0.5
    with client.pipeline() as pipe:
        assert _seconds(pipe.get("a").execute, CircuitOpenError) < 0.5


def test_a_store_that_hangs_is_waited_for_once_whatever_is_sent(silent_port: int) -> None:
    pool, address = BreakerPool(CircuitBreaker()), f"http://127.0.0.1:{silent_port}/bucket/key"
    # More than the sockets' buffers take: the time is up while the picture is being sent.
    large = bytes(32 * 2**20)
    assert _seconds(lambda: pool.request("PUT", address, body=large), HTTPError) < 5
    assert _seconds(lambda: pool.request("PUT", address, body=b"a"), CircuitOpenError) < 0.5
    time.sleep(OPEN_SECONDS)
    assert _seconds(lambda: pool.request("PUT", address, body=b"a"), HTTPError) < 5


#: Starts a server that does something, and answers if that is true; its address.
Serve = Callable[[Callable[[], bool]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(act: Callable[[], bool]) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if not act():
                    self.close_connection = True
                    return
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


def test_a_slow_store_is_waited_for(serve: Serve) -> None:
    pool = BreakerPool(CircuitBreaker())
    address = serve(lambda: time.sleep(READ_SECONDS - 1.5) is None)
    assert pool.request("PUT", address, body=bytes(10 * 2**20)).status == 200


def test_a_connection_that_was_dropped_is_made_again(serve: Serve) -> None:
    answers = iter([False, True])
    pool, address = BreakerPool(CircuitBreaker()), serve(lambda: next(answers))
    assert pool.request("PUT", address, body=b"a").status == 200
