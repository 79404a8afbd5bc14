"""A child that does not answer, and one whose answers an outage of Redis hid."""

import pytest

from tasks.worker.monitor import LivenessTimeout
from tests.support.clock import Clock


class _Child:
    """A process whose answers are looked for every 2 s."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._timeout = LivenessTimeout(90, 6, clock=self.clock)

    def check(self, *, seconds: float, answered: bool) -> list[bool]:
        """Whether the timeout had expired, each time."""
        found = []
        for _ in range(int(seconds / 2)):
            self.clock.now += 2
            found.append(self._timeout.expired(answered=answered))
        return found


@pytest.fixture
def child() -> _Child:
    return _Child()


@pytest.fixture
def after_outage(child: _Child) -> _Child:
    """It answered, and then nothing could be looked up for ten minutes."""
    assert not any(child.check(seconds=100, answered=True))
    child.clock.now += 600
    return child


def test_an_answer_that_lapsed_while_all_was_well_expires(child: _Child) -> None:
    assert not any(child.check(seconds=100, answered=True))
    assert all(child.check(seconds=4, answered=False))


@pytest.mark.parametrize("name", ["child", "after_outage"])
def test_at_first_and_after_an_outage_the_process_has_the_time_of_an_answer(
    name: str, request: pytest.FixtureRequest
) -> None:
    child: _Child = request.getfixturevalue(name)
    assert not any(child.check(seconds=88, answered=False))
    assert any(child.check(seconds=4, answered=False))


def test_an_answer_after_an_outage_ends_nothing_of_the_time_given(after_outage: _Child) -> None:
    for answered in (False, True, False):
        assert not any(after_outage.check(seconds=2, answered=answered))
