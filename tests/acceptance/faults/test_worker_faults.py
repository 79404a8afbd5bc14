"""A worker, or its process, dies, stops, grows too large or is brought down by a picture."""

import signal
import time
from contextlib import suppress

import pytest

from api.services import Services
from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.job import Priority, Status
from tasks.redis_client import connect
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
from tests.support.fault_scenes import (
    GPU0,
    GPU1,
    await_claimable,
    signal_workers,
    start_slow_job,
    usable,
)
from tests.support.faulty_worker import GROW, HANG_ONCE, KILL

pytestmark = pytest.mark.faults

#: The promises: so soon can a job be claimed again.
AFTER_CHILD_SECONDS, AFTER_WORKER_SECONDS = 5, 15


def test_a_killed_child_costs_a_job_seconds(made: Cluster, services: Services) -> None:
    task_id, jobs, name = start_slow_job(made, services)
    jobs |= submit_many(services, 10)
    made.kill_child(name)
    await_claimable(made, services, task_id, AFTER_CHILD_SECONDS)
    done = wait_final(made, services, list(jobs), 40)
    # The fault is the one job's, and no loss, which would wait for the lease.
    assert [(each.crashes, each.losses) for each in done] == [(1, 0), *[(0, 0)] * 10]
    assert_exactly_once(made, services, jobs)


def test_a_killed_worker_costs_a_job_its_lease(made: Cluster, services: Services) -> None:
    task_id, jobs, name = start_slow_job(made, services)
    jobs |= submit_many(services, 20)
    made.kill(name)
    killed = time.monotonic()
    await_claimable(made, services, task_id, AFTER_WORKER_SECONDS)
    # What was bound to it and not begun goes to others, though its message was in its hands.
    wait_for(
        lambda: all(job(services, each).attempts for each in jobs),
        killed + AFTER_WORKER_SECONDS - time.monotonic(),
        made,
        "the jobs of a dead worker, begun elsewhere",
    )
    done = wait_final(made, services, list(jobs), 40)
    assert [(each.crashes, each.losses) for each in done] == [(0, 1), *[(0, 0)] * 20]
    assert_exactly_once(made, services, jobs)


def test_a_damaged_record_holds_up_no_other_when_its_child_dies(
    made: Cluster, services: Services
) -> None:
    task_id, _, name = start_slow_job(made, services)
    connect(made.redis_url).hset(redis_keys.job_key(task_id), "crashes", "many")
    made.kill_child(name)
    # One process is left to them, and it is the next one.
    services.runtime.registry.drain(GPU1 if name == "gpu0" else GPU0, "for the test")
    jobs = submit_many(services, 5)
    wait_final(made, services, list(jobs), 40)
    assert_exactly_once(made, services, jobs)
    assert services.runtime.job_store.cancel(task_id) == "canceled"


def test_a_worker_that_slept_through_its_lease_cannot_write(
    made: Cluster, services: Services
) -> None:
    slept, jobs, name = start_slow_job(made, services)
    jobs |= submit_many(services, 20)
    family = made.family(name)
    for each in family:
        each.suspend()
    wait_final(made, services, list(jobs), 60)
    for each in family:
        each.resume()
    more = submit_many(services, 6)
    wait_final(made, services, list(more), 40)
    assert job(services, slept).worker != f"{name}@{HOST}"
    assert_exactly_once(made, services, {**jobs, **more})


@pytest.mark.parametrize("seconds", [5, pytest.param(8, marks=pytest.mark.slow)])
def test_a_replacement_child_may_start_slowly(
    made: Cluster, services: Services, seconds: int
) -> None:
    """Celery by itself kills every replacement that takes longer than 4 s."""
    (made.folder / "slow-start").write_text(str(seconds))
    for name in ("gpu0", "gpu1"):
        made.kill_child(name)
    wait_for(
        lambda: not usable(made, GPU0) and not usable(made, GPU1),
        AFTER_CHILD_SECONDS,
        made,
        "word that no model answers",
    )
    jobs = submit_many(services, 3)
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)


@pytest.mark.slow
def test_a_silent_child_is_replaced(made: Cluster, services: Services) -> None:
    children = {name: made.child(name) for name in ("gpu0", "gpu1")}
    for child in children.values():
        child.suspend()
    for name, child in children.items():
        # Its last answer counts for 16 s with these settings.
        wait_for(lambda: not child.is_running(), 40, made, f"the end of {name}'s silent child")  # noqa: B023 - called here
    jobs = submit_many(services, 4)
    done = wait_final(made, services, list(jobs), 60)
    assert sum(each.losses for each in done) == 0
    assert_exactly_once(made, services, jobs)
    assert {made.child(name).pid for name in children}.isdisjoint(
        child.pid for child in children.values()
    )


@pytest.mark.slow
def test_a_child_that_grew_too_large_is_replaced_after_its_job(
    made: Cluster, services: Services
) -> None:
    before = {f"{name}@{HOST}": made.child(name) for name in ("gpu0", "gpu1")}
    large = picture(red=GROW)
    grown = {submit(services, large): large}
    (done,) = wait_final(made, services, list(grown), 20)
    jobs = submit_many(services, 20)
    others = wait_final(made, services, list(jobs), 40)
    wait_for(lambda: not before[str(done.worker)].is_running(), 20, made, "the large child's end")
    assert {(each.attempts, each.crashes, each.losses) for each in [done, *others]} == {(1, 0, 0)}
    assert_exactly_once(made, services, {**grown, **jobs})


@pytest.mark.slow
def test_a_worker_whose_model_is_blind_takes_no_work(made: Cluster, services: Services) -> None:
    (made.folder / "blind").touch()
    name = made.start_worker(2, wait=False)
    blind = made.members.pop(name).process
    jobs = submit_many(services, 20)
    assert blind.wait(60) == 1
    assert "fails its self-test" in (made.folder / f"{name}.log").read_text()
    done = wait_final(made, services, list(jobs), 40)
    assert {each.worker for each in done} <= {GPU0, GPU1}
    assert_exactly_once(made, services, jobs)


@pytest.mark.parametrize("good", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_poison_image_fails_alone(made: Cluster, services: Services, good: int) -> None:
    jobs = submit_many(services, 5)
    poison = submit(services, picture(red=KILL))
    jobs |= submit_many(services, good - 5, first=5)
    wait_final(made, services, [*jobs, poison], 90)
    assert_exactly_once(made, services, jobs)
    dead = job(services, poison)
    assert (dead.status, dead.crashes, dead.attempts) == (Status.FAILED, 3, 3)
    assert dead.error is not None
    assert dead.error.type == "poison"
    assert poison in services.runtime.job_store.dead()


def test_a_hanging_model_call_is_killed_and_the_job_tried_again(
    made: Cluster, services: Services
) -> None:
    hanging = picture(red=HANG_ONCE)
    jobs = {submit(services, hanging): hanging, **submit_many(services, 5)}
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)
    assert job(services, next(iter(jobs))).crashes == 1


def test_an_urgent_job_passes_a_bulk_backlog(made: Cluster, services: Services) -> None:
    bulk = submit_many(services, 60, priority=Priority.LOW)
    await_processing(made, services)
    data = picture(number=99)
    urgent = submit(services, data, Priority.HIGH)
    (asked,) = wait_final(made, services, [urgent], 60)
    done = wait_final(made, services, list(bulk), 90)
    assert asked.started_at is not None
    # Those that were in the workers' hands, and a few that they took meanwhile.
    between = [
        each
        for each in done
        if each.started_at and asked.created_at < each.started_at < asked.started_at
    ]
    assert len(between) < 10
    assert_exactly_once(made, services, {urgent: data})


def test_jobs_that_keep_coming_starve_none_of_those_that_wait(
    made: Cluster, services: Services
) -> None:
    """One comes for each that goes: neither queue of a worker may be fed for ever."""
    first = submit_many(services, 20)
    later: list[str] = []

    def keep_coming() -> None:
        while len(services.runtime.job_store.ids(Status.QUEUED)) < 20:
            later.append(submit(services, picture(number=20 + len(later))))

    wait_final(made, services, list(first), 40, meanwhile=keep_coming)
    assert_exactly_once(made, services, first)
    wait_final(made, services, later, 60)


@pytest.mark.slow
def test_a_bulk_batch_is_not_starved(made: Cluster, services: Services) -> None:
    """Urgent jobs keep coming, faster than they are done; bulk work goes on all the same."""
    client = connect(made.redis_url)
    signal_workers(made, signal.SIGSTOP)
    bulk = submit_many(services, 6, priority=Priority.LOW)
    # They have waited for longer than the longest wait on each step.
    for task_id in bulk:
        client.zadd(redis_keys.index_key(Status.QUEUED), {task_id: time.time() - 3600}, xx=True)
    urgent = submit_many(services, 30, priority=Priority.HIGH)
    signal_workers(made, signal.SIGCONT)

    def keep_coming() -> None:
        with suppress(ObjectStoreUnavailableError):
            if len(services.runtime.job_store.ids(Status.QUEUED)) < 30:
                urgent.update(submit_many(services, 5, first=len(urgent), priority=Priority.HIGH))

    wait_final(made, services, list(bulk), 60, meanwhile=keep_coming)
    assert any(not job(services, each).status.final for each in urgent)
    wait_final(made, services, list(urgent), 60)
    assert_exactly_once(made, services, {**bulk, **urgent})
