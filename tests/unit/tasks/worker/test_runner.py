from collections.abc import Callable

import pytest

from tasks.worker import runner
from tasks.worker.runner import StageTimer
from tests.support.jobs import make_job


def _timer(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]) -> StageTimer:
    """A timer by whose clock stages take 21.4 ms, half a second and 1 ms."""
    times = iter([0.0, 0.0214, 1.0, 1.5, 2.0, 2.001])
    monkeypatch.setattr(runner, "perf_counter", lambda: next(times))
    return StageTimer(make_job(), "m", "w@h", before)


def test_whole_milliseconds_in_the_order_of_entry_also_of_a_stage_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timer = _timer(monkeypatch, lambda: None)
    with pytest.raises(ValueError, match="broken"), timer("decode"):
        raise ValueError("broken")
    for stage in ("inference", "decode"):
        with timer(stage):
            pass
    assert list(timer.timings.items()) == [("decode_ms", 22), ("inference_ms", 500)]


def test_before_is_called_and_may_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def before() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise TimeoutError

    timer = _timer(monkeypatch, before)
    with timer("decode"):
        pass
    with pytest.raises(TimeoutError), timer("inference"):
        pytest.fail("the stage was entered")
    assert timer.timings == {"decode_ms": 21}
