"""Idempotency-Key: one task however often it is sent."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from api import idempotency
from api.idempotency import (
    RESERVED_SECONDS,
    IdempotencyGuard,
    Reservation,
    ReservationKeeper,
    parse_key,
)
from tasks import redis_keys
from tasks.errors import ObjectStoreUnavailableError, QueueUnavailableError, UncertainWriteError
from tasks.jobs.job import Job
from tasks.object_store import manifest_key, original_key
from tests.support.api import Api
from tests.support.jobs import make_job
from tests.support.stores import WatchedStore
from tests.support.submissions import PICTURE, refusal, refused_fields, task_id_of


def _send(api: Api, **more: Any) -> TestResponse:  # noqa: ANN401 - as those of a form
    return api.send(key="order-17", **more)


def test_the_same_request_again_within_a_day_is_the_same_task(api: Api) -> None:
    first, again = _send(api), _send(api)
    task_id = task_id_of(first)
    assert task_id == task_id_of(again) == task_id_of(api.send(key='"order-17"'))
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert api.queued() == [task_id]
    kept = api.redis.ttl(redis_keys.idempotency_key("", "order-17"))
    assert 24 * 3600 - 60 < kept <= 24 * 3600
    assert task_id_of(api.send(key="order-18")) != task_id
    assert task_id_of(api.send()) != task_id
    # The key of an erased task is used up.
    assert api.delete(f"/api/v1/tasks/{task_id}").status_code == 200
    assert refusal(_send(api)) == (410, "gone")


def test_twenty_threads_with_one_key_make_one_task(api: Api) -> None:
    together = threading.Barrier(20)
    store = WatchedStore(api.objects)
    application = api.with_parts(object_store=store).application

    def send(_: int) -> str:
        client = application.test_client()
        together.wait()
        while (answer := _send(client)).status_code == 409:
            assert refusal(answer) == (409, "idempotency_in_progress")
            assert answer.headers["Retry-After"] == "1"
        return task_id_of(answer)

    with ThreadPoolExecutor(20) as pool:
        (made,) = set(pool.map(send, range(20)))
    assert api.queued() == [made]
    assert store.named("put") == [original_key(made), manifest_key(made)]


@pytest.mark.parametrize("other", [{"quality": "50"}, {"image": PICTURE + b"\0"}])
def test_another_payload_under_the_same_key_is_refused(api: Api, other: dict[str, Any]) -> None:
    _send(api)
    assert refusal(_send(api, **other)) == (422, "idempotency_mismatch")


def test_what_was_not_accepted_leaves_its_key_free(api: Api) -> None:
    def fail(_key: str) -> None:
        raise ObjectStoreUnavailableError("away")

    assert _send(api, image=b"no picture").status_code == 422
    away = api.with_parts(object_store=WatchedStore(api.objects, fail))
    assert _send(away).status_code == 503
    assert _send(api).status_code == 202


def test_a_request_that_is_just_being_accepted(api: Api) -> None:
    answers = []

    def send_again(_key: str) -> None:
        with ThreadPoolExecutor(1) as pool:
            answers.append(pool.submit(_send, api.application.test_client()).result())

    first = api.with_parts(object_store=WatchedStore(api.objects, send_again))
    assert _send(first).status_code == 202
    assert {refusal(answer) for answer in answers} == {(409, "idempotency_in_progress")}


def test_a_process_that_dies_having_recorded_the_task_makes_no_second_one(api: Api) -> None:
    class Dying:
        def send(self, _job: Job) -> None:
            raise RuntimeError("this stands for a kill")

    dying = api.with_parts(dispatcher=Dying())
    with capture_logs():  # a traceback is long in the making
        assert _send(dying).status_code == 500
    (first,) = api.queued()
    assert task_id_of(_send(api)) == first


def test_keys_are_their_owners_own(api: Api) -> None:
    guarded = api.with_settings(auth="on")
    callers = (api, guarded.tenant("shop"), guarded.tenant("studio"))
    assert len({task_id_of(_send(caller)) for caller in callers}) == 3


def test_a_reservation_that_ran_out_is_not_written_over(api: Api) -> None:
    known = IdempotencyGuard(api.redis, ReservationKeeper(api.redis), lambda _: None)
    place = redis_keys.idempotency_key("", "k")
    mine, other = (Reservation(place, "p", each) for each in ("rm-1", "rm-2"))
    assert known.reserve(mine) is None
    api.redis.delete(place)
    assert known.reserve(other) is None
    known.keep(mine)
    known.free(mine)
    assert known.reserve(mine) == other
    assert api.jobs.get("rm-1") is None


@pytest.fixture
def keeper(api: Api, monkeypatch: pytest.MonkeyPatch) -> ReservationKeeper:
    monkeypatch.setattr(idempotency, "_RENEW_SECONDS", 0.02)
    return ReservationKeeper(api.redis)


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_reservation_lasts_as_long_as_its_request_and_lapses_soon_after_a_crash(
    api: Api, keeper: ReservationKeeper
) -> None:
    known, place = (
        IdempotencyGuard(api.redis, keeper, lambda _: None),
        redis_keys.idempotency_key("", "k"),
    )

    def fetch_slowly(made_id: str, _: Reservation | None) -> str:
        assert RESERVED_SECONDS - 5 < api.redis.ttl(place) <= RESERVED_SECONDS == 30
        for _time in range(2):
            api.redis.pexpire(place, 1000)
            _wait_for(lambda: api.redis.pttl(place) > 1000)
        # It lapsed, and another request has taken the key: that is not prolonged.
        api.redis.set(place, "another", px=1000)
        _wait_for(lambda: not api.redis.exists(place))
        return made_id

    made = known.accept("", "k", [], new_id=lambda: "rm-1", make=fetch_slowly, find=lambda _: None)
    assert made == ("rm-1", False)
    _wait_for(lambda: not keeper._running)


@pytest.mark.parametrize(
    ("task_id", "recorded", "outcome"),
    [("rm-1", True, "kept"), ("rm-1", False, "free"), ("rm-2", True, "free")],
    ids=["recorded", "not recorded", "a task of a batch"],
)
def test_a_request_of_unknown_fate_keeps_its_key_until_it_is_known(
    api: Api,
    keeper: ReservationKeeper,
    monkeypatch: pytest.MonkeyPatch,
    task_id: str,
    *,
    recorded: bool,
    outcome: str,
) -> None:
    monkeypatch.setattr(idempotency, "_DECIDE_SECONDS", 0.02)
    place, away, asked = redis_keys.idempotency_key("", "k"), threading.Event(), list[str]()

    def tombstone(named: str) -> Job | None:
        asked.append(named)
        if not away.is_set():
            raise QueueUnavailableError("away")
        return make_job(task_id=named) if recorded else None

    def lose_the_answer(*_: object) -> str:
        raise UncertainWriteError("no answer", task_id)

    known = IdempotencyGuard(api.redis, keeper, tombstone)
    with pytest.raises(UncertainWriteError):
        known.accept("", "k", [], new_id=lambda: "rm-1", make=lose_the_answer, find=lambda _: None)
    _wait_for(lambda: len(asked) > 2)
    assert refusal(_reserved(api)) == (409, "idempotency_in_progress")
    away.set()
    _wait_for(lambda: not keeper._running)
    assert set(asked) == {task_id}
    held = api.redis.get(place)
    assert (held is None) if outcome == "free" else json.loads(str(held))[2]


def _reserved(api: Api) -> TestResponse:
    """Send what a reservation of the key `k` stands for."""
    digest = idempotency._digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idempotency, "_digest", lambda _: digest([]))
        return api.send(key="k")


def test_a_key_says_when_it_is_free_whose_process_has_died(api: Api) -> None:
    known = IdempotencyGuard(api.redis, ReservationKeeper(api.redis), lambda _: None)
    place = redis_keys.idempotency_key("", "k")
    known.reserve(Reservation(place, idempotency._digest([]), "rm-1"))
    assert _reserved(api).headers["Retry-After"] == "1"
    api.redis.pexpire(place, 12_400)
    assert _reserved(api).headers["Retry-After"] in {"12", "13"}


@pytest.mark.parametrize(
    ("header", "key"),
    [("a", "a"), (' "a" ', "a"), ('"a\\"b\\\\c"', 'a"b\\c'), ("a-b_c:1/2", "a-b_c:1/2")],
)
def test_keys_bare_and_quoted(header: str, key: str) -> None:
    assert parse_key(header) == key


@pytest.mark.parametrize("header", ["", " ", '""', "a b", '"a', 'a"', "ä", "x" * 256, '"a" "b"'])
def test_a_malformed_key_is_refused(api: Api, header: str) -> None:
    answer = api.send(key=header)
    assert refused_fields(answer) == (422, "invalid_parameter", {"Idempotency-Key"})
