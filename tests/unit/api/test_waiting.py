"""How often requests that wait read their records."""

from types import SimpleNamespace
from typing import Any

import pytest

from api.places import Places
from api.waiting import TaskWaiter


@pytest.mark.parametrize(
    ("waiting", "longest", "expected"), [(1, 60, 0.5), (64, 60, 2.0), (128, 60, 4.0), (64, 1, 1.0)]
)
def test_where_many_wait_each_reads_its_record_the_more_seldom(
    monkeypatch: pytest.MonkeyPatch, waiting: int, longest: float, expected: float
) -> None:
    runtime: Any = None
    waiter, now = TaskWaiter(runtime, Places(256)), [0.0]
    assert all(waiter.places.take("a") for _ in range(waiting))

    def wait(seconds: float) -> bool:
        assert seconds <= 0.5, "by then it sees that the process is to end"
        now[0] += seconds
        return False

    monkeypatch.setattr("api.waiting.time", SimpleNamespace(monotonic=lambda: now[0]))
    waiter._pause(wait, longest)
    assert now == [pytest.approx(expected)]
    waiter._pause(lambda _: True, longest)  # an end is published
    waiter.ending.set()
    waiter._pause(wait, longest)
    assert now == [pytest.approx(expected)]
