"""A server that stops answering: the first callers wait for it, and the others fail at once."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.exceptions import ResponseError as ResponseStatusError
from urllib3.exceptions import TimeoutError as StoreTimeoutError
from urllib3.util.wait import wait_for_read

from api.circuit_breaker import (
    CALLS,
    OPEN_SECONDS,
    READ_SECONDS,
    BreakerPool,
    Call,
    CircuitBreaker,
    CircuitOpenError,
)
from tests.support.clock import Clock, until
from tests.support.serving import Request, answer, serving

if TYPE_CHECKING:
    from urllib3.connectionpool import ConnectionPool


class Server:
    """Answers calls through a breaker, or fails with its error."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.error: Exception | None = None
        self.calls = self.dropped = 0
        self.called, self.answers = threading.Event(), threading.Event()
        self.answers.set()
        self.breaker = CircuitBreaker(clock=self.clock)

    def ask(self) -> str:
        """What a call came to: answered, failed or refused."""
        try:
            with self.breaker.call(self._drop):
                self.calls += 1
                self.called.set()
                assert self.answers.wait(10)
                if self.error:
                    raise self.error
        except CircuitOpenError:
            return "refused"
        except (RedisError, HTTPError):
            return "failed"
        return "answered"

    def _drop(self) -> None:
        self.dropped += 1


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def half_open(server: Server) -> Server:
    """A server that did not answer, and does so again when the next call is the probe."""
    server.error = RedisTimeoutError("gone")
    assert server.ask() == "failed"
    server.error = None
    server.clock.now += OPEN_SECONDS
    return server


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    """Threads other than the test's own."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.mark.parametrize("error", [RedisTimeoutError("gone"), StoreTimeoutError("gone")], ids=type)
def test_after_a_failure_calls_are_refused_until_a_probe_is_answered(
    server: Server, error: Exception
) -> None:
    assert server.ask() == "answered"
    server.error = error
    assert server.ask() == "failed"
    assert server.dropped == 1
    server.clock.now += OPEN_SECONDS * 0.9
    assert server.ask() == "refused"
    server.clock.now += OPEN_SECONDS * 0.2
    assert [server.ask(), server.ask()] == ["failed", "refused"]
    server.error = None
    server.clock.now += OPEN_SECONDS * 1.1
    assert [server.ask(), server.ask()] == ["answered", "answered"]
    assert server.calls == 5


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), HTTPError("gone")], ids=type)
def test_after_a_cut_connection_the_next_call_is_a_probe(server: Server, error: Exception) -> None:
    server.error = error
    assert [server.ask(), server.ask()] == ["failed", "failed"]
    server.error = None
    assert server.ask() == "answered"


def test_the_caller_that_failed_goes_on_if_its_check_is_answered(
    server: Server, elsewhere: ThreadPoolExecutor
) -> None:
    server.error = RedisTimeoutError("gone")
    assert server.ask() == "failed"
    server.error = None
    assert elsewhere.submit(server.ask).result(10) == "refused"
    with server.breaker.call(lambda: None, lambda: True):
        pass
    assert server.ask() == "answered"


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("wrong type"),
        MaxRetryError(
            cast("ConnectionPool", None), "/", ResponseStatusError("too many 503 error responses")
        ),
    ],
    ids=["Redis", "store"],
)
def test_an_error_that_the_server_answers_with_is_an_answer(
    half_open: Server, elsewhere: ThreadPoolExecutor, error: Exception
) -> None:
    half_open.error = error
    assert half_open.ask() == "failed"
    assert elsewhere.submit(half_open.ask).result(10) == "failed", "it is not refused"
    assert half_open.dropped == 1, "by the failure before"


def test_one_caller_probes_and_the_others_do_not_wait_for_it(
    half_open: Server, elsewhere: ThreadPoolExecutor
) -> None:
    half_open.called.clear()
    half_open.answers.clear()
    probe = elsewhere.submit(half_open.ask)
    assert half_open.called.wait(10)
    assert [elsewhere.submit(half_open.ask).result(10) for _ in range(7)] == ["refused"] * 7
    half_open.answers.set()
    assert probe.result(10) == "answered"
    assert half_open.ask() == "answered"
    assert half_open.calls == 3


def test_a_call_that_the_probe_makes_within_itself_passes(half_open: Server) -> None:
    with half_open.breaker.call(lambda: None):
        assert half_open.ask() == "answered"


def test_a_probe_that_is_interrupted_makes_room_for_another(
    half_open: Server, elsewhere: ThreadPoolExecutor
) -> None:
    with pytest.raises(SystemExit), half_open.breaker.call(lambda: None):
        raise SystemExit
    assert elsewhere.submit(half_open.ask).result(10) == "answered"


@pytest.mark.parametrize(
    "sign_of_life",
    [CircuitBreaker.record_success, lambda breaker: breaker.record_moved(Call(0))],
    ids=["answered", "taken in"],
)
def test_one_slow_call_beside_others_that_get_on_opens_nothing(
    server: Server, elsewhere: ThreadPoolExecutor, sign_of_life: Callable[[CircuitBreaker], object]
) -> None:
    server.error = RedisTimeoutError("gone")
    server.answers.clear()
    slow = elsewhere.submit(server.ask)
    assert server.called.wait(10)
    server.clock.now += 1
    sign_of_life(server.breaker)
    server.answers.set()
    assert slow.result(10) == "failed"
    server.error = None
    assert server.ask() == "answered"
    assert server.dropped == 0


# -- S3; of Redis and S3 that hang, see tests/acceptance/test_hanging_servers.py -------------------


def _put(pool: BreakerPool, port: int, size: int = 1) -> int:
    """The status that the store answers with."""
    return pool.request("PUT", f"http://127.0.0.1:{port}/bucket/key", body=bytes(size)).status


def test_a_connection_that_was_dropped_is_made_again_and_a_slow_answer_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large body gives the store more time: part of it may be on its way."""
    monkeypatch.setattr("api.circuit_breaker.READ_SECONDS", 0.5)
    calls: list[Request] = []

    def breaks_off_once(request: Request) -> None:
        calls.append(request)
        if len(calls) > 1:
            time.sleep(1)
            answer(200)(request)

    with serving(breaks_off_once) as port:
        assert _put(BreakerPool(CircuitBreaker()), port, 10 * 2**20) == 200


def test_a_busy_store_gets_few_calls_at_once_and_none_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It works at one call at a time, and needs longer for all than one may be silent."""
    clock, busy_seconds = Clock(), 1.5 * READ_SECONDS / CALLS
    monkeypatch.setattr("api.circuit_breaker.time", SimpleNamespace(monotonic=clock))
    # Time passes by answers alone: whoever waits looks at the clock in between.
    monkeypatch.setattr(
        "api.circuit_breaker.wait_for_read", lambda sock, _seconds: wait_for_read(sock, 0.01)
    )
    lock, calls, most = threading.Lock(), threading.Semaphore(CALLS), []

    def busy(request: Request) -> None:
        most.append(calls.acquire(blocking=False))
        with lock:
            time.sleep(0.03)
            clock.now += busy_seconds
            calls.release()
            answer(200)(request)
            until(lambda: not breaker.silence(0))  # it has been read

    breaker = CircuitBreaker(clock=clock)
    pool = BreakerPool(breaker)
    with serving(busy) as port, ThreadPoolExecutor(2 * CALLS) as callers:
        statuses = callers.map(lambda size: _put(pool, port, size), [1, 2**18] * CALLS)
        assert list(statuses) == [200] * 2 * CALLS
    assert all(most)
