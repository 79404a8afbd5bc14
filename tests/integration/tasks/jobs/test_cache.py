"""The result cache: whom it serves, with what, and for how long."""

import io
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from PIL import Image
from redis import Redis

from api.inputs import InputFile
from api.services import Services
from inference.options import Options
from tasks import redis_keys
from tasks.api_keys import Owner
from tasks.errors import ObjectNotFoundError
from tasks.jobs.cache import JITTER_SECONDS, REDIS_SECONDS, cache_key, cache_ttl
from tasks.jobs.job import Status, new_task_id
from tasks.object_store import background_key
from tasks.worker.runner import Runner
from tests.support.equal_jobs import Submit, job_of
from tests.support.models import FakeModel


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
    mine = job_of(services, data["task_id"])
    assert services.runtime.object_store.get(mine.original_key) == picture
    assert Image.open(io.BytesIO(services.runtime.object_store.get(str(mine.result_key)))).size == (
        60,
        40,
    )
    assert mine.file_stem == "mine"
    # Should Redis be lost, the copy tells whose it is.
    assert mine.task_id in services.runtime.object_store.metadata(mine.original_key)["rmbg-job"]


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
    services.runtime.object_store.delete(str(job_of(services, first).result_key))
    again = submit()
    assert (again.status, again.cached) == (Status.QUEUED, False)
    assert redis.get(f"rmbg:cached:{first.cache_key}") is None
    runner.run(again.task_id)
    assert submit().cached


def test_whoever_refuses_the_cache_neither_reads_nor_writes_nor_joins(
    services: Services, runner: Runner, model: FakeModel, submit: Submit
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
    assert job_of(services, other).status is Status.SUCCEEDED


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
