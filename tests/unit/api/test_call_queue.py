"""Calls in flight: a bound, turns of owners, and no waiting for nothing."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.call_queue import CallQueue, CallQueueTimeoutError
from tests.support.clock import until


def _never() -> bool:
    return False


def test_owners_take_turns_and_no_more_calls_run_than_the_limit() -> None:
    queue, order, running = CallQueue(1, seconds=30), [], threading.Semaphore(1)

    def call(owner: str) -> None:
        with queue.turn(owner, _never):
            assert running.acquire(blocking=False)
            order.append(owner)
            running.release()

    with ThreadPoolExecutor(8) as pool, queue.turn("first", _never):
        calls = []
        for owner in "aaaabbc":
            calls.append(pool.submit(call, owner))
            until(lambda: sum(map(len, queue._waiting.values())) == len(calls))
        # A call within another one waits for nobody.
        with queue.turn("first", _never):
            assert not order
    for each in calls:
        each.result(30)
    assert "".join(order) == "abcabaa"


def test_a_call_waits_for_so_long_and_not_for_what_does_not_come() -> None:
    queue, hopeless = CallQueue(1, seconds=0.05), threading.Event()
    with ThreadPoolExecutor(2) as pool, queue.turn("a", _never):

        def call(skip: Callable[[], bool]) -> str:
            with queue.turn("b", skip):
                return "made"

        with pytest.raises(CallQueueTimeoutError, match="1 calls run at once"):
            pool.submit(call, _never).result(30)
        queue._seconds = 30
        waiting = pool.submit(call, hopeless.is_set)
        until(lambda: queue._waiting)
        hopeless.set()
        queue.look_again()
        assert waiting.result(30) == "made"
