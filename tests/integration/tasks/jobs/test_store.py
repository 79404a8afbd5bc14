"""The records' transitions, against a real Valkey."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from tasks import redis_keys
from tasks.errors import QueueFullError, QueueUnavailableError
from tasks.jobs.job import Job, Priority, Status, new_task_id
from tasks.jobs.store import (
    MAX_CRASHES,
    MAX_LOSSES,
    Claim,
    Dispatch,
    JobStore,
    ReleaseOutcome,
    lease_holder,
    lease_token,
)
from tasks.redis_client import connect
from tests.support.jobs import make_job, recorded


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    client = connect(redis_url)
    yield client
    client.close()


@pytest.fixture
def store(client: Redis) -> JobStore:
    return JobStore(client)


@pytest.fixture
def job(store: JobStore) -> Job:
    job = make_job(created_at=1e9)
    store.create(job)
    return job


def test_a_created_job_reads_back(store: JobStore, job: Job) -> None:
    assert recorded(store, job).evolve(dispatch_seq=0) == job
    assert job.task_id in store.ids(Status.QUEUED)


def test_a_record_goes_away_by_itself(client: Redis, job: Job) -> None:
    assert client.expiretime(redis_keys.job_key(job.task_id)) > job.expires_at


def test_a_position_counts_the_jobs_of_the_queue_that_go_first(store: JobStore, job: Job) -> None:
    def submit(**changes: Any) -> Job:  # noqa: ANN401 - any field's type
        changes = {"queue": f"model.{job.task_id}", **changes}
        return store.create(job.evolve(task_id=new_task_id(), **changes)).job

    first = submit()
    submit(queue="model.another")
    submit(priority=Priority.LOW)
    submit(priority=Priority.HIGH)
    last = submit()
    assert (store.position(first), store.position(last)) == (1, 2)
    shared = {"cache_key": job.task_id, "priority": Priority.LOW}
    primary, duplicate = submit(**shared), submit(**shared)
    assert duplicate.primary == primary.task_id
    assert store.position(duplicate) == store.position(primary) == 4
    assert store.cancel(last.task_id) == "canceled"
    assert store.position(last) == 0
    assert store.position(primary) == 3


def test_an_id_is_never_used_twice(store: JobStore, job: Job) -> None:
    with pytest.raises(QueueUnavailableError, match="taken"):
        store.create(job)


def test_an_unknown_job_is_none(store: JobStore) -> None:
    assert store.get("rm-unknown") is None
    assert store.claim("rm-unknown", token="t", worker="w") is Claim.MISSING


def test_only_one_of_many_workers_gets_the_lease(store: JobStore, job: Job) -> None:
    outcomes: list[Claim] = []
    start = threading.Barrier(16)

    def claim(number: int) -> None:
        start.wait()
        outcomes.append(store.claim(job.task_id, token=f"t{number}", worker=f"w{number}"))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [Claim.CLAIMED, *[Claim.LEASED] * 15]


def test_a_claim_counts_the_attempt_and_names_the_worker(store: JobStore, job: Job) -> None:
    assert store.claim(job.task_id, token="t", worker="gpu0@a") is Claim.CLAIMED
    claimed = recorded(store, job)
    assert (claimed.status, claimed.attempts, claimed.worker) == (
        Status.PROCESSING,
        1,
        "gpu0@a",
    )
    assert job.task_id in store.ids(Status.PROCESSING)
    assert job.task_id not in store.ids(Status.QUEUED)


def test_the_final_write_needs_the_lease(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token="mine", worker="w")
    assert not store.finish(job.task_id, token="other", status=Status.SUCCEEDED)
    assert store.finish(job.task_id, token="mine", status=Status.SUCCEEDED, size=7)
    done = recorded(store, job)
    assert (done.status, done.size) == (Status.SUCCEEDED, 7)
    assert not store.finish(job.task_id, token="mine", status=Status.FAILED)


def test_a_late_worker_cannot_write_after_its_lease_went_to_another(
    store: JobStore, client: Redis, job: Job
) -> None:
    store.claim(job.task_id, token="late", worker="w1")
    client.delete(redis_keys.lease_key(job.task_id))  # as if it had run out
    assert store.claim(job.task_id, token="hasty", worker="w2") is Claim.LEASED
    assert store.release(job.task_id) is ReleaseOutcome.QUEUED
    assert store.claim(job.task_id, token="next", worker="w2") is Claim.CLAIMED
    assert not store.renew(job.task_id, token="late")
    assert not store.finish(job.task_id, token="late", status=Status.SUCCEEDED)
    assert store.finish(job.task_id, token="next", status=Status.SUCCEEDED)


def test_a_lease_is_prolonged_by_its_owner_alone(store: JobStore, client: Redis, job: Job) -> None:
    store.claim(job.task_id, token="mine", worker="w")
    client.pexpire(redis_keys.lease_key(job.task_id), 50)
    assert not store.renew(job.task_id, token="other")
    assert store.renew(job.task_id, token="mine")
    assert client.pttl(redis_keys.lease_key(job.task_id)) > 5000


def test_a_finished_job_is_not_claimed_again(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token="t", worker="w")
    store.finish(job.task_id, token="t", status=Status.SUCCEEDED)
    assert store.claim(job.task_id, token="u", worker="w") is Claim.FINAL


def test_a_job_that_kills_its_workers_is_poison(store: JobStore, job: Job) -> None:
    outcomes = []
    for number in range(MAX_CRASHES):
        token = lease_token("gpu0@a", number)
        assert store.claim(job.task_id, token=token, worker="gpu0@a") is Claim.CLAIMED
        outcomes.append(store.crash(job.task_id, holder=lease_holder("gpu0@a", number)))
    assert outcomes == [ReleaseOutcome.QUEUED] * (MAX_CRASHES - 1) + [ReleaseOutcome.DEAD]
    dead = recorded(store, job)
    assert (dead.status, dead.attempts, dead.crashes) == (Status.FAILED, MAX_CRASHES, MAX_CRASHES)
    assert dead.error is not None
    assert dead.error.type == "poison"
    assert job.task_id in store.dead()


def test_a_crash_of_another_process_takes_no_lease(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token=lease_token("gpu0@a", 12), worker="gpu0@a")
    assert store.crash(job.task_id, holder=lease_holder("gpu0@a", 1)) is ReleaseOutcome.NONE
    assert store.crash(job.task_id, holder=lease_holder("gpu0@b", 12)) is ReleaseOutcome.NONE
    assert recorded(store, job).status is Status.PROCESSING


def test_losses_are_counted_apart_and_pause_longer_and_longer(
    store: JobStore, client: Redis, job: Job
) -> None:
    now = [1e9]
    timed = JobStore(client, clock=lambda: now[0])
    pauses = []
    for number in range(6):
        timed.claim(job.task_id, token=f"t{number}", worker="w")
        assert timed.release(job.task_id, token=f"t{number}") is ReleaseOutcome.QUEUED
        pauses.append(client.zscore(redis_keys.DUE_JOBS, job.task_id) - now[0])
        now[0] += 1000
    assert pauses == [0, 2, 4, 8, 16, 32]
    lost = recorded(store, job)
    assert (lost.losses, lost.crashes) == (6, 0)


def test_a_job_lost_too_often_is_given_up(store: JobStore, job: Job) -> None:
    for number in range(MAX_LOSSES):
        assert store.claim(job.task_id, token=f"t{number}", worker="w") is Claim.CLAIMED
        outcome = store.release(job.task_id, token=f"t{number}")
    assert outcome is ReleaseOutcome.DEAD
    error = recorded(store, job).error
    assert error is not None
    assert (error.type, error.retryable) == ("lost", True)


def test_the_reconciler_cannot_take_a_job_from_a_living_worker(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token="t", worker="w")
    assert store.release(job.task_id) is ReleaseOutcome.NONE
    assert recorded(store, job).status is Status.PROCESSING


def test_a_job_avoids_the_worker_it_went_wrong_on(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token="t", worker="gpu0@a")
    store.release(job.task_id, token="t", excluded_worker="gpu0@a")
    assert store.claim(job.task_id, token="u", worker="gpu0@a") is Claim.EXCLUDED
    assert store.claim(job.task_id, token="v", worker="gpu1@a") is Claim.CLAIMED


def test_a_job_may_run_again_where_it_went_wrong_if_nobody_else_can(
    store: JobStore, job: Job
) -> None:
    store.claim(job.task_id, token="t", worker="gpu0@a")
    store.release(job.task_id, token="t", excluded_worker="gpu0@a")
    claim = store.claim(job.task_id, token="u", worker="gpu0@a", respect_exclusion=False)
    assert claim is Claim.CLAIMED


def test_a_canceled_job_stays_canceled(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token="t", worker="w")
    assert store.cancel(job.task_id) == "canceled"
    assert not store.renew(job.task_id, token="t")
    assert not store.finish(job.task_id, token="t", status=Status.SUCCEEDED)
    assert store.cancel(job.task_id) == "canceled"
    assert recorded(store, job).status is Status.CANCELED


def test_an_operator_can_begin_a_canceled_job_anew(store: JobStore, job: Job) -> None:
    store.cancel(job.task_id)
    assert store.requeue(job.task_id) == "requeued"
    assert job.task_id in store.due()
    assert store.record_dispatches([Dispatch(job.task_id, "q")]) != [None]
    again = recorded(store, job)
    assert (again.status, again.attempts, again.finished_at) == (Status.QUEUED, 0, None)
    assert job.task_id not in store.due()


def _patient(store: JobStore, job: Job, now: float, seconds: float | None) -> Job:
    deadline = None if seconds is None else now + seconds
    patient = job.evolve(
        task_id=new_task_id(), created_at=now, expires_at=now + 1000, deadline=deadline
    )
    store.create(patient)
    return patient


def test_a_job_begun_anew_has_as_long_as_at_first_each_time(client: Redis, job: Job) -> None:
    now = time.time()
    patient = _patient(JobStore(client), job, now, 60)
    for later in (100, 500):
        then = JobStore(client, clock=lambda later=later: now + later)
        then.cancel(patient.task_id)
        assert client.zscore(redis_keys.JOB_DEADLINES, patient.task_id) is None
        assert then.requeue(patient.task_id) == "requeued"
        assert client.zscore(redis_keys.JOB_DEADLINES, patient.task_id) == pytest.approx(
            now + later + 60
        )
        assert recorded(then, patient).deadline == pytest.approx(now + later + 60)
        assert patient.task_id not in then.overdue()


def test_a_job_begun_anew_that_nobody_begins_fails(client: Redis, job: Job) -> None:
    now = time.time()
    patient = _patient(JobStore(client), job, now, 60)
    JobStore(client).cancel(patient.task_id)
    JobStore(client, clock=lambda: now + 100).requeue(patient.task_id)
    late = JobStore(client, clock=lambda: now + 161)
    assert patient.task_id in late.overdue()
    assert late.fail_overdue(patient.task_id)
    error = recorded(late, patient).error
    assert error is not None
    assert error.type == "deadline_exceeded"


def test_a_job_begun_anew_waits_no_longer_than_its_pictures_are_kept(
    client: Redis, job: Job
) -> None:
    now = time.time()
    patient = _patient(JobStore(client), job, now, 900)
    JobStore(client).cancel(patient.task_id)
    JobStore(client, clock=lambda: now + 500).requeue(patient.task_id)
    assert client.zscore(redis_keys.JOB_DEADLINES, patient.task_id) == pytest.approx(now + 1000)


def test_a_job_begun_anew_has_no_deadline_if_it_had_none(client: Redis, job: Job) -> None:
    patient = _patient(JobStore(client), job, time.time(), None)
    JobStore(client).cancel(patient.task_id)
    JobStore(client).requeue(patient.task_id)
    assert client.zscore(redis_keys.JOB_DEADLINES, patient.task_id) is None
    assert recorded(JobStore(client), patient).deadline is None


def test_a_job_that_nobody_began_in_time_fails(store: JobStore, job: Job) -> None:
    late = job.evolve(task_id=new_task_id(), deadline=1.0)
    store.create(late)
    assert late.task_id in store.overdue()
    assert store.claim(late.task_id, token="t", worker="w") is Claim.FINAL
    error = recorded(store, late).error
    assert error is not None
    assert error.type == "deadline_exceeded"


def test_more_than_the_allowed_number_is_refused(store: JobStore, job: Job) -> None:
    with pytest.raises(QueueFullError):
        store.create(job.evolve(task_id=new_task_id()), max_pending=1)


def test_an_expired_record_leaves_no_trace(store: JobStore, client: Redis, job: Job) -> None:
    client.delete(redis_keys.job_key(job.task_id))
    store.forget(job.task_id, list_name=f"{job.queue}|{int(job.priority)}")
    traces = [name for name in client.scan_iter("rmbg:*") if _names(client, name, job.task_id)]
    assert traces == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_job_that_was_begun_anew_can_be_erased(
    store: JobStore, client: Redis, job: Job, workers: int
) -> None:
    for _ in range(workers):
        store.claim(job.task_id, token="t", worker="w")
    assert store.erase(job.task_id)
    assert store.get(job.task_id) is None
    traces = [name for name in client.scan_iter("rmbg:*") if _names(client, name, job.task_id)]
    assert traces == []
    assert not store.finish(job.task_id, token="t", status=Status.SUCCEEDED)


def test_duplicates_of_a_job_whose_record_is_gone_are_seen_to(
    store: JobStore, client: Redis, job: Job
) -> None:
    primary = job.evolve(task_id=new_task_id(), cache_key=f"key of {job.task_id}")
    duplicate = primary.evolve(task_id=new_task_id())
    store.create(primary)
    store.create(duplicate)
    assert client.smembers(redis_keys.duplicates_key(primary.task_id)) == {duplicate.task_id}
    client.delete(redis_keys.job_key(primary.task_id))
    store.forget(primary.task_id)
    assert client.zscore(redis_keys.COMPLETING, primary.task_id) is not None


def _names(client: Redis, key: str, task_id: str) -> bool:
    # An owner's list is trimmed as jobs are added to it: of an expired record nobody knows whose.
    if key.startswith(redis_keys.owner_tasks_key("")):
        return False
    return client.type(key) == "zset" and client.zscore(key, task_id) is not None


def test_redis_away_is_one_kind_of_error() -> None:
    store = JobStore(connect("redis://127.0.0.1:1/0", timeout=0.2))
    with pytest.raises(QueueUnavailableError):
        store.get("rm-1")
