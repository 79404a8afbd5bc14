"""Graceful shutdown and draining of workers, which are idle, loading, hung, or drained already."""

from collections.abc import Callable, Iterator

import pytest

from tasks.jobs.job import Status
from tasks.jobs.store import LEASE_SECONDS
from tests.support.cluster import WORKERS, Cluster, at, picture
from tests.support.faulty_worker import HANG_ONCE, SLOW_ONCE

pytestmark = [pytest.mark.faults, pytest.mark.slow]

#: A third worker.
THIRD = "gpu2"


@pytest.fixture
def third(made: Cluster) -> Iterator[str]:
    """A worker that is to be started: it alone is not drained, and it is gone afterwards."""
    for name in WORKERS:
        made.registry.drain(at(name), "for the test")
    yield THIRD
    made.remove(THIRD)
    made.registry.undrain(at(THIRD))


def takes_nothing(made: Cluster, name: str) -> bool:
    worker = at(name)
    inspect = made.services.runtime.dispatcher.app.control.inspect(destination=[worker], timeout=1)
    return (inspect.active_queues() or {}).get(worker) == []


def test_a_worker_that_starts_drained_takes_nothing(made: Cluster, third: str) -> None:
    made.registry.drain(at(third), "new fan")
    made.wait_for(
        lambda: all(takes_nothing(made, name) for name in WORKERS), 40, "workers taking nothing"
    )
    # Each may still wait for one last message; only the I/O worker goes on waiting.
    made.wait_for(
        lambda: int(made.redis.info("clients")["blocked_clients"]) <= 1, 20, "the last waits' end"
    )
    jobs = made.submit_many(3)
    made.start_worker(2)
    made.wait_for(lambda: takes_nothing(made, third), 20, f"{third} taking nothing")
    assert {(each.attempts, each.redispatches) for each in map(made.job, jobs)} == {(0, 0)}
    made.registry.undrain(at(third))
    assert {each.worker for each in made.succeed(jobs, 30)} == {at(third)}


def sigterm(made: Cluster, name: str) -> None:
    made.terminate(name)


def control_shutdown(made: Cluster, name: str) -> None:
    made.services.runtime.dispatcher.app.control.shutdown(destination=[at(name)])


@pytest.mark.parametrize(
    ("command", "end"),
    [
        pytest.param(SLOW_ONCE, sigterm, id="slow"),
        pytest.param(HANG_ONCE, control_shutdown, id="hung in native code"),
    ],
)
def test_a_job_that_outlasts_the_grace_time_is_handed_back(
    made: Cluster, third: str, command: int, end: Callable[[Cluster, str], None]
) -> None:
    made.start_worker(2, RMBG_SHUTDOWN_SECONDS="0.5", RMBG_TIME_LIMIT="30")
    data = picture(red=command)
    task_id, _ = made.start_job(data)
    end(made, third)
    made.wait_for(
        lambda: made.job(task_id).status is Status.QUEUED,
        LEASE_SECONDS / 2,
        f"{task_id} handed back, long before its lease has run out",
    )
    assert made.members[third].process.wait(20) == 0
    for name in WORKERS:
        made.registry.undrain(at(name))
    (done,) = made.succeed({task_id: data}, 30)
    # Nobody's fault, least of all the picture's.
    assert (done.crashes, done.losses, done.attempts) == (0, 1, 2)
    assert done.worker in {at(name) for name in WORKERS}


def test_an_idle_worker_ends_without_waiting_for_a_timeout(made: Cluster) -> None:
    assert made.terminate("gpu0").wait(15) == 0


def test_a_worker_that_loads_its_model_holds_no_job_up_and_ends_at_once(made: Cluster) -> None:
    (made.folder / "slow-start").write_text("90")
    before = made.registry.count_starts(at(THIRD))
    made.start_worker(2, wait=False)
    made.wait_for(
        lambda: made.registry.count_starts(at(THIRD)) > before, 20, f"the process of {THIRD}"
    )
    try:
        done = made.succeed(made.submit_many(30), 60)
        assert not made.usable(THIRD)
        assert {each.worker for each in done} == {at(name) for name in WORKERS}
        assert made.terminate(THIRD).wait(15) == 0
    finally:
        made.remove(THIRD)


def test_a_worker_ends_though_redis_hangs(made: Cluster, third: str) -> None:
    made.start_worker(2, RMBG_SHUTDOWN_SECONDS="1")
    with made.standing("valkey"):
        # The grace time, the time-outs of what is asked, and then it waits no longer.
        assert made.terminate(third).wait(25) == 0
