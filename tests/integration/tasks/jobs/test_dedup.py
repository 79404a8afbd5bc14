"""Equal pictures: results that are reused, and duplicates that wait for their primary."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from inference.options import Options
from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import LOST, Job, JobError, Priority, Status
from tasks.jobs.store import JobStore, ReadRecords
from tasks.object_store import ObjectStore, results_prefix
from tests.support.equal_jobs import EqualJobs
from tests.support.jobs import claim


def _results(equal: EqualJobs, job: Job) -> list[str]:
    return list(equal.objects.list(results_prefix(job.task_id)))


def _erase(equal: EqualJobs, job: Job) -> None:
    assert equal.client().delete(f"/api/v1/tasks/{job.task_id}").status_code == 200


@pytest.mark.parametrize("erased", ["the first", "the copy"])
def test_erasing_one_of_equal_tasks_leaves_the_other_whole(equal: EqualJobs, erased: str) -> None:
    first = equal.submit()
    equal.run(first)
    copy = equal.submit()
    gone, stays = (first, copy) if erased == "the first" else (copy, first)
    _erase(equal, gone)
    assert equal.store.get(gone.task_id) is None
    assert _results(equal, gone) == []
    left = equal.now(stays)
    assert equal.objects.get(left.original_key)
    assert len(equal.objects.get(left.result_key)) == left.size
    # And the next one is a hit only where there still is something to copy.
    assert equal.submit().cached is (erased == "the copy")


def _cancel(equal: EqualJobs, primary: Job) -> None:
    equal.store.cancel(primary.task_id)


def _cancel_the_running_one(equal: EqualJobs, primary: Job) -> None:
    claim(equal.store, primary)
    equal.store.cancel(primary.task_id)


def _damage(equal: EqualJobs, primary: Job) -> None:
    equal.run(primary)
    equal.redis.hset(redis_keys.job_key(primary.task_id), "options", "{no json")


def _lose_the_result(equal: EqualJobs, primary: Job) -> None:
    equal.run(primary)
    equal.objects.delete(equal.now(primary).result_key)


@pytest.mark.parametrize(
    "end", [_erase, _cancel, _cancel_the_running_one, _damage, _lose_the_result]
)
def test_one_duplicate_of_a_primary_without_a_result_runs_and_the_others_follow_it(
    equal: EqualJobs, end: Callable[[EqualJobs, Job], None]
) -> None:
    primary, *duplicates = [equal.submit() for _ in range(3)]
    assert equal.redis.llen(list_key("model.u2netp|3")) == 1, "a duplicate has no message"
    end(equal, primary)
    calls = equal.model.calls
    assert equal.complete() == 0
    present = [equal.now(each) for each in duplicates]
    (new,) = [each for each in present if each.primary is None]
    assert {each.primary for each in present} == {None, new.task_id}
    assert new.redispatches == 1, "it has a message of its own now"
    assert equal.submit().primary == new.task_id
    equal.run(new)
    assert equal.complete() == 2
    for each in map(equal.now, duplicates):
        assert (each.status, _results(equal, each)) == (Status.SUCCEEDED, [each.result_key])
    assert equal.model.calls == calls + 1


def test_a_duplicate_whose_record_cannot_be_read_holds_up_no_other(equal: EqualJobs) -> None:
    primary, bad, good = equal.submit(), equal.submit(), equal.submit()
    equal.redis.hset(redis_keys.job_key(bad.task_id), "options", "{no json")
    equal.run(primary)
    assert equal.complete() == 1
    assert equal.complete() == 0
    assert equal.now(good).status is Status.SUCCEEDED
    # The reconciler looks at it from time to time, should somebody mend it.
    assert equal.store.is_due(bad.task_id)
    assert equal.redis.zcard(redis_keys.COMPLETING) == 0


def test_a_result_that_the_store_does_not_give_holds_up_no_other_primary(
    equal: EqualJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [[equal.submit(options=Options(quality=each)) for _ in range(2)] for each in (50, 60)]
    for primary, _ in pairs:
        equal.run(primary)
    (stays, _), (_, goes) = pairs
    copy = ObjectStore.copy

    def refuse(store: ObjectStore, source: str, key: str, **more: object) -> None:
        if stays.task_id in source:
            raise ObjectStoreUnavailableError("Access Denied")
        copy(store, source, key, **more)

    monkeypatch.setattr(ObjectStore, "copy", refuse)
    for _ in range(2):
        with suppress(ObjectStoreUnavailableError):
            equal.complete()
    assert equal.now(goes).status is Status.SUCCEEDED
    monkeypatch.undo()
    assert [equal.complete(), equal.complete()] == [1, 0]
    assert {equal.now(job).status for pair in pairs for job in pair} == {Status.SUCCEEDED}
    assert equal.redis.zcard(redis_keys.COMPLETING) == 0


def test_duplicates_of_a_canceled_primary_follow_whoever_leads_by_then(equal: EqualJobs) -> None:
    primary, duplicate = equal.pair()
    equal.store.cancel(primary.task_id)
    new = equal.submit()  # before anybody saw to the duplicate
    assert new.primary is None
    equal.complete()
    assert equal.now(duplicate).primary == new.task_id


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (JobError("invalid_image", "The picture is damaged."), Status.FAILED),
        (LOST, Status.QUEUED),
    ],
)
def test_what_a_picture_does_to_workers_is_shared_and_bad_luck_is_not(
    equal: EqualJobs, reason: JobError, status: Status
) -> None:
    primary, duplicate = equal.pair()
    claim(equal.store, primary)
    equal.store.finish(primary.task_id, token="t", status=Status.FAILED, error=reason)
    with capture_logs() as lines:
        assert equal.complete() == (status is Status.FAILED)
    present = equal.now(duplicate)
    said = [(each["event"], each["request_id"]) for each in lines if "primary" in each]
    assert said == [("duplicate.completed", present.request_id)] * (status is Status.FAILED)
    assert (present.status, present.primary) == (status, None)
    assert present.error == (reason if status is Status.FAILED else None)
    # What failed is not kept: the next one is tried.
    assert equal.submit().primary == (None if status is Status.FAILED else duplicate.task_id)


def test_the_end_of_a_duplicate_leaves_its_primary_the_one_that_runs(equal: EqualJobs) -> None:
    primary, duplicate = equal.pair()
    equal.store.cancel(duplicate.task_id)
    assert equal.submit().primary == primary.task_id


def test_the_most_urgent_duplicate_takes_over(equal: EqualJobs) -> None:
    primary, normal, high = equal.submit(), equal.submit(), equal.submit(priority=Priority.HIGH)
    equal.store.cancel(primary.task_id)
    equal.complete()
    assert equal.now(normal).primary == high.task_id


def test_a_duplicate_that_is_canceled_as_it_takes_over_leaves_that_to_the_next(
    equal: EqualJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, gone, stays = [equal.submit() for _ in range(3)]
    equal.store.cancel(primary.task_id)
    read = JobStore.read

    def cancel_after(store: JobStore, task_ids: Sequence[str]) -> ReadRecords:
        records = read(store, task_ids)
        equal.store.cancel(gone.task_id)
        return records

    monkeypatch.setattr(JobStore, "read", cancel_after)
    equal.complete()
    assert (equal.now(stays).primary, equal.now(stays).redispatches) == (None, 1)


def test_a_duplicate_that_is_canceled_while_its_copy_is_made_keeps_no_copy(
    equal: EqualJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, gone = equal.pair()
    equal.run(primary)
    copy = ObjectStore.copy

    def slow(store: ObjectStore, source: str, key: str) -> None:
        copy(store, source, key)
        equal.store.cancel(gone.task_id)

    monkeypatch.setattr(ObjectStore, "copy", slow)
    assert equal.complete() == 0
    assert _results(equal, gone) == []


def test_a_duplicate_whose_primary_runs_has_begun_by_its_deadline(equal: EqualJobs) -> None:
    primary, duplicate = equal.submit(), equal.submit(expires_in=1)
    later = JobStore(equal.redis, clock=lambda: duplicate.created_at + 2)
    claim(equal.store, primary)
    assert not later.fail_overdue(duplicate.task_id)
    equal.store.release(primary.task_id, token="t")
    assert later.fail_overdue(duplicate.task_id)
