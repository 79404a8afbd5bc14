"""Graceful shutdown and draining of workers."""

import signal
from collections.abc import Callable, Iterator

import pytest

from api.services import Services
from tasks.jobs.job import Status
from tasks.jobs.store import LEASE_SECONDS
from tasks.redis_client import connect
from tasks.worker_registry import WorkerRegistry
from tests.support.cluster import (
    HOST,
    Cluster,
    assert_exactly_once,
    await_processing,
    job,
    picture,
    submit,
    submit_many,
    wait_final,
    wait_for,
)
from tests.support.fault_scenes import GPU0, GPU1, usable
from tests.support.faulty_worker import HANG_ONCE, SLOW, SLOW_ONCE

pytestmark = pytest.mark.faults

End = Callable[[Cluster, str, Services], None]

GPU2 = f"gpu2@{HOST}"
#: The promise: so soon a drained worker's backlog is elsewhere.
AFTER_DRAIN_SECONDS = 10


@pytest.fixture
def registry(made: Cluster) -> WorkerRegistry:
    return WorkerRegistry(connect(made.redis_url))


@pytest.fixture
def third(made: Cluster, registry: WorkerRegistry) -> Iterator[str]:
    """A worker that is to be started: it alone is not drained, and it is gone afterwards."""
    for name in (GPU0, GPU1):
        registry.drain(name, "for the test")
    yield "gpu2"
    made.remove("gpu2")
    registry.undrain(GPU2)


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_sigterm_under_load_loses_nothing_and_runs_nothing_twice(
    made: Cluster, services: Services, count: int
) -> None:
    jobs = submit_many(services, count)
    await_processing(made, services)
    made.end("gpu0")
    made.restart("gpu0", wait=False)
    made.end("gpu1")
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)
    assert all(job(services, each).attempts == 1 for each in jobs)


def test_a_drained_worker_takes_nothing_and_its_backlog_moves(
    made: Cluster, services: Services, registry: WorkerRegistry
) -> None:
    slow = [submit(services, picture(red=SLOW, number=number)) for number in range(4)]
    own = f"gpu.{HOST}.0"
    registry.drain(GPU0, "for the test")

    def left_behind() -> list[str]:
        return [
            each
            for each in services.runtime.job_store.ids(Status.QUEUED)
            if job(services, each).queue == own
        ]

    wait_for(lambda: not left_behind(), AFTER_DRAIN_SECONDS, made, "gpu0's backlog elsewhere")
    jobs = submit_many(services, 10)
    done = wait_final(made, services, [*slow, *jobs], 60)
    assert [each for each in done[len(slow) :] if each.worker == GPU0] == []
    registry.undrain(GPU0)
    wait_for(lambda: usable(made, GPU0), 10, made, "gpu0's return")


def blocked_clients(services: Services) -> int:
    """How many clients wait in Redis for a message."""
    return int(services.runtime.redis.info("clients")["blocked_clients"])


def takes_nothing(services: Services, worker: str) -> bool:
    inspect = services.runtime.dispatcher.app.control.inspect(destination=[worker], timeout=1)
    return (inspect.active_queues() or {}).get(worker) == []


def test_a_worker_that_starts_drained_takes_nothing(
    made: Cluster, services: Services, registry: WorkerRegistry, third: str
) -> None:
    registry.drain(GPU2, "new fan")
    for name in (GPU0, GPU1):
        wait_for(lambda: takes_nothing(services, name), 20, made, f"{name} taking nothing")  # noqa: B023 - called here
    # Each may still wait for one last message; only the I/O worker goes on waiting.
    wait_for(lambda: blocked_clients(services) <= 1, 20, made, "an end of the last waits")
    jobs = submit_many(services, 3)
    made.start_worker(2)
    wait_for(lambda: takes_nothing(services, GPU2), 20, made, f"{third} taking nothing")
    waiting = [job(services, each) for each in jobs]
    assert {each.attempts for each in waiting} == {0}
    assert {each.redispatches for each in waiting} == {0}
    registry.undrain(GPU2)
    done = wait_final(made, services, list(jobs), 30)
    assert {each.worker for each in done} == {GPU2}
    assert_exactly_once(made, services, jobs)


def sigterm(made: Cluster, name: str, _services: Services) -> None:
    made.members[name].process.terminate()


def control_shutdown(_made: Cluster, name: str, services: Services) -> None:
    services.runtime.dispatcher.app.control.shutdown(destination=[f"{name}@{HOST}"])


@pytest.mark.parametrize(
    ("command", "end"),
    [
        pytest.param(SLOW_ONCE, sigterm, id="slow"),
        pytest.param(HANG_ONCE, control_shutdown, id="hung in native code"),
    ],
)
def test_a_job_that_outlasts_the_grace_time_is_handed_back(
    made: Cluster, services: Services, third: str, command: int, end: End
) -> None:
    made.start_worker(2, RMBG_SHUTDOWN_SECONDS="0.5", RMBG_TIME_LIMIT="30")
    data = picture(red=command)
    task_id = submit(services, data)
    wait_for(
        lambda: job(services, task_id).status is Status.PROCESSING, 20, made, f"{task_id}'s run"
    )
    end(made, third, services)
    # Long before its lease has run out.
    wait_for(
        lambda: job(services, task_id).status is Status.QUEUED,
        LEASE_SECONDS / 2,
        made,
        f"{task_id} handed back",
    )
    assert made.members[third].process.wait(20) == 0
    for name in (GPU0, GPU1):
        services.runtime.registry.undrain(name)
    (done,) = wait_final(made, services, [task_id], 30)
    # Nobody's fault, least of all the picture's.
    assert (done.crashes, done.losses, done.attempts) == (0, 1, 2)
    assert done.worker in {GPU0, GPU1}
    assert_exactly_once(made, services, {task_id: data})


def test_an_idle_worker_ends_without_waiting_for_a_timeout(made: Cluster) -> None:
    made.members["gpu0"].process.terminate()
    assert made.members["gpu0"].process.wait(15) == 0


@pytest.fixture
def loading(made: Cluster, registry: WorkerRegistry) -> Iterator[str]:
    """A third worker that loads its model for 20 s."""
    (made.folder / "slow-start").write_text("20")
    before = registry.count_starts(GPU2)
    name = made.start_worker(2, wait=False)
    wait_for(lambda: registry.count_starts(GPU2) > before, 20, made, f"{name}'s process")
    yield name
    made.remove(name)


def test_a_worker_that_loads_its_model_ends_at_once(made: Cluster, loading: str) -> None:
    made.members[loading].process.terminate()
    assert made.members[loading].process.wait(15) == 0


def test_a_worker_that_loads_its_model_holds_no_job_up(
    made: Cluster, services: Services, loading: str
) -> None:
    jobs = submit_many(services, 30)
    done = wait_final(made, services, list(jobs), 15)
    assert not usable(made, f"{loading}@{HOST}")
    assert {each.worker for each in done} == {GPU0, GPU1}
    assert_exactly_once(made, services, jobs)


def test_a_worker_ends_though_redis_hangs(made: Cluster, third: str) -> None:
    made.start_worker(2, RMBG_SHUTDOWN_SECONDS="1")
    made.signal("valkey", signal.SIGSTOP)
    try:
        made.members[third].process.terminate()
        # The grace time, the time-outs of what is asked, and then it waits no longer.
        assert made.members[third].process.wait(25) == 0
    finally:
        made.signal("valkey", signal.SIGCONT)
