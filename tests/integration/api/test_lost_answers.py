"""Redis goes away at the very moment at which a job is recorded: is it accepted, or is it not?"""

import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from redis import Redis
from werkzeug.test import TestResponse

from api.circuit_breaker import BreakerRedis, CircuitBreaker
from api.services import Services
from tasks import lua_scripts
from tasks.jobs.batches import BatchStore
from tasks.jobs.job import Status
from tasks.jobs.restore import Restorer
from tasks.jobs.store import JobStore
from tasks.object_store import task_id_of_object
from tasks.redis_client import client_options
from tests.support.api import Api
from tests.support.clock import until
from tests.support.models import FakeModel
from tests.support.redis_proxy import Fault, RedisProxy, redis_proxy
from tests.support.submissions import PICTURE, form, png, refusal, task_id_of
from tests.support.workers import make_runner

BUCKET = "-lost-answers"
#: A field that only `create` and `create_finished` name.
MARKER = b"original_key"


@pytest.fixture(autouse=True)
def _empty(api: Api, redis: Redis) -> None:
    for key in api.bucket():
        api.objects.delete(key)
    # So that no script has to be sent as a text first.
    for command in ("create", "create_finished", "tombstone", "seal_batch"):
        redis.script_load(lua_scripts.JOBS.script(command).text)


@pytest.fixture
def faulty(redis_url: str) -> Iterator[RedisProxy]:
    with redis_proxy(redis_url, MARKER) as proxy:
        yield proxy


@pytest.fixture
def through(api: Api, faulty: RedisProxy) -> Iterator[Api]:
    """The API whose job store is behind the proxy."""
    with BreakerRedis.from_url(faulty.url, **client_options(timeout=0.7)) as redis:
        redis.breaker = CircuitBreaker()
        yield api.with_parts(job_store=JobStore(redis))


def _send(api: Api, key: str | None = "k") -> TestResponse:
    return api.send(key=key, cache="true", background_image=("b.png", png("black")))


def _assert_refused(answer: TestResponse) -> None:
    assert refusal(answer) == (503, "queue_unavailable")
    assert answer.headers["Retry-After"] == "5"


def _run_all(api: Api) -> list[str]:
    """What a worker does, and the ids of those that succeeded."""
    runner = make_runner(api.runtime, FakeModel())
    for task_id in api.queued():
        runner.run(task_id)
    return sorted(api.jobs.ids(Status.SUCCEEDED))


def _messages(redis: Redis) -> int:
    return sum(redis.llen(key) for key in redis.keys("model.*"))


@pytest.fixture(params=[False, True], ids=["new", "known"])
def before(request: pytest.FixtureRequest, api: Api, through: Api) -> list[str]:
    """No job, or one whose result the next equal one gets: its record is final from the first."""
    if not request.param:
        return []
    known = task_id_of(_send(through, key=None))
    assert _run_all(api) == [known]
    return [known]


def test_a_job_whose_record_was_written_is_accepted_though_the_answer_was_lost(
    api: Api, through: Api, faulty: RedisProxy, before: list[str]
) -> None:
    messages = _messages(api.redis)
    faulty.fault = Fault.LOSE_ANSWER
    task_id = task_id_of(_send(through))
    assert faulty.met.is_set()
    assert _messages(api.redis) == messages + (not before)
    assert _run_all(api) == sorted([*before, task_id])
    assert task_id_of(_send(through)) == task_id


def test_a_record_that_comes_after_the_refusal_is_not_written(
    api: Api, through: Api, faulty: RedisProxy, before: list[str]
) -> None:
    bucket = api.bucket()
    faulty.fault = Fault.DELAY
    _assert_refused(_send(through))
    # Nothing is accepted, nothing stays, and the key is free.
    assert api.bucket() == bucket
    faulty.release()
    assert _run_all(api) == before
    assert api.jobs.dead() == []
    task_id = task_id_of(_send(through))
    assert _run_all(api) == sorted([*before, task_id])


def test_where_nothing_can_be_known_a_late_record_finds_its_pictures(
    api: Api, through: Api, faulty: RedisProxy, before: list[str]
) -> None:
    bucket = api.bucket()
    faulty.fault = Fault.STALL
    _assert_refused(_send(through))
    left = api.bucket() - bucket
    assert {key.partition("/")[0] for key in left} >= {"originals", "backgrounds"}
    # While nobody knows, the key stands for neither that task nor another one.
    assert refusal(_send(api)) == (409, "idempotency_in_progress")

    faulty.release()
    (task_id,) = {task_id_of_object(key) for key in left}
    assert _run_all(api) == sorted([*before, task_id])
    # The circuit breaker opens for a moment, as its 503 says.
    until(lambda: _send(through).status_code != 503)
    assert task_id_of(_send(through)) == task_id


def test_a_refused_job_whose_pictures_could_not_be_removed_is_not_restored(
    api: Api, through: Api, faulty: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.submission.discard_object", lambda *_: None)
    faulty.fault = Fault.DELAY
    _assert_refused(_send(through))
    restorer = Restorer(api.jobs, api.objects, api.runtime.dispatcher, api.runtime.router)
    (lost,) = restorer.find().lost
    assert not restorer.restore(lost)
    assert api.queued() == []


def test_a_batch_takes_part_in_none_of_that(api: Api, through: Api, faulty: RedisProxy) -> None:
    faulty.fault = Fault.STALL
    sent = form(("images", ("a.png", PICTURE)), ("images", ("b.png", PICTURE)))
    _assert_refused(through.post("/api/v1/remove-bg/batch", **sent))
    faulty.release()
    # A task of its own, which no batch waits for.
    (task_id,) = _run_all(api)
    assert api.job(task_id).original_key in api.bucket()


def test_a_batch_whose_answer_was_lost_is_found_by_its_key(api: Api, faulty: RedisProxy) -> None:
    faulty.marker, faulty.fault = b"seal_batch", Fault.LOSE_ANSWER
    path, key = "/api/v1/remove-bg/batch", {"Idempotency-Key": "k"}
    with Redis.from_url(faulty.url, **client_options()) as redis:
        cut_off = api.with_parts(batches=BatchStore(redis))
        _assert_refused(cut_off.post(path, headers=key, **form(("images", ("a.png", PICTURE)))))
    assert faulty.met.is_set()
    found = api.post(path, headers=key, **form(("images", ("a.png", PICTURE))))
    assert found.headers["Idempotency-Replayed"] == "true"
    assert [each["task_id"] for each in found.get_json()["data"]["items"]] == api.queued()


def test_a_message_that_is_not_taken_holds_nobody_for_long(api: Api, faulty: RedisProxy) -> None:
    """The record stands by then: the job is accepted, and the reconciler will send it."""
    settings = api.services.settings.model_copy(update={"redis_url": SecretStr(faulty.url)})
    dispatcher = Services.from_settings(settings).runtime.dispatcher
    faulty.marker, faulty.fault = b"LPUSH", Fault.STALL
    began = time.monotonic()
    answer = _send(api.with_parts(dispatcher=dispatcher))
    assert time.monotonic() - began < 8
    assert faulty.met.is_set()
    assert api.queued() == [task_id_of(answer)]
