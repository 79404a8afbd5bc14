"""Idempotency-Key: one task however often it is sent; `Prefer: wait`: the result in the answer."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from api.idempotency import IDEMPOTENCY_SECONDS, IdempotencyGuard, Reservation, parse_key
from api.services import Services
from api.settings import ApiSettings
from api.waiting import TaskWaiter
from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.job import Job, Status, new_task_id
from tasks.object_store import ORIGINALS, task_id_of_object
from tasks.redis_client import connect
from tests.support.paths import DATA
from tests.support.runtime_parts import with_parts

PATH = "/api/v1/remove-bg"


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url.removesuffix("/0") + "/8") as client:
        client.flushdb()
        yield client


@pytest.fixture
def services(
    server_settings: dict[str, object],
    objects: object,  # noqa: ARG001 - makes the bucket
    redis: Redis,  # noqa: ARG001 - empties the database
) -> Services:
    own = str(server_settings["redis_url"]).removesuffix("/0") + "/8"
    return Services.from_settings(ApiSettings.load(**{**server_settings, "redis_url": own}))


@pytest.fixture
def app(services: Services) -> Flask:
    return create_app(services)


@pytest.fixture
def client(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client


PHOTO = (DATA / "coffee.jpg").read_bytes()


def _send(
    client: FlaskClient,
    key: str | None,
    headers: dict[str, str] | None = None,
    **form: Any,  # noqa: ANN401 - bytes for the image, text for the others
) -> TestResponse:
    sent = {**(headers or {}), **({"Idempotency-Key": key} if key is not None else {})}
    image = (io.BytesIO(form.pop("image", PHOTO)), "a.jpg")
    return client.post(PATH, data={"cache": "false", **form, "image": image}, headers=sent)


def _id(answer: TestResponse) -> str:
    assert answer.status_code in {200, 202}, answer.get_json()
    return str(answer.get_json()["data"]["task_id"])


def _refusal(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["error"]["type"]


def test_the_same_request_again_is_the_same_task(client: FlaskClient, services: Services) -> None:
    first, again, quoted = (_send(client, key) for key in ("order-17", "order-17", '"order-17"'))
    assert _id(first) == _id(again) == _id(quoted)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert services.runtime.job_store.ids(Status.QUEUED) == [_id(first)]
    assert _id(_send(client, "order-18")) != _id(first)
    assert _id(_send(client, None)) != _id(first)


def test_twenty_threads_with_one_key_make_one_task(app: Flask, services: Services) -> None:
    together = threading.Barrier(20)

    def send(_: int) -> str:
        with app.test_client() as client:
            together.wait()
            while True:
                answer = _send(client, "order-17")
                if answer.status_code != 409:
                    return _id(answer)
                assert answer.get_json()["error"]["type"] == "idempotency_in_progress"
                assert answer.headers["Retry-After"] == "1"

    with ThreadPoolExecutor(20) as pool:
        made = set(pool.map(send, range(20)))
    assert len(made) == 1
    assert services.runtime.job_store.ids(Status.QUEUED) == list(made)
    stored = [
        key
        for key in services.runtime.object_store.list(ORIGINALS)
        if task_id_of_object(key) in made
    ]
    assert len(stored) == 1


@pytest.mark.parametrize("other", [{"quality": "50"}, {"image": PHOTO + b"\0"}])
def test_another_payload_under_the_same_key_is_refused(
    client: FlaskClient, other: dict[str, Any]
) -> None:
    _send(client, "order-17")
    assert _refusal(_send(client, "order-17", **other)) == (422, "idempotency_mismatch")


def test_what_was_refused_leaves_its_key_free(client: FlaskClient) -> None:
    assert _send(client, "order-17", image=b"no picture").status_code == 422
    assert _send(client, "order-17").status_code == 202


def test_what_was_not_accepted_leaves_its_key_free(services: Services) -> None:
    class Away:
        def put(self, *_: object, **__: object) -> None:
            raise ObjectStoreUnavailableError("away")

    with create_app(with_parts(services, object_store=Away())).test_client() as client:
        assert _send(client, "order-17").status_code == 503
    with create_app(services).test_client() as client:
        assert _send(client, "order-17").status_code == 202


def test_a_request_that_is_just_being_accepted(app: Flask, services: Services) -> None:
    class Slow:
        """The store, with the same request coming in while the picture is put."""

        answer: TestResponse | None = None

        def put(self, *parts: Any, **more: Any) -> None:  # noqa: ANN401 - any store's
            with ThreadPoolExecutor(1) as pool:
                self.answer = pool.submit(_send, app.test_client(), "order-17").result()
            services.runtime.object_store.put(*parts, **more)

    slow = Slow()
    with create_app(with_parts(services, object_store=slow)).test_client() as first:
        assert _send(first, "order-17").status_code == 202
    assert slow.answer is not None
    assert _refusal(slow.answer) == (409, "idempotency_in_progress")


def test_a_process_that_dies_having_recorded_the_task_makes_no_second_one(
    services: Services,
) -> None:
    class Dying:
        def send(self, _job: Job) -> None:
            raise RuntimeError("this stands for a kill")

    with create_app(with_parts(services, dispatcher=Dying())).test_client() as client:
        assert _send(client, "order-17").status_code == 500
    (first,) = services.runtime.job_store.ids(Status.QUEUED)
    with create_app(services).test_client() as client:
        assert _id(_send(client, "order-17")) == first


def test_the_key_of_an_erased_task_is_used_up(client: FlaskClient) -> None:
    task_id = _id(_send(client, "order-17"))
    assert client.delete(f"/api/v1/tasks/{task_id}").status_code == 200
    assert _refusal(_send(client, "order-17")) == (410, "gone")


def test_keys_are_their_owners_own(services: Services) -> None:
    made = []

    def make(task_id: str, _: Reservation | None) -> str:
        made.append(task_id)
        return task_id

    def find(task_id: str) -> str:
        raise AssertionError(task_id)

    for owner in ("", "own-alice", "own-bob"):
        services.idempotency.accept(owner, "k", {}, new_id=new_task_id, make=make, find=find)
    assert len(set(made)) == 3


def test_a_key_is_kept_for_a_day(client: FlaskClient, redis: Redis) -> None:
    _send(client, "order-17")
    assert (
        IDEMPOTENCY_SECONDS - 60
        < redis.ttl(redis_keys.idempotency_key("", "order-17"))
        <= IDEMPOTENCY_SECONDS
    )


def test_a_reservation_that_ran_out_is_not_written_over(services: Services, redis: Redis) -> None:
    known = IdempotencyGuard(redis)
    place = redis_keys.idempotency_key("", "k")
    mine, other = (Reservation(place, "p", each) for each in ("rm-1", "rm-2"))
    assert known.reserve(mine) is None
    redis.delete(place)
    assert known.reserve(other) is None
    known.keep(mine)
    known.free(mine)
    assert known.reserve(mine) == other
    assert services.runtime.job_store.get("rm-1") is None


@pytest.mark.parametrize(
    ("header", "key"),
    [("a", "a"), (' "a" ', "a"), ('"a\\"b\\\\c"', 'a"b\\c'), ("a-b_c:1/2", "a-b_c:1/2")],
)
def test_keys_bare_and_quoted(header: str, key: str) -> None:
    assert parse_key(header) == key


@pytest.mark.parametrize("header", ["", " ", '""', "a b", '"a', 'a"', "ä", "x" * 256, '"a" "b"'])
def test_a_malformed_key_is_refused(client: FlaskClient, header: str) -> None:
    answer = _send(client, header)
    assert _refusal(answer) == (422, "invalid_parameter")
    assert set(answer.get_json()["error"]["fields"]) == {"Idempotency-Key"}


def _finish_when_queued(services: Services, over: threading.Event) -> None:
    while not over.wait(0.02):
        for task_id in services.runtime.job_store.ids(Status.QUEUED):
            services.runtime.job_store.claim(task_id, token="t", worker="w")
            services.runtime.job_store.finish(task_id, token="t", status=Status.SUCCEEDED)


def test_a_client_that_would_wait_gets_the_finished_task(
    client: FlaskClient, services: Services
) -> None:
    over = threading.Event()
    worker = threading.Thread(target=_finish_when_queued, args=(services, over))
    worker.start()
    try:
        answer = _send(client, None, {"Prefer": "respond-async, wait=30"})
    finally:
        over.set()
        worker.join()
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=30"
    data = answer.get_json()["data"]
    assert (data["status"], data["attempts"]) == ("succeeded", 1)
    assert answer.headers["Location"].endswith(data["task_id"])


def test_all_that_wait_share_one_subscription(client: FlaskClient, services: Services) -> None:
    store = services.runtime.job_store
    ids = [_id(_send(client, None)) for _ in range(20)]
    queued = list(filter(None, map(store.get, ids)))
    with ThreadPoolExecutor(len(ids)) as pool:
        before = _subscriptions(services)
        waiting = [pool.submit(services.waiter.wait, each, 30) for each in queued]
        _until(lambda: len(services.runtime.watcher._waiting) == len(ids))
        _until(lambda: _subscriptions(services) > before)
        listeners = _subscriptions(services) - before
        began = time.monotonic()
        for task_id in ids:
            store.claim(task_id, token="t", worker="w")
            store.finish(task_id, token="t", status=Status.SUCCEEDED)
        jobs = [each.result()[0] for each in waiting]
    assert all(job is not None and job.status.final for job in jobs)
    assert time.monotonic() - began < 10
    assert listeners == 1


def _subscriptions(services: Services) -> int:
    """Return how many clients subscribe that use this test's database, not another's."""
    redis = services.runtime.redis
    database = str(redis.connection_pool.connection_kwargs["db"])
    return sum(each["db"] == database for each in redis.client_list(_type="pubsub"))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_when_the_time_is_up_the_task_is_accepted_all_the_same(client: FlaskClient) -> None:
    answer = _send(client, None, {"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait=0", "wait=-1", "wait=soon", "wait", "return=minimal", ""])
def test_a_preference_that_cannot_be_read_is_ignored(client: FlaskClient, prefer: str) -> None:
    answer = _send(client, None, {"Prefer": prefer})
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def test_where_too_many_wait_nobody_waits(services: Services) -> None:
    full = replace(services, waiter=TaskWaiter(services.runtime, threading.Semaphore(0)))
    with create_app(full).test_client() as client:
        answer = _send(client, None, {"Prefer": "wait=60"})
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers
