import pytest

from tasks.worker import runner
from tasks.worker.runner import StageTimer
from tests.support.jobs import make_job


def test_whole_milliseconds_in_the_order_of_entry_also_of_a_stage_that_fails_or_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times, refused = iter([0.0, 0.0214, 1.0, 1.5, 2.0, 2.001]), iter([False, False, False, True])
    monkeypatch.setattr(runner, "perf_counter", lambda: next(times))

    def before() -> None:
        if next(refused):
            raise TimeoutError

    timer = StageTimer(make_job(), "m", "w@h", before)
    with pytest.raises(ValueError, match="broken"), timer("decode"):
        raise ValueError("broken")
    for stage in ("inference", "decode"):
        with timer(stage):
            pass
    with pytest.raises(TimeoutError), timer("compose"):
        pytest.fail("the stage was entered")
    assert list(timer.timings.items()) == [("decode_ms", 22), ("inference_ms", 500)]
