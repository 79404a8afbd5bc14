from collections.abc import Iterator

import pytest

from inference.models.base import StageTimer


@pytest.fixture
def clock() -> Iterator[float]:
    return iter([0.0, 0.0214, 1.0, 1.5, 2.0, 2.001])


def test_whole_milliseconds_in_the_order_of_entry(clock: Iterator[float]) -> None:
    timer = StageTimer(clock=lambda: next(clock))
    for stage in ("decode", "inference", "decode"):
        with timer(stage):
            pass
    assert list(timer.timings.items()) == [("decode_ms", 22), ("inference_ms", 500)]


def test_before_is_called_and_may_end_the_job() -> None:
    entered = []

    def before(stage: str) -> None:
        entered.append(stage)
        if stage == "inference":
            raise TimeoutError(stage)

    timer = StageTimer(before)
    with timer("decode"):
        pass
    with pytest.raises(TimeoutError), timer("inference"):
        pytest.fail("the stage was entered")
    assert entered == ["decode", "inference"]
    assert list(timer.timings) == ["decode_ms"]


def test_a_stage_that_fails_still_counts(clock: Iterator[float]) -> None:
    timer = StageTimer(clock=lambda: next(clock))
    with pytest.raises(ValueError, match="broken"), timer("decode"):
        raise ValueError("broken")
    assert timer.timings == {"decode_ms": 21}
