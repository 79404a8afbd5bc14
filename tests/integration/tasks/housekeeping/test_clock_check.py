"""A clock that jumps erases nothing until it is confirmed."""

import pytest
from redis import Redis
from structlog.testing import capture_logs

from tasks import lua_scripts, redis_keys
from tasks.housekeeping.clock_check import CONFIRM_SECONDS, MAX_STEP_SECONDS, ClockCheck
from tasks.jobs.job import Job
from tasks.jobs.store import ClaimOutcome, JobStore
from tests.support.clock import Clock
from tests.support.jobs import claim, make_job

HOUR = 3600.0


class Machine:
    """A machine with Redis and an I/O worker, whose sweeper has a pass every few minutes."""

    def __init__(self, redis: Redis) -> None:
        self.redis, self.clock = redis, Clock()
        # Redis's clock may differ.
        self.ahead = 0.0
        self.store = JobStore(redis, clock=self.clock)

    def passes(self, seconds: float) -> list[bool]:
        """Let time go by; whether each pass may erase."""
        found = []
        for _ in range(int(seconds / 300)):
            self.clock.now += 300
            # Each time another process: nothing may depend on its memory.
            check = ClockCheck(self.redis, self.clock, lambda _: self.clock() + self.ahead)
            found.append(check.trusted_time() == self.clock())
        return found

    def waiting(self, seconds: float = HOUR) -> Job:
        """A job with a deadline."""
        now = self.clock()
        return self.store.create(make_job(created_at=now, deadline=now + seconds)).job


@pytest.fixture
def machine(redis: Redis) -> Machine:
    made = Machine(redis)
    assert made.passes(HOUR) == [True] * 12
    return made


@pytest.mark.parametrize(
    ("hours", "level", "reason"),
    [
        (0.2, "warning", "no I/O worker ran for 17 min, or the clock was set forward"),
        (-25, "error", "the clock was set back by 1"),
        (24 * 365, "warning", "no I/O worker ran"),
    ],
)
def test_after_a_jump_nothing_is_erased_until_the_clock_has_run_evenly(
    machine: Machine, hours: float, level: str, reason: str
) -> None:
    machine.clock.now += hours * HOUR
    with capture_logs() as lines:
        assert not any(machine.passes(CONFIRM_SECONDS))
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("retention.paused", level)
    assert line["reason"].startswith(reason)
    assert machine.redis.exists(redis_keys.SWEEPER_PAUSED)
    assert all(machine.passes(HOUR))


def test_a_clock_that_keeps_jumping_is_never_trusted(machine: Machine) -> None:
    for _ in range(5):
        machine.clock.now += 2 * HOUR
        assert not any(machine.passes(CONFIRM_SECONDS / 2))
        machine.clock.now -= 2 * HOUR
        assert not any(machine.passes(CONFIRM_SECONDS / 2))


@pytest.mark.parametrize("sign", [1, -1])
def test_clocks_that_differ_are_never_trusted(machine: Machine, sign: int) -> None:
    machine.ahead = sign * (MAX_STEP_SECONDS + 1)
    assert not any(machine.passes(2 * CONFIRM_SECONDS))
    machine.ahead = sign * (MAX_STEP_SECONDS - 1)
    assert not machine.passes(300)[0], "it was away for as long"
    assert all(machine.passes(2 * CONFIRM_SECONDS)[8:])


def test_an_operator_confirms_the_clock(machine: Machine) -> None:
    machine.clock.now += 25 * HOUR
    assert not any(machine.passes(600))
    ClockCheck(machine.redis, redis_time=lambda _: machine.clock()).confirm()
    assert not machine.redis.exists(redis_keys.SWEEPER_PAUSED)
    assert all(machine.passes(HOUR))


def test_a_clock_that_jumps_ends_no_job_until_it_counts(machine: Machine) -> None:
    """Neither at once, before the sweeper has seen the jump, nor while it doubts the clock."""
    job, taken, store = machine.waiting(), machine.waiting(), machine.store
    machine.clock.now += 25 * HOUR
    assert not store.fail_overdue(job.task_id)
    assert claim(store, taken) is ClaimOutcome.CLAIMED
    machine.passes(600)
    assert not store.fail_overdue(job.task_id)
    # The time since the jump counts for what began after it.
    later = machine.waiting(200)
    machine.passes(300)
    assert store.fail_overdue(later.task_id)
    assert not store.fail_overdue(job.task_id)
    machine.passes(CONFIRM_SECONDS)
    assert store.fail_overdue(job.task_id)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_scripts_have_the_same_limit(machine: Machine, sign: int) -> None:
    for step, passed in ((MAX_STEP_SECONDS - 1, 1), (MAX_STEP_SECONDS + 1, 0)):
        now = machine.clock() + sign * step
        counts = lua_scripts.PRIMITIVES.run(machine.redis, "has_passed", since=1.0, now=now)
        assert counts == passed
