"""A worker, or its process, is slow, silent, too large, or blind; and which job goes first."""

import time
from contextlib import suppress

import pytest

from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.job import Priority, Status
from tests.support.cluster import WORKERS, Cluster, at, picture
from tests.support.faulty_worker import GROW, SLOW_ONCE

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_a_damaged_record_holds_up_no_other_when_its_child_dies(made: Cluster) -> None:
    task_id, name = made.start_job(picture(red=SLOW_ONCE))
    made.redis.hset(redis_keys.job_key(task_id), "crashes", "many")
    made.kill_child(name)
    # One process is left to them, and it is the next one.
    (other,) = {*WORKERS} - {name}
    made.registry.drain(at(other), "for the test")
    made.succeed(made.submit_many(5), 40)
    assert made.store.cancel(task_id) == "canceled"


def test_a_replacement_child_may_start_slowly(made: Cluster) -> None:
    """Celery by itself kills every replacement that takes longer than 4 s."""
    (made.folder / "slow-start").write_text("8")
    for name in WORKERS:
        made.kill_child(name)
    # As soon as a killed child is known.
    made.wait_for(lambda: not made.usable(*WORKERS), 5, "word that no model answers")
    made.succeed(made.submit_many(3), 60)


def test_a_silent_child_is_replaced(made: Cluster) -> None:
    children = [made.child(name) for name in WORKERS]
    for child in children:
        child.suspend()
    # A last answer counts for 16 s with these settings, and then 200 times what a job took, if no
    # probe has been timed since: on a busy machine, more than another half minute.
    made.wait_for(
        lambda: not any(child.is_running() for child in children), 150, "the silent children's end"
    )
    done = made.succeed(made.submit_many(4), 60)
    assert sum(each.losses for each in done) == 0
    assert {made.child(name).pid for name in WORKERS}.isdisjoint(child.pid for child in children)


def test_a_child_that_grew_too_large_is_replaced_after_its_job(made: Cluster) -> None:
    before = {at(name): made.child(name) for name in WORKERS}
    data = picture(red=GROW)
    grown = {made.submit(data): data}
    (done,) = made.wait_final(grown, 20)
    jobs = made.submit_many(20)
    others = made.wait_final(jobs, 40)
    made.wait_for(
        lambda: not before[str(done.worker)].is_running(), 20, "the end of the large child"
    )
    assert {(each.attempts, each.crashes, each.losses) for each in [done, *others]} == {(1, 0, 0)}
    made.assert_exactly_once({**grown, **jobs})


def test_a_worker_whose_model_is_blind_takes_no_work(made: Cluster) -> None:
    (made.folder / "blind").touch()
    name = made.start_worker(2, wait=False)
    blind = made.members.pop(name).process
    jobs = made.submit_many(20)
    assert blind.wait(60) == 1
    assert "fails its self-test" in (made.folder / f"{name}.log").read_text()
    assert {each.worker for each in made.succeed(jobs, 40)} <= {at(each) for each in WORKERS}


def test_an_urgent_job_passes_a_bulk_backlog(made: Cluster) -> None:
    bulk = made.submit_many(60, priority=Priority.LOW)
    made.await_processing()
    data = picture(number=99)
    urgent = {made.submit(data, Priority.HIGH): data}
    (asked,) = made.succeed(urgent, 60)
    assert asked.started_at is not None
    # Those that were in the workers' hands, and a few that they took meanwhile.
    between = [
        each
        for each in made.wait_final(bulk, 90)
        if each.started_at and asked.created_at < each.started_at < asked.started_at
    ]
    assert len(between) < 10


def test_jobs_that_keep_coming_starve_none_of_those_that_wait(made: Cluster) -> None:
    """One comes for each that goes: neither queue of a worker may be fed for ever."""
    first = made.submit_many(20)
    later: list[str] = []

    def keep_coming() -> None:
        while len(made.store.ids(Status.QUEUED)) < 20:
            later.append(made.submit(picture(number=20 + len(later))))

    made.wait_final(first, 40, meanwhile=keep_coming)
    made.assert_exactly_once(first)
    made.wait_final(later, 60)


def test_a_bulk_batch_is_not_starved(made: Cluster) -> None:
    """Urgent jobs keep coming, faster than they are done; bulk work goes on all the same."""
    with made.standing(*WORKERS):
        bulk = made.submit_many(6, priority=Priority.LOW)
        # They have waited for longer than the longest wait on each step.
        waited = dict.fromkeys(bulk, time.time() - 3600)
        made.redis.zadd(redis_keys.index_key(Status.QUEUED), waited, xx=True)
        urgent = made.submit_many(30, priority=Priority.HIGH)

    def keep_coming() -> None:
        with suppress(ObjectStoreUnavailableError):
            if len(made.store.ids(Status.QUEUED)) < 30:
                urgent.update(made.submit_many(5, first=len(urgent), priority=Priority.HIGH))

    made.wait_final(bulk, 60, meanwhile=keep_coming)
    assert any(not made.job(each).status.final for each in urgent)
    made.wait_final(urgent, 60)
    made.assert_exactly_once({**bulk, **urgent})
