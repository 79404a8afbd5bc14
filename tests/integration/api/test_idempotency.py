"""Idempotency-Key: one task however often it is sent."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from api.app import create_app
from api.idempotency import IDEMPOTENCY_SECONDS, IdempotencyGuard, Reservation, parse_key
from api.services import Services
from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.job import Job, Status, new_task_id
from tasks.object_store import original_key
from tests.support.services import with_parts
from tests.support.submissions import (
    PICTURE,
    refusal,
    refused_fields,
    send_picture,
    task_id_of,
)


def _send(client: FlaskClient, **more: Any) -> TestResponse:  # noqa: ANN401 - as those of a form
    return send_picture(client, key="order-17", **more)


def test_the_same_request_again_is_the_same_task(client: FlaskClient, services: Services) -> None:
    first, again = _send(client), _send(client)
    task_id = task_id_of(first)
    assert task_id == task_id_of(again) == task_id_of(send_picture(client, key='"order-17"'))
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert services.runtime.job_store.ids(Status.QUEUED) == [task_id]
    assert task_id_of(send_picture(client, key="order-18")) != task_id
    assert task_id_of(send_picture(client)) != task_id
    # The key of an erased task is used up.
    assert client.delete(f"/api/v1/tasks/{task_id}").status_code == 200
    assert refusal(_send(client)) == (410, "gone")


def test_twenty_threads_with_one_key_make_one_task(services: Services) -> None:
    together = threading.Barrier(20)
    stored = []

    class Store:
        def put(self, key: str, *parts: Any, **more: Any) -> None:  # noqa: ANN401 - any store's
            stored.append(key)
            services.runtime.object_store.put(key, *parts, **more)

    app = create_app(with_parts(services, object_store=Store()))

    def send(_: int) -> str:
        client = app.test_client()
        together.wait()
        while (answer := _send(client)).status_code == 409:
            assert refusal(answer) == (409, "idempotency_in_progress")
            assert answer.headers["Retry-After"] == "1"
        return task_id_of(answer)

    with ThreadPoolExecutor(20) as pool:
        (made,) = set(pool.map(send, range(20)))
    assert services.runtime.job_store.ids(Status.QUEUED) == [made]
    assert stored == [original_key(made)]


@pytest.mark.parametrize("other", [{"quality": "50"}, {"image": PICTURE + b"\0"}])
def test_another_payload_under_the_same_key_is_refused(
    client: FlaskClient, other: dict[str, Any]
) -> None:
    _send(client)
    assert refusal(_send(client, **other)) == (422, "idempotency_mismatch")


def test_what_was_not_accepted_leaves_its_key_free(client: FlaskClient, services: Services) -> None:
    class Away:
        def put(self, *_: object, **__: object) -> None:
            raise ObjectStoreUnavailableError("away")

    assert _send(client, image=b"no picture").status_code == 422
    away = create_app(with_parts(services, object_store=Away())).test_client()
    assert _send(away).status_code == 503
    assert _send(client).status_code == 202


def test_a_request_that_is_just_being_accepted(app: Flask, services: Services) -> None:
    answers = []

    class Slow:
        """The store, with the same request coming in while the picture is put."""

        def put(self, *parts: Any, **more: Any) -> None:  # noqa: ANN401 - any store's
            with ThreadPoolExecutor(1) as pool:
                answers.append(pool.submit(_send, app.test_client()).result())
            services.runtime.object_store.put(*parts, **more)

    first = create_app(with_parts(services, object_store=Slow())).test_client()
    assert _send(first).status_code == 202
    assert [refusal(answer) for answer in answers] == [(409, "idempotency_in_progress")]


def test_a_process_that_dies_having_recorded_the_task_makes_no_second_one(
    client: FlaskClient, services: Services
) -> None:
    class Dying:
        def send(self, _job: Job) -> None:
            raise RuntimeError("this stands for a kill")

    dying = create_app(with_parts(services, dispatcher=Dying())).test_client()
    with capture_logs():  # a traceback is long in the making
        assert _send(dying).status_code == 500
    (first,) = services.runtime.job_store.ids(Status.QUEUED)
    assert task_id_of(_send(client)) == first


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
    _send(client)
    left = redis.ttl(redis_keys.idempotency_key("", "order-17"))
    assert IDEMPOTENCY_SECONDS - 60 < left <= IDEMPOTENCY_SECONDS


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
    answer = send_picture(client, key=header)
    assert refused_fields(answer) == (422, "invalid_parameter", {"Idempotency-Key"})
