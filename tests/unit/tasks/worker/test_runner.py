from collections.abc import Callable

import pytest

from tasks.worker import runner
from tasks.worker.runner import StageTimer
from tests.support.jobs import make_job


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.0214, 1.0, 1.5, 2.0, 2.001])
    monkeypatch.setattr(runner, "perf_counter", lambda: next(times))


def _timer(before: Callable[[], None] = lambda: None) -> StageTimer:
    return StageTimer(make_job(), "m", "w@h", before)


def test_whole_milliseconds_in_the_order_of_entry() -> None:
    timer = _timer()
    for stage in ("decode", "inference", "decode"):
        with timer(stage):
            pass
    assert list(timer.timings.items()) == [("decode_ms", 22), ("inference_ms", 500)]


def test_before_is_called_and_may_end_the_job() -> None:
    calls = []

    def before() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise TimeoutError

    timer = _timer(before)
    with timer("decode"):
        pass
    with pytest.raises(TimeoutError), timer("inference"):
        pytest.fail("the stage was entered")
    assert list(timer.timings) == ["decode_ms"]


def test_a_stage_that_fails_still_counts() -> None:
    timer = _timer()
    with pytest.raises(ValueError, match="broken"), timer("decode"):
        raise ValueError("broken")
    assert timer.timings == {"decode_ms": 21}
