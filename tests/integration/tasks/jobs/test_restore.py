"""What `rmbg restore` makes of a bucket, with real Redis and S3 and no worker."""

import io
from collections.abc import Iterator

import pytest
from redis import Redis

from tasks.housekeeping.missing_messages import list_key
from tasks.jobs import restore
from tasks.jobs.job import Job, Priority, Status
from tasks.jobs.job_objects import MANIFEST_METADATA, put_manifest, write_manifest
from tasks.jobs.restore import Restorer
from tasks.object_store import ObjectStore
from tasks.runtime import Runtime
from tasks.settings import Settings
from tests.support.clock import Clock
from tests.support.jobs import make_job, recorded

NOW = 1.7e9


@pytest.fixture
def restorer(emptied: Settings) -> Iterator[Restorer]:
    with Runtime(emptied) as runtime:
        parts = (runtime.job_store, runtime.object_store, runtime.dispatcher, runtime.router)
        yield Restorer(*parts, clock=Clock(NOW))


@pytest.fixture
def bucket(restorer: Restorer) -> ObjectStore:
    return restorer.object_store


def _submitted(bucket: ObjectStore, *, earlier: bool = False, **changes: object) -> Job:
    """A job whose original and manifest are in the bucket, perhaps as an earlier version did it."""
    fields = {"queue": "gpu.gone.0", "options": {"quality": 80}, "priority": Priority.LOW}
    job = make_job(**fields, **changes)
    original = (job.original_key, io.BytesIO(b"x"), 1)
    if earlier:
        named = {MANIFEST_METADATA: write_manifest(job).decode()}
        bucket.client.put_object(bucket.bucket, *original, metadata=named)
    else:
        bucket.put(*original, "image/png")
        put_manifest(bucket, job)
    return job


def test_lost_jobs_are_found_the_oldest_first(
    bucket: ObjectStore, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "_BLOCK_SIZE", 2)
    lost = [_submitted(bucket, created_at=NOW - age) for age in (5, 1, 9)]
    restorer.job_store.create(_submitted(bucket))
    _submitted(bucket, expires_at=NOW)
    bucket.put("originals/rm-by-hand", io.BytesIO(b"x"), 1, "image/png")
    bucket.put("results/rm-1/a.png", io.BytesIO(b"x"), 1, "image/png")

    findings = restorer.find()
    assert [job.task_id for job in findings.lost] == [lost[at].task_id for at in (2, 0, 1)]
    assert (findings.recorded, findings.expired) == (1, 1)
    assert findings.unreadable == ["originals/rm-by-hand"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_restored_job_waits_with_a_message_and_is_restored_once(
    bucket: ObjectStore, restorer: Restorer, redis: Redis, *, earlier: bool
) -> None:
    job = _submitted(bucket, earlier=earlier)
    (lost,) = restorer.find().lost
    assert [restorer.restore(lost), restorer.restore(lost)] == [True, False]
    assert restorer.find().lost == []
    restored = recorded(restorer.job_store, job)
    # The queue of a worker that is gone is not what it is sent to.
    assert restored.queue == "model.u2netp"
    assert restored.evolve(queue=job.queue, dispatch_seq=0, priority_level=None) == job
    assert restored.status is Status.QUEUED
    assert redis.llen(list_key("model.u2netp|3")) == 1


@pytest.mark.parametrize(("patience", "until"), [(60, NOW + 60), (3e9, 4e9)])
def test_a_restored_job_has_as_long_to_wait_as_at_first(
    bucket: ObjectStore, restorer: Restorer, patience: float, until: float
) -> None:
    """But no longer than its picture is kept."""
    created_at = NOW - 500
    _submitted(bucket, created_at=created_at, deadline=created_at + patience)
    (lost,) = restorer.find().lost
    assert restorer.restore(lost)
    restored = recorded(restorer.job_store, lost)
    assert (restored.deadline, restored.queue_timeout) == (until, patience)
