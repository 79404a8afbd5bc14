"""A process that does not answer, and one whose answers could not be heard."""

from tasks.worker.monitor import LivenessTimeout


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _look(silence: LivenessTimeout, clock: Clock, *, seconds: float, answered: bool) -> list[bool]:
    """Every 2 s for so long."""
    found = []
    for _ in range(int(seconds / 2)):
        clock.now += 2
        found.append(silence.look(answered=answered))
    return found


def test_an_answer_that_lapsed_while_all_was_well_is_silence() -> None:
    clock = Clock()
    silence = LivenessTimeout(90, 6, clock=clock)
    assert not any(_look(silence, clock, seconds=100, answered=True))
    assert all(_look(silence, clock, seconds=4, answered=False))


def test_after_an_outage_the_process_is_given_the_time_of_an_answer() -> None:
    clock = Clock()
    silence = LivenessTimeout(90, 6, clock=clock)
    _look(silence, clock, seconds=100, answered=True)
    clock.now += 600
    assert not any(_look(silence, clock, seconds=88, answered=False))
    assert any(_look(silence, clock, seconds=10, answered=False))


def test_an_answer_after_an_outage_ends_nothing_of_the_time_given() -> None:
    clock = Clock()
    silence = LivenessTimeout(90, 6, clock=clock)
    _look(silence, clock, seconds=100, answered=True)
    clock.now += 600
    assert not silence.look(answered=False)
    assert not silence.look(answered=True)
    assert not silence.look(answered=False)


def test_at_first_the_process_is_given_that_time_too() -> None:
    clock = Clock()
    silence = LivenessTimeout(90, 6, clock=clock)
    assert not any(_look(silence, clock, seconds=88, answered=False))
    assert any(_look(silence, clock, seconds=4, answered=False))
