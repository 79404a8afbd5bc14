"""Equal pictures: results that are reused, and duplicates that wait for their primary."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.services import Services
from inference.errors import InvalidImageError
from inference.options import Options
from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.dedup import DuplicateCompleter
from tasks.jobs.job import LOST, POISON, JobError, Priority, Status
from tasks.object_store import ObjectStore, results_prefix
from tasks.worker.runner import Runner
from tests.support.equal_jobs import Submit, job_of
from tests.support.models import FakeModel
from tests.support.services import with_parts

TOKEN = "gpu0@t/1/run"


@pytest.fixture
def completer(redis: Redis, services: Services) -> DuplicateCompleter:
    return DuplicateCompleter(
        redis,
        services.runtime.job_store,
        services.runtime.object_store,
        services.runtime.dispatcher,
        services.runtime.router,
    )


def _waiting(redis: Redis) -> int:
    """Messages in all lists."""
    lists = [key for key in redis.keys("model.*") if redis.type(key) == "list"]
    return sum(redis.llen(key) for key in lists)


def test_50_equal_pictures_at_once_run_the_model_once(
    services: Services,
    runner: Runner,
    completer: DuplicateCompleter,
    model: FakeModel,
    submit: Submit,
) -> None:
    with ThreadPoolExecutor(20) as pool:
        sent = [pool.submit(submit) for _ in range(50)]
        # What a worker and an I/O worker do, while the pictures come in.
        while not all(each.done() for each in sent) or services.runtime.job_store.ids(
            Status.QUEUED
        ):
            for job in services.runtime.job_store.get_many(
                services.runtime.job_store.ids(Status.QUEUED)
            ):
                if job.primary is None:
                    runner.run(job.task_id)
            completer.run_once()
    jobs = [each.result() for each in sent]
    ended = [services.runtime.job_store.get(job.task_id) for job in jobs]
    assert model.calls == 1
    assert len({job.task_id for job in jobs}) == 50
    bytes_of = set()
    for job in ended:
        assert job is not None
        assert job.status is Status.SUCCEEDED
        assert job.result_key is not None
        assert job.result_key.startswith(results_prefix(job.task_id))
        assert services.runtime.object_store.get(job.original_key)
        bytes_of.add(services.runtime.object_store.get(job.result_key))
    assert len(bytes_of) == 1
    assert sum(job.cached for job in ended if job) == 49


@pytest.mark.parametrize("erased", ["the first", "the copy"])
def test_erasing_one_of_two_equal_tasks_leaves_the_other_whole(
    client: FlaskClient,
    services: Services,
    runner: Runner,
    submit: Submit,
    *,
    erased: str,
) -> None:
    first = submit()
    runner.run(first.task_id)
    copy = submit()
    gone, stays = (first, copy) if erased == "the first" else (copy, first)
    assert client.delete(f"/api/v1/tasks/{gone.task_id}").status_code == 200
    assert services.runtime.job_store.get(gone.task_id) is None
    assert list(services.runtime.object_store.list(results_prefix(gone.task_id))) == []
    left = job_of(services, stays)
    assert services.runtime.object_store.get(left.original_key)
    assert len(services.runtime.object_store.get(str(left.result_key))) == left.size
    # And the next one is a hit only where there still is something to copy.
    assert submit().cached is (erased == "the copy")


def test_erasing_a_primary_leaves_its_duplicates_a_run(
    client: FlaskClient,
    services: Services,
    runner: Runner,
    completer: DuplicateCompleter,
    submit: Submit,
) -> None:
    primary, duplicate = submit(), submit()
    assert client.delete(f"/api/v1/tasks/{primary.task_id}").status_code == 200
    completer.run_once()
    runner.run(duplicate.task_id)
    assert job_of(services, duplicate).status is Status.SUCCEEDED


def test_a_duplicate_has_no_message_and_takes_no_worker(submit: Submit, redis: Redis) -> None:
    submit()
    before = _waiting(redis)
    assert submit().primary is not None
    assert _waiting(redis) == before


def test_when_the_primary_is_canceled_a_duplicate_runs_and_the_others_follow_it(
    services: Services,
    runner: Runner,
    completer: DuplicateCompleter,
    model: FakeModel,
    submit: Submit,
) -> None:
    primary, *duplicates = [submit() for _ in range(4)]
    services.runtime.job_store.cancel(primary.task_id)
    completer.run_once()
    present = [job_of(services, each) for each in duplicates]
    (new,) = [each for each in present if each.primary is None]
    assert {each.primary for each in present} == {None, new.task_id}
    assert submit().primary == new.task_id
    # It has a message of its own now.
    assert new.redispatches == 1
    runner.run(new.task_id)
    assert completer.run_once() == 3
    assert {job_of(services, each).status for each in duplicates} == {Status.SUCCEEDED}
    assert job_of(services, primary).status is Status.CANCELED
    assert model.calls == 1


def test_a_duplicate_whose_record_cannot_be_read_holds_up_no_other(
    services: Services, runner: Runner, completer: DuplicateCompleter, submit: Submit, redis: Redis
) -> None:
    primary, bad, good = submit(), submit(), submit()
    redis.hset(redis_keys.job_key(bad.task_id), "options", "{no json")
    runner.run(primary.task_id)
    assert completer.run_once() == 1
    assert completer.run_once() == 0
    assert job_of(services, good).status is Status.SUCCEEDED
    # The reconciler looks at it from time to time, should somebody mend it.
    assert services.runtime.job_store.is_due(bad.task_id)
    assert redis.zcard(redis_keys.COMPLETING) == 0


def test_a_primary_whose_record_cannot_be_read_leaves_its_duplicates_a_run(
    services: Services, runner: Runner, completer: DuplicateCompleter, submit: Submit, redis: Redis
) -> None:
    primary, duplicate = submit(), submit()
    runner.run(primary.task_id)
    redis.hset(redis_keys.job_key(primary.task_id), "options", "{no json")
    completer.run_once()
    runner.run(duplicate.task_id)
    assert job_of(services, duplicate).status is Status.SUCCEEDED


def test_a_result_that_the_store_does_not_give_holds_up_no_other_primary(
    services: Services,
    runner: Runner,
    completer: DuplicateCompleter,
    submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = [[submit(options=Options(quality=each)) for _ in range(2)] for each in (50, 60)]
    for primary, _ in pairs:
        runner.run(primary.task_id)
    (stays, _), (_, goes) = pairs
    copy = ObjectStore.copy

    def refuse(store: ObjectStore, source: str, key: str, **more: object) -> None:
        if stays.task_id in source:
            raise ObjectStoreUnavailableError("Access Denied")
        copy(store, source, key, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectStore, "copy", refuse)
    for _ in range(2):
        with suppress(ObjectStoreUnavailableError):
            completer.run_once()
    assert job_of(services, goes).status is Status.SUCCEEDED
    monkeypatch.undo()
    assert completer.run_once() == 1


def test_the_duplicates_of_a_canceled_primary_follow_whoever_leads_by_then(
    services: Services, completer: DuplicateCompleter, submit: Submit
) -> None:
    primary, duplicate = submit(), submit()
    services.runtime.job_store.cancel(primary.task_id)
    new = submit()  # before anybody saw to the duplicate
    assert new.primary is None
    completer.run_once()
    assert job_of(services, duplicate).primary == new.task_id


def test_a_primary_that_is_canceled_while_it_runs(
    services: Services, runner: Runner, completer: DuplicateCompleter, submit: Submit
) -> None:
    primary, duplicate = submit(), submit()
    services.runtime.job_store.claim(primary.task_id, token=TOKEN, worker="gpu0@t")
    services.runtime.job_store.cancel(primary.task_id)
    completer.run_once()
    runner.run(duplicate.task_id)
    assert job_of(services, duplicate).status is Status.SUCCEEDED


def test_a_pictures_fault_ends_its_duplicates_too(
    services: Services,
    runner: Runner,
    completer: DuplicateCompleter,
    model: FakeModel,
    submit: Submit,
) -> None:
    primary, duplicate = submit(), submit()
    model.error = InvalidImageError("The picture is damaged.")
    runner.run(primary.task_id)
    assert completer.run_once() == 1
    failed = job_of(services, duplicate)
    assert failed.status is Status.FAILED
    assert failed.error == JobError("invalid_image", "The picture is damaged.")
    # What failed is not kept: the next one is tried.
    assert submit().primary is None
    assert model.calls == 1


@pytest.mark.parametrize(("reason", "shared"), [(POISON, True), (LOST, False)])
def test_poison_is_shared_and_bad_luck_is_not(
    services: Services,
    completer: DuplicateCompleter,
    submit: Submit,
    reason: JobError,
    *,
    shared: bool,
) -> None:
    primary, duplicate = submit(), submit()
    services.runtime.job_store.claim(primary.task_id, token=TOKEN, worker="gpu0@t")
    services.runtime.job_store.finish(
        primary.task_id, token=TOKEN, status=Status.FAILED, error=reason
    )
    completer.run_once()
    present = job_of(services, duplicate)
    assert present.status is (Status.FAILED if shared else Status.QUEUED)
    assert present.primary is None


def test_a_primary_becomes_as_urgent_as_its_duplicates(
    services: Services, submit: Submit, redis: Redis
) -> None:
    primary = submit(priority=Priority.LOW)
    submit(priority=Priority.NORMAL)
    assert job_of(services, primary).priority is Priority.NORMAL
    submit(priority=Priority.HIGH)
    submit(priority=Priority.LOW)
    raised = job_of(services, primary)
    assert (raised.priority, raised.redispatches) == (Priority.HIGH, 2)
    assert (
        redis.zscore(redis_keys.dispatched_key(f"{raised.queue}|0"), primary.task_id)
        == raised.dispatch_seq
    )
    assert redis.zscore(redis_keys.dispatched_key(f"{raised.queue}|6"), primary.task_id) is None


def test_the_most_urgent_duplicate_takes_over(
    services: Services, completer: DuplicateCompleter, submit: Submit
) -> None:
    primary, normal, high = submit(), submit(), submit(priority=Priority.HIGH)
    services.runtime.job_store.cancel(primary.task_id)
    completer.run_once()
    assert job_of(services, normal).primary == high.task_id


def test_a_duplicate_that_is_canceled_is_left_alone(
    services: Services, runner: Runner, completer: DuplicateCompleter, submit: Submit
) -> None:
    primary, gone, stays = submit(), submit(), submit()
    assert services.runtime.job_store.cancel(gone.task_id) == "canceled"
    runner.run(primary.task_id)
    assert completer.run_once() == 1
    assert job_of(services, gone).status is Status.CANCELED
    assert list(services.runtime.object_store.list(results_prefix(gone.task_id))) == []
    assert job_of(services, stays).status is Status.SUCCEEDED


def test_a_duplicate_that_is_canceled_while_its_copy_is_made_keeps_no_copy(
    services: Services, runner: Runner, redis: Redis, submit: Submit
) -> None:
    primary, gone = submit(), submit()
    runner.run(primary.task_id)

    class Slow:
        """The store, with a cancel in the middle of a copy."""

        def copy(self, source: str, target: str) -> None:
            services.runtime.object_store.copy(source, target)
            services.runtime.job_store.cancel(gone.task_id)

        def delete(self, key: str) -> None:
            services.runtime.object_store.delete(key)

    parts = (services.runtime.dispatcher, services.runtime.router)
    assert DuplicateCompleter(redis, services.runtime.job_store, Slow(), *parts).run_once() == 0  # type: ignore[arg-type]
    assert list(services.runtime.object_store.list(results_prefix(gone.task_id))) == []


def test_when_the_result_is_erased_before_it_was_copied_a_duplicate_runs(
    services: Services,
    runner: Runner,
    completer: DuplicateCompleter,
    model: FakeModel,
    submit: Submit,
) -> None:
    primary, first, second = submit(), submit(), submit()
    runner.run(primary.task_id)
    services.runtime.object_store.delete(str(job_of(services, primary).result_key))
    assert completer.run_once() == 0
    present = [job_of(services, each) for each in (first, second)]
    (new,) = [each for each in present if each.primary is None]
    runner.run(new.task_id)
    assert completer.run_once() == 1
    assert model.calls == 2


def test_a_store_that_is_away_holds_the_duplicates_up_and_loses_none(
    services: Services, runner: Runner, completer: DuplicateCompleter, redis: Redis, submit: Submit
) -> None:
    primary, duplicate = submit(), submit()
    runner.run(primary.task_id)

    class Away:
        def copy(self, *_: object, **__: object) -> None:
            raise ObjectStoreUnavailableError("away")

    parts = (services.runtime.dispatcher, services.runtime.router)
    with pytest.raises(ObjectStoreUnavailableError):
        DuplicateCompleter(redis, services.runtime.job_store, Away(), *parts).run_once()  # type: ignore[arg-type]
    assert completer.run_once() == 1
    assert job_of(services, duplicate).status is Status.SUCCEEDED
    assert redis.zcard(redis_keys.COMPLETING) == 1
    completer.run_once()
    assert redis.zcard(redis_keys.COMPLETING) == 0


def test_a_duplicate_whose_primary_runs_has_begun_by_its_deadline(
    services: Services, submit: Submit
) -> None:
    primary, duplicate = submit(), submit(expires_in=1)
    clock = replace_clock(services, duplicate.created_at + 2)
    services.runtime.job_store.claim(primary.task_id, token=TOKEN, worker="gpu0@t")
    assert not clock.runtime.job_store.fail_overdue(duplicate.task_id)
    services.runtime.job_store.release(primary.task_id, token=TOKEN)
    assert clock.runtime.job_store.fail_overdue(duplicate.task_id)


def replace_clock(services: Services, now: float) -> Services:
    store = type(services.runtime.job_store)(services.runtime.job_store._client, clock=lambda: now)
    return with_parts(services, job_store=store)
