"""The records' transitions, against a real Valkey."""

import time

import pytest
from redis import Redis

from tasks import redis_keys
from tasks.errors import QueueFullError, QueueUnavailableError
from tasks.jobs.job import LOST, OVERDUE, POISON, Job, Priority, Status, new_task_id
from tasks.jobs.store import (
    MAX_CRASHES,
    MAX_LOSSES,
    ClaimOutcome,
    JobStore,
    ReleaseOutcome,
    lease_holder,
    lease_token,
)
from tests.support.clock import Clock
from tests.support.jobs import claim, make_job, recorded
from tests.support.redis_content import mentions


@pytest.fixture
def job(store: JobStore) -> Job:
    job = make_job(created_at=1e9)
    store.create(job)
    return job


def test_a_position_counts_the_jobs_of_the_queue_that_go_first(store: JobStore) -> None:
    low, high = {"priority": Priority.LOW}, {"priority": Priority.HIGH}
    key, other = {"cache_key": "k", **low}, {"queue": "model.another"}
    first, _, _, _, last, primary, duplicate = (
        store.create(make_job(**fields)).job for fields in ({}, other, low, high, {}, key, key)
    )
    assert (store.position(first), store.position(last)) == (1, 2)
    assert duplicate.primary == primary.task_id
    assert store.position(duplicate) == store.position(primary) == 4
    assert store.cancel(last.task_id) == "canceled"
    assert store.position(last) == 0
    assert store.position(primary) == 3


def test_the_newest_jobs_are_read(store: JobStore, clock: Clock) -> None:
    jobs = []
    for clock.now in (1e9, 2e9, 3e9):
        jobs.append(store.create(make_job(created_at=clock.now)).job.task_id)
    newest = store.read_newest([Status.QUEUED], 2).jobs
    assert [job.task_id for job in newest] == jobs[:0:-1]


def test_neither_an_id_is_used_twice_nor_a_place_in_a_full_queue(store: JobStore, job: Job) -> None:
    with pytest.raises(QueueUnavailableError, match="taken"):
        store.create(job)
    with pytest.raises(QueueFullError):
        store.create(job.evolve(task_id=new_task_id()), max_pending=1)


def test_a_job_reads_back_and_a_claim_counts_the_attempt_and_names_the_worker(
    store: JobStore, redis: Redis, job: Job
) -> None:
    assert recorded(store, job).evolve(dispatch_seq=0, priority_level=None) == job
    assert redis.expiretime(redis_keys.job_key(job.task_id)) > job.expires_at
    assert store.ids(Status.QUEUED) == [job.task_id]
    assert claim(store, job, worker="gpu0@a") is ClaimOutcome.CLAIMED
    claimed = recorded(store, job)
    assert (claimed.status, claimed.attempts, claimed.worker) == (Status.PROCESSING, 1, "gpu0@a")
    assert store.ids(Status.PROCESSING) == [job.task_id]
    assert store.ids(Status.QUEUED) == []


def test_only_the_holder_of_the_lease_renews_it_and_ends_the_job_for_good(
    store: JobStore, redis: Redis, job: Job
) -> None:
    claim(store, job, "late", "w1")
    redis.delete(redis_keys.lease_key(job.task_id))  # as if it had run out
    assert claim(store, job, "hasty", "w2") is ClaimOutcome.LEASED
    assert store.release(job.task_id) is ReleaseOutcome.QUEUED
    assert claim(store, job, "next", "w2") is ClaimOutcome.CLAIMED
    redis.pexpire(redis_keys.lease_key(job.task_id), 5000)
    assert not store.renew(job.task_id, token="late")
    assert redis.pttl(redis_keys.lease_key(job.task_id)) <= 5000
    assert store.renew(job.task_id, token="next")
    assert redis.pttl(redis_keys.lease_key(job.task_id)) > 5000
    assert not store.finish(job.task_id, token="late", status=Status.SUCCEEDED)
    assert store.finish(job.task_id, token="next", status=Status.SUCCEEDED, size=7)
    assert not store.finish(job.task_id, token="next", status=Status.FAILED)
    assert claim(store, job) is ClaimOutcome.FINAL
    done = recorded(store, job)
    assert (done.status, done.size) == (Status.SUCCEEDED, 7)


def test_a_job_that_kills_its_workers_is_poison(store: JobStore, job: Job) -> None:
    outcomes = []
    for number in range(MAX_CRASHES):
        assert claim(store, job, lease_token("gpu0@a", number), "gpu0@a") is ClaimOutcome.CLAIMED
        outcomes.append(store.crash(job.task_id, holder=lease_holder("gpu0@a", number)))
    assert outcomes == [ReleaseOutcome.QUEUED] * (MAX_CRASHES - 1) + [ReleaseOutcome.DEAD]
    dead = recorded(store, job)
    assert (dead.status, dead.error) == (Status.FAILED, POISON)
    assert (dead.attempts, dead.crashes) == (MAX_CRASHES, MAX_CRASHES)
    assert store.dead() == [job.task_id]


def test_neither_another_crash_nor_the_reconciler_takes_a_job_from_a_living_worker(
    store: JobStore, job: Job
) -> None:
    claim(store, job, lease_token("gpu0@a", 12))
    assert store.crash(job.task_id, holder=lease_holder("gpu0@a", 1)) is ReleaseOutcome.NONE
    assert store.crash(job.task_id, holder=lease_holder("gpu0@b", 12)) is ReleaseOutcome.NONE
    assert store.release(job.task_id) is ReleaseOutcome.NONE
    assert recorded(store, job).status is Status.PROCESSING


def test_losses_pause_longer_and_longer_until_the_job_is_given_up(
    store: JobStore, redis: Redis, clock: Clock, job: Job
) -> None:
    pauses = []
    for number in range(1, MAX_LOSSES):
        assert claim(store, job) is ClaimOutcome.CLAIMED
        assert store.release(job.task_id, token="t") is ReleaseOutcome.QUEUED
        pauses.append(redis.zscore(redis_keys.DUE_JOBS, job.task_id) - clock.now)
        lost = recorded(store, job)
        assert (lost.losses, lost.crashes) == (number, 0)
        clock.now += 1000
    assert pauses == [0, 2, 4, 8, 16, 32, *[60] * 13]
    assert claim(store, job) is ClaimOutcome.CLAIMED
    assert store.release(job.task_id, token="t") is ReleaseOutcome.DEAD
    assert recorded(store, job).error == LOST


def test_a_job_avoids_the_worker_it_went_wrong_on_if_another_can_run_it(
    store: JobStore, job: Job
) -> None:
    for _ in range(2):
        assert claim(store, job, worker="gpu1@a") is ClaimOutcome.CLAIMED
        store.release(job.task_id, token="t", excluded_worker="gpu0@a")
        assert claim(store, job, worker="gpu0@a") is ClaimOutcome.EXCLUDED
    taken = store.claim(job.task_id, token="u", worker="gpu0@a", respect_exclusion=False)
    assert taken is ClaimOutcome.CLAIMED


def test_a_canceled_job_stays_canceled(store: JobStore, job: Job) -> None:
    claim(store, job)
    assert store.cancel(job.task_id) == "canceled"
    assert not store.renew(job.task_id, token="t")
    assert not store.finish(job.task_id, token="t", status=Status.SUCCEEDED)
    assert recorded(store, job).status is Status.CANCELED


# -- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "deadlines"),
    [
        pytest.param(60, [160, 560], id="as long as at first, each time"),
        pytest.param(900, [1000, 1000], id="no longer than its pictures are kept"),
        pytest.param(None, [None, None], id="no deadline if it had none"),
    ],
)
def test_a_requeued_job_may_wait(
    store: JobStore, redis: Redis, clock: Clock, seconds: int | None, deadlines: list[int | None]
) -> None:
    now = clock.now = time.time() // 1  # Redis lets records expire by its own
    deadline = None if seconds is None else now + seconds
    job = store.create(make_job(created_at=now, expires_at=now + 1000, deadline=deadline)).job
    assert claim(store, job) is ClaimOutcome.CLAIMED
    for later, expected in zip((100, 500), deadlines, strict=True):
        clock.now = now + later
        store.cancel(job.task_id)
        assert redis.zscore(redis_keys.JOB_DEADLINES, job.task_id) is None
        assert store.requeue(job.task_id) == "requeued"
        again = recorded(store, job)
        assert (again.status, again.finished_at) == (Status.QUEUED, None)
        assert (again.attempts, again.crashes, again.losses) == (0, 0, 0)
        assert store.due() == [job.task_id]
        until = None if expected is None else now + expected
        assert redis.zscore(redis_keys.JOB_DEADLINES, job.task_id) == until
        assert again.deadline == until
        assert store.overdue() == []
    if seconds == 60:
        clock.now = now + 561
        assert store.overdue() == [job.task_id]
        assert claim(store, job) is ClaimOutcome.FINAL
        assert recorded(store, job).error == OVERDUE


# -- what is left --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.QUEUED, Status.PROCESSING, Status.SUCCEEDED])
def test_an_erased_job_leaves_nothing_and_its_run_cannot_bring_it_back(
    store: JobStore, redis: Redis, status: Status
) -> None:
    job = store.create(make_job(cache_key="k", cache_seconds=3600)).job
    if status is not Status.QUEUED:
        claim(store, job)
    if status is Status.SUCCEEDED:
        assert store.finish(job.task_id, token="t", status=status)
    assert store.erase(job.task_id)
    assert not store.finish(job.task_id, token="t", status=Status.SUCCEEDED)
    assert store.release(job.task_id, token="t") is ReleaseOutcome.NONE
    assert store.crash(job.task_id, holder="t") is ReleaseOutcome.NONE
    assert store.requeue(job.task_id) == "missing"
    assert claim(store, job) is ClaimOutcome.MISSING
    assert mentions(redis, job.task_id) == []


def test_duplicates_of_a_job_without_a_record_are_seen_to(store: JobStore, redis: Redis) -> None:
    primary, duplicate = (store.create(make_job(cache_key="k")).job for _ in range(2))
    assert redis.smembers(redis_keys.duplicates_key(primary.task_id)) == {duplicate.task_id}
    redis.delete(redis_keys.job_key(primary.task_id))
    store.forget(primary.task_id)
    assert redis.zscore(redis_keys.COMPLETING, primary.task_id) is not None
