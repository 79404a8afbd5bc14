"""Equal pictures: results that are reused, and duplicates that wait for their primary."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from redis import Redis

from api.app import create_app
from api.inputs import InputFile, Submission
from api.services import Services
from api.settings import ApiSettings
from inference.errors import InvalidImageError
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.options import Options
from tasks import redis_keys
from tasks.api_keys import Owner
from tasks.errors import ObjectNotFoundError, ObjectStoreUnavailableError
from tasks.jobs.cache import JITTER_SECONDS, REDIS_SECONDS, cache_key, cache_ttl
from tasks.jobs.dedup import DuplicateCompleter
from tasks.jobs.job import LOST, POISON, Job, JobError, Priority, Status, new_task_id
from tasks.object_store import ObjectStore, background_key, results_prefix
from tasks.redis_client import connect
from tasks.worker.runner import Runner
from tests.support.runtime_parts import with_parts

TOKEN = "gpu0@t/1/run"


class Model:
    """Finds a subject everywhere; says how often it was asked."""

    name = "u2netp"

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def warm_up(self) -> None:
        pass

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"), stages("inference"):
            self.calls += 1
            if self.error is not None:
                raise self.error
            return [np.ones(image.shape[:2], np.float32) for image in images]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url.removesuffix("/0") + "/6") as client:
        client.flushdb()
        yield client


@pytest.fixture
def services(
    server_settings: dict[str, object],
    objects: object,  # noqa: ARG001 - makes the bucket
    redis: Redis,  # noqa: ARG001 - empties the database
) -> Services:
    own = str(server_settings["redis_url"]).removesuffix("/0") + "/6"
    return Services.from_settings(ApiSettings.load(**{**server_settings, "redis_url": own}))


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def runner(services: Services, model: Model) -> Runner:
    return Runner(
        job_store=services.runtime.job_store,
        object_store=services.runtime.object_store,
        registry=services.runtime.registry,
        model=model,
        model_lock=threading.Lock(),
        limits=services.settings.image_limits,
        worker="gpu0@t",
        exit_child=lambda: None,
    )


@pytest.fixture
def completer(redis: Redis, services: Services) -> DuplicateCompleter:
    return DuplicateCompleter(
        redis,
        services.runtime.job_store,
        services.runtime.object_store,
        services.runtime.dispatcher,
        services.runtime.router,
    )


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "orange").save(file, "PNG")
    return file.getvalue()


Submit = Callable[..., Job]


@pytest.fixture
def submit(services: Services, picture: bytes) -> Submit:
    def send(**parts: object) -> Job:
        upload = InputFile(io.BytesIO(picture), len(picture), "a.png")
        made = Submission(image=upload, **parts)  # type: ignore[arg-type]
        return services.submissions.submit(made, "test").job

    return send


def _job(services: Services, job: Job | str) -> Job:
    found = services.runtime.job_store.get(job if isinstance(job, str) else job.task_id)
    assert found is not None
    return found


def _waiting(redis: Redis) -> int:
    """Messages in all lists."""
    lists = [key for key in redis.keys("model.*") if redis.type(key) == "list"]
    return sum(redis.llen(key) for key in lists)


def test_50_equal_pictures_at_once_run_the_model_once(
    services: Services, runner: Runner, completer: DuplicateCompleter, model: Model, submit: Submit
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


def test_a_known_result_comes_at_once_with_objects_of_its_own(
    client: FlaskClient, services: Services, runner: Runner, submit: Submit, picture: bytes
) -> None:
    first = submit()
    runner.run(first.task_id)
    answer = client.post("/api/v1/remove-bg", data={"image": (io.BytesIO(picture), "mine.png")})
    assert answer.status_code == 200
    data = answer.get_json()["data"]
    assert (data["status"], data["cached"], data["width"]) == ("succeeded", True, 60)
    assert data["task_id"] != first.task_id
    mine = _job(services, data["task_id"])
    assert services.runtime.object_store.get(mine.original_key) == picture
    assert Image.open(io.BytesIO(services.runtime.object_store.get(str(mine.result_key)))).size == (
        60,
        40,
    )
    assert mine.file_stem == "mine"
    # Should Redis be lost, the copy tells whose it is.
    assert mine.task_id in services.runtime.object_store.metadata(mine.original_key)["rmbg-job"]


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
    left = _job(services, stays)
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
    assert _job(services, duplicate).status is Status.SUCCEEDED


def test_another_process_of_the_api_finds_it_in_redis(
    services: Services, runner: Runner, submit: Submit
) -> None:
    runner.run(submit().task_id)
    assert submit().cached
    other = Services.from_settings(services.settings)
    assert services.runtime.result_cache.find(str(_primary_key(services))) is not None
    assert other.runtime.result_cache.find(str(_primary_key(services))) is not None


def _primary_key(services: Services) -> str | None:
    done = services.runtime.job_store.get_many(services.runtime.job_store.ids(Status.SUCCEEDED))
    return next(job.cache_key for job in done if job.cache_key)


def test_a_result_that_cannot_be_copied_is_a_miss(
    services: Services, runner: Runner, submit: Submit, redis: Redis
) -> None:
    first = submit()
    runner.run(first.task_id)
    assert submit().cached  # now in memory too
    services.runtime.object_store.delete(str(_job(services, first).result_key))
    again = submit()
    assert (again.status, again.cached) == (Status.QUEUED, False)
    assert redis.get(f"rmbg:cached:{first.cache_key}") is None
    runner.run(again.task_id)
    assert submit().cached


def test_whoever_refuses_the_cache_neither_reads_nor_writes_nor_joins(
    services: Services, runner: Runner, model: Model, submit: Submit
) -> None:
    apart, other = submit(cache=False), submit(cache=False)
    assert (apart.primary, other.primary) == (None, None)
    runner.run(apart.task_id)
    plain = submit()
    assert (plain.cached, plain.primary) == (False, None)
    runner.run(plain.task_id)
    assert not submit(cache=False).cached
    runner.run(other.task_id)
    assert model.calls == 3
    assert _job(services, other).status is Status.SUCCEEDED


def test_nobody_profits_from_what_another_uploaded(runner: Runner, submit: Submit) -> None:
    alice, bob = Owner("a", "alice"), Owner("b", "bob")
    first = submit(owner=alice)
    assert submit(owner=alice).primary == first.task_id
    assert submit(owner=bob).primary is None
    runner.run(first.task_id)
    assert submit(owner=alice).cached
    assert not submit(owner=bob).cached


def test_other_options_are_another_result(runner: Runner, submit: Submit) -> None:
    first = submit()
    assert submit(options=Options(quality=50)).primary is None
    runner.run(first.task_id)
    assert not submit(options=Options(refine=False)).cached


def test_what_was_made_together_does_not_end_together() -> None:
    drawn = [cache_ttl(24 * 3600) for _ in range(500)]
    assert min(drawn) >= REDIS_SECONDS - JITTER_SECONDS
    assert max(drawn) <= REDIS_SECONDS + JITTER_SECONDS
    assert max(drawn) - min(drawn) > JITTER_SECONDS
    assert cache_ttl(60) == 60


def test_the_key_tells_apart_whatever_changes_the_result() -> None:
    base = {"owner": "a", "sha256": "f", "options": {"x": 1}, "model": "m", "revision": "r"}
    changes = [
        {},
        {"owner": "b"},
        {"sha256": "g"},
        {"options": {"x": 2}},
        {"model": "n"},
        {"revision": "s"},
    ]
    made = [cache_key(**{**base, **change}) for change in changes]  # type: ignore[arg-type]
    assert len(set(made)) == len(made)
    assert cache_key(**base) == made[0]  # type: ignore[arg-type]


def test_redis_keeps_a_result_for_the_time_that_was_drawn(
    runner: Runner, submit: Submit, redis: Redis
) -> None:
    job = submit()
    runner.run(job.task_id)
    assert job.cache_seconds is not None
    assert job.cache_seconds - 5 <= redis.ttl(f"rmbg:cached:{job.cache_key}")
    assert redis.ttl(f"rmbg:cached:{job.cache_key}") <= job.cache_seconds


def test_a_duplicate_has_no_message_and_takes_no_worker(submit: Submit, redis: Redis) -> None:
    submit()
    before = _waiting(redis)
    assert submit().primary is not None
    assert _waiting(redis) == before


def test_when_the_primary_is_canceled_a_duplicate_runs_and_the_others_follow_it(
    services: Services, runner: Runner, completer: DuplicateCompleter, model: Model, submit: Submit
) -> None:
    primary, *duplicates = [submit() for _ in range(4)]
    services.runtime.job_store.cancel(primary.task_id)
    completer.run_once()
    present = [_job(services, each) for each in duplicates]
    (new,) = [each for each in present if each.primary is None]
    assert {each.primary for each in present} == {None, new.task_id}
    assert submit().primary == new.task_id
    # It has a message of its own now.
    assert new.redispatches == 1
    runner.run(new.task_id)
    assert completer.run_once() == 3
    assert {_job(services, each).status for each in duplicates} == {Status.SUCCEEDED}
    assert _job(services, primary).status is Status.CANCELED
    assert model.calls == 1


def test_a_duplicate_whose_record_cannot_be_read_holds_up_no_other(
    services: Services, runner: Runner, completer: DuplicateCompleter, submit: Submit, redis: Redis
) -> None:
    primary, bad, good = submit(), submit(), submit()
    redis.hset(redis_keys.job_key(bad.task_id), "options", "{no json")
    runner.run(primary.task_id)
    assert completer.run_once() == 1
    assert completer.run_once() == 0
    assert _job(services, good).status is Status.SUCCEEDED
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
    assert _job(services, duplicate).status is Status.SUCCEEDED


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
    assert _job(services, goes).status is Status.SUCCEEDED
    monkeypatch.undo()
    assert completer.run_once() == 1


def test_a_known_result_whose_record_cannot_be_read_is_a_miss(
    runner: Runner, submit: Submit, redis: Redis
) -> None:
    first = submit()
    runner.run(first.task_id)
    redis.hset(redis_keys.job_key(first.task_id), "options", "{no json")
    again = submit()
    assert (again.status, again.cached) == (Status.QUEUED, False)
    runner.run(again.task_id)
    assert submit().cached


def test_the_duplicates_of_a_canceled_primary_follow_whoever_leads_by_then(
    services: Services, completer: DuplicateCompleter, submit: Submit
) -> None:
    primary, duplicate = submit(), submit()
    services.runtime.job_store.cancel(primary.task_id)
    new = submit()  # before anybody saw to the duplicate
    assert new.primary is None
    completer.run_once()
    assert _job(services, duplicate).primary == new.task_id


def test_a_primary_that_is_canceled_while_it_runs(
    services: Services, runner: Runner, completer: DuplicateCompleter, submit: Submit
) -> None:
    primary, duplicate = submit(), submit()
    services.runtime.job_store.claim(primary.task_id, token=TOKEN, worker="gpu0@t")
    services.runtime.job_store.cancel(primary.task_id)
    completer.run_once()
    runner.run(duplicate.task_id)
    assert _job(services, duplicate).status is Status.SUCCEEDED


def test_a_pictures_fault_ends_its_duplicates_too(
    services: Services, runner: Runner, completer: DuplicateCompleter, model: Model, submit: Submit
) -> None:
    primary, duplicate = submit(), submit()
    model.error = InvalidImageError("The picture is damaged.")
    runner.run(primary.task_id)
    assert completer.run_once() == 1
    failed = _job(services, duplicate)
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
    present = _job(services, duplicate)
    assert present.status is (Status.FAILED if shared else Status.QUEUED)
    assert present.primary is None


def test_a_primary_becomes_as_urgent_as_its_duplicates(
    services: Services, submit: Submit, redis: Redis
) -> None:
    primary = submit(priority=Priority.LOW)
    submit(priority=Priority.NORMAL)
    assert _job(services, primary).priority is Priority.NORMAL
    submit(priority=Priority.HIGH)
    submit(priority=Priority.LOW)
    raised = _job(services, primary)
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
    assert _job(services, normal).primary == high.task_id


def test_a_duplicate_that_is_canceled_is_left_alone(
    services: Services, runner: Runner, completer: DuplicateCompleter, submit: Submit
) -> None:
    primary, gone, stays = submit(), submit(), submit()
    assert services.runtime.job_store.cancel(gone.task_id) == "canceled"
    runner.run(primary.task_id)
    assert completer.run_once() == 1
    assert _job(services, gone).status is Status.CANCELED
    assert list(services.runtime.object_store.list(results_prefix(gone.task_id))) == []
    assert _job(services, stays).status is Status.SUCCEEDED


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
    services: Services, runner: Runner, completer: DuplicateCompleter, model: Model, submit: Submit
) -> None:
    primary, first, second = submit(), submit(), submit()
    runner.run(primary.task_id)
    services.runtime.object_store.delete(str(_job(services, primary).result_key))
    assert completer.run_once() == 0
    present = [_job(services, each) for each in (first, second)]
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
    assert _job(services, duplicate).status is Status.SUCCEEDED
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


def test_a_hit_behind_a_background_of_its_own(
    services: Services, runner: Runner, submit: Submit, coffee: Path, picture: bytes
) -> None:
    digest = "0" * 64
    options = Options(background_sha256=digest)

    def behind() -> InputFile:
        return InputFile(io.BytesIO(coffee.read_bytes()), coffee.stat().st_size, "b.jpg")

    first = submit(background=behind(), options=options)
    runner.run(first.task_id)
    hit = submit(background=behind(), options=options)
    assert hit.cached
    assert services.runtime.object_store.get(str(hit.background_key)) == coffee.read_bytes()
    with pytest.raises(ObjectNotFoundError):
        services.runtime.object_store.get(background_key(new_task_id()))
    assert services.runtime.object_store.get(hit.original_key) == picture
