"""A child that does not answer, and one whose answers an outage of Redis hid."""

import pytest

from tasks.worker.monitor import LivenessTimeout
from tests.support.clock import Clock

#: Seconds between checks, their number, whether the child answers, and whether that ends it.
WELL, OUTAGE = (2, 50, True, False), (600, 1, False, False)


@pytest.mark.parametrize(
    "story",
    [
        pytest.param([WELL, (2, 2, False, True)], id="an answer lapses while all is well"),
        pytest.param([(2, 44, False, False), (2, 3, False, True)], id="at first"),
        pytest.param([WELL, OUTAGE, (2, 44, False, False), (2, 3, False, True)], id="an outage"),
        pytest.param(
            [WELL, OUTAGE, (2, 1, True, False), (2, 43, False, False)],
            id="an answer ends nothing of the time given after an outage",
        ),
    ],
)
def test_a_child_has_the_time_of_an_answer_at_first_and_after_an_outage(
    story: list[tuple[int, int, bool, bool]],
) -> None:
    clock = Clock()
    timeout = LivenessTimeout(90, 6, clock=clock)
    for pause, checks, answered, ends in story:
        for _ in range(checks):
            clock.now += pause
            expired = timeout.expired(answered=answered)
            assert ends or not expired
        assert expired is ends
