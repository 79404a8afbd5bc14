"""Idempotency-Key: one task however often it is sent."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from api.idempotency import IDEMPOTENCY_SECONDS, IdempotencyGuard, Reservation, parse_key
from api.services import Services
from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.job import Job, Status, new_task_id
from tasks.object_store import ORIGINALS, task_id_of_object
from tests.support.services import with_parts
from tests.support.submissions import PHOTO, send_photo, task_id_of


def _refusal(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["error"]["type"]


def test_the_same_request_again_is_the_same_task(client: FlaskClient, services: Services) -> None:
    first, again, quoted = (
        send_photo(client, key) for key in ("order-17", "order-17", '"order-17"')
    )
    assert task_id_of(first) == task_id_of(again) == task_id_of(quoted)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert services.runtime.job_store.ids(Status.QUEUED) == [task_id_of(first)]
    assert task_id_of(send_photo(client, "order-18")) != task_id_of(first)
    assert task_id_of(send_photo(client, None)) != task_id_of(first)


def test_twenty_threads_with_one_key_make_one_task(app: Flask, services: Services) -> None:
    together = threading.Barrier(20)

    def send(_: int) -> str:
        with app.test_client() as client:
            together.wait()
            while True:
                answer = send_photo(client, "order-17")
                if answer.status_code != 409:
                    return task_id_of(answer)
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
    send_photo(client, "order-17")
    assert _refusal(send_photo(client, "order-17", **other)) == (422, "idempotency_mismatch")


def test_what_was_refused_leaves_its_key_free(client: FlaskClient) -> None:
    assert send_photo(client, "order-17", image=b"no picture").status_code == 422
    assert send_photo(client, "order-17").status_code == 202


def test_what_was_not_accepted_leaves_its_key_free(services: Services) -> None:
    class Away:
        def put(self, *_: object, **__: object) -> None:
            raise ObjectStoreUnavailableError("away")

    with create_app(with_parts(services, object_store=Away())).test_client() as client:
        assert send_photo(client, "order-17").status_code == 503
    with create_app(services).test_client() as client:
        assert send_photo(client, "order-17").status_code == 202


def test_a_request_that_is_just_being_accepted(app: Flask, services: Services) -> None:
    class Slow:
        """The store, with the same request coming in while the picture is put."""

        answer: TestResponse | None = None

        def put(self, *parts: Any, **more: Any) -> None:  # noqa: ANN401 - any store's
            with ThreadPoolExecutor(1) as pool:
                self.answer = pool.submit(send_photo, app.test_client(), "order-17").result()
            services.runtime.object_store.put(*parts, **more)

    slow = Slow()
    with create_app(with_parts(services, object_store=slow)).test_client() as first:
        assert send_photo(first, "order-17").status_code == 202
    assert slow.answer is not None
    assert _refusal(slow.answer) == (409, "idempotency_in_progress")


def test_a_process_that_dies_having_recorded_the_task_makes_no_second_one(
    services: Services,
) -> None:
    class Dying:
        def send(self, _job: Job) -> None:
            raise RuntimeError("this stands for a kill")

    with create_app(with_parts(services, dispatcher=Dying())).test_client() as client:
        assert send_photo(client, "order-17").status_code == 500
    (first,) = services.runtime.job_store.ids(Status.QUEUED)
    with create_app(services).test_client() as client:
        assert task_id_of(send_photo(client, "order-17")) == first


def test_the_key_of_an_erased_task_is_used_up(client: FlaskClient) -> None:
    task_id = task_id_of(send_photo(client, "order-17"))
    assert client.delete(f"/api/v1/tasks/{task_id}").status_code == 200
    assert _refusal(send_photo(client, "order-17")) == (410, "gone")


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
    send_photo(client, "order-17")
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
    answer = send_photo(client, header)
    assert _refusal(answer) == (422, "invalid_parameter")
    assert set(answer.get_json()["error"]["fields"]) == {"Idempotency-Key"}
