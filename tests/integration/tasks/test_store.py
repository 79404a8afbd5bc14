"""The records' transitions, against a real Valkey."""

import threading
from collections.abc import Iterator

import pytest
from redis import Redis

from tasks import keys
from tasks.errors import QueueUnavailableError
from tasks.jobs import Job, Status
from tasks.store import MAX_ATTEMPTS, Claim, JobStore, connect


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
    task_id = keys.new_task_id()
    job = Job(task_id, "u2netp", "model.u2netp", keys.original_key(task_id), 1e9, 4e9)
    store.create(job)
    return job


def test_a_created_job_reads_back(store: JobStore, job: Job) -> None:
    assert store.get(job.task_id) == job
    assert job.task_id in store.ids(Status.QUEUED)


def test_a_record_goes_away_by_itself(client: Redis, job: Job) -> None:
    assert client.expiretime(keys.job_key(job.task_id)) > job.expires_at


def test_jobs_wait_in_the_order_they_came(store: JobStore, job: Job) -> None:
    later = job.evolve(task_id=keys.new_task_id())
    store.create(later)
    assert store.position(later.task_id) > store.position(job.task_id)
    assert store.position("rm-unknown") == 0


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
    claimed = store.get(job.task_id)
    assert claimed is not None
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
    done = store.get(job.task_id)
    assert done is not None
    assert (done.status, done.size) == (Status.SUCCEEDED, 7)
    assert not store.finish(job.task_id, token="mine", status=Status.FAILED)


def test_a_late_worker_cannot_write_after_its_lease_went_to_another(
    store: JobStore, client: Redis, job: Job
) -> None:
    store.claim(job.task_id, token="late", worker="w1")
    client.delete(keys.lease_key(job.task_id))  # as if it had run out
    assert store.claim(job.task_id, token="next", worker="w2") is Claim.CLAIMED
    assert not store.renew(job.task_id, token="late")
    assert not store.finish(job.task_id, token="late", status=Status.SUCCEEDED)
    assert store.finish(job.task_id, token="next", status=Status.SUCCEEDED)


def test_a_lease_is_prolonged_by_its_owner_alone(store: JobStore, client: Redis, job: Job) -> None:
    store.claim(job.task_id, token="mine", worker="w")
    client.pexpire(keys.lease_key(job.task_id), 50)
    assert not store.renew(job.task_id, token="other")
    assert store.renew(job.task_id, token="mine")
    assert client.pttl(keys.lease_key(job.task_id)) > 5000


def test_a_finished_job_is_not_claimed_again(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token="t", worker="w")
    store.finish(job.task_id, token="t", status=Status.SUCCEEDED)
    assert store.claim(job.task_id, token="u", worker="w") is Claim.FINAL


def test_a_job_that_outlives_its_workers_too_often_is_poison(
    store: JobStore, client: Redis, job: Job
) -> None:
    for number in range(MAX_ATTEMPTS):
        assert store.claim(job.task_id, token=f"t{number}", worker="w") is Claim.CLAIMED
        client.delete(keys.lease_key(job.task_id))
        assert store.release(job.task_id)
    assert store.claim(job.task_id, token="last", worker="w") is Claim.EXHAUSTED
    failed = store.get(job.task_id)
    assert failed is not None
    assert failed.status is Status.FAILED
    assert failed.error is not None
    assert failed.error.type == "poison"
    assert failed.attempts == MAX_ATTEMPTS


def test_giving_a_job_back_costs_no_attempt(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token="t", worker="w")
    assert store.release(job.task_id, token="t")
    back = store.get(job.task_id)
    assert back is not None
    assert (back.status, back.attempts) == (Status.QUEUED, 0)


def test_the_reconciler_cannot_take_a_job_from_a_living_worker(store: JobStore, job: Job) -> None:
    store.claim(job.task_id, token="t", worker="w")
    assert not store.release(job.task_id)
    still = store.get(job.task_id)
    assert still is not None
    assert still.status is Status.PROCESSING


def test_redis_away_is_one_kind_of_error() -> None:
    store = JobStore(connect("redis://127.0.0.1:1/0", timeout=0.2))
    with pytest.raises(QueueUnavailableError):
        store.get("rm-1")
