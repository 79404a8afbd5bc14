"""A child that does not answer, and one whose answers an outage of Redis hid."""

from tasks.worker.monitor import LivenessTimeout
from tests.support.clock import Clock


def _check(timeout: LivenessTimeout, clock: Clock, *, seconds: float, answered: bool) -> list[bool]:
    """Every 2 s for so long."""
    found = []
    for _ in range(int(seconds / 2)):
        clock.now += 2
        found.append(timeout.expired(answered=answered))
    return found


def test_an_answer_that_lapsed_while_all_was_well_expires() -> None:
    clock = Clock()
    timeout = LivenessTimeout(90, 6, clock=clock)
    assert not any(_check(timeout, clock, seconds=100, answered=True))
    assert all(_check(timeout, clock, seconds=4, answered=False))


def test_after_an_outage_the_process_is_given_the_time_of_an_answer() -> None:
    clock = Clock()
    timeout = LivenessTimeout(90, 6, clock=clock)
    _check(timeout, clock, seconds=100, answered=True)
    clock.now += 600
    assert not any(_check(timeout, clock, seconds=88, answered=False))
    assert any(_check(timeout, clock, seconds=10, answered=False))


def test_an_answer_after_an_outage_ends_nothing_of_the_time_given() -> None:
    clock = Clock()
    timeout = LivenessTimeout(90, 6, clock=clock)
    _check(timeout, clock, seconds=100, answered=True)
    clock.now += 600
    assert not timeout.expired(answered=False)
    assert not timeout.expired(answered=True)
    assert not timeout.expired(answered=False)


def test_at_first_the_process_is_given_that_time_too() -> None:
    clock = Clock()
    timeout = LivenessTimeout(90, 6, clock=clock)
    assert not any(_check(timeout, clock, seconds=88, answered=False))
    assert any(_check(timeout, clock, seconds=4, answered=False))
