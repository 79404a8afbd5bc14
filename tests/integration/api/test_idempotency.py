"""Idempotency-Key: one task however often it is sent."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from marshmallow import fields
from structlog.testing import capture_logs

from api import idempotency, parameters
from api.idempotency import (
    RESERVED_SECONDS,
    IdempotencyGuard,
    Reservation,
    ReservationRenewer,
    parse_key,
)
from api.parameters import RemovalForm
from tasks.errors import ObjectStoreUnavailableError, QueueUnavailableError, UncertainWriteError
from tasks.jobs.job import Job
from tasks.object_store import manifest_key, original_key
from tasks.redis_keys import idempotency_key
from tests.support.api import Api
from tests.support.clock import until
from tests.support.jobs import make_job
from tests.support.stores import WatchedStore
from tests.support.submissions import PICTURE, refusal, refused_fields, task_id_of

PLACE = idempotency_key("", "k")


def test_the_same_request_again_within_a_day_is_the_same_task(api: Api) -> None:
    first, again = api.send(key="k"), api.send(key="k")
    task_id = task_id_of(first)
    assert task_id == task_id_of(again) == task_id_of(api.send(key='"k"'))
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert api.queued() == [task_id]
    assert 24 * 3600 - 60 < api.redis.ttl(PLACE) <= 24 * 3600
    others: list[dict[str, Any]] = [{"quality": "50"}, {"image": PICTURE + b"\0"}]
    for other in others:
        assert refusal(api.send(key="k", **other)) == (422, "idempotency_mismatch")
    guarded = api.with_settings(auth="on")
    callers = (guarded.tenant("shop"), guarded.tenant("studio"))
    made = [api.send(), api.send(key="l"), *(caller.send(key="k") for caller in callers)]
    assert len({task_id, *map(task_id_of, made)}) == 5
    # The key of an erased task is used up.
    assert api.delete(f"/api/v1/tasks/{task_id}").status_code == 200
    assert refusal(api.send(key="k")) == (410, "gone")


def test_a_request_is_the_same_after_an_upgrade_that_adds_a_parameter(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = task_id_of(api.send(key="k", quality="50"))
    # An earlier version counted the defaults in.
    former = parameters.load(RemovalForm, {"quality": "50", "cache": "false"})
    former["image"] = f"sha256:{hashlib.sha256(PICTURE).hexdigest()}"
    digest = idempotency._digest(former)
    former_value = Reservation("", digest, made, done=True).write()
    api.redis.set(idempotency_key("", "earlier"), former_value, ex=3600)
    assert task_id_of(api.send(key="earlier", quality="50")) == made

    class Later(RemovalForm):
        sparkle = fields.Boolean(load_default=False)
        refine = fields.Boolean(load_default=False)

    monkeypatch.setattr(parameters, "RemovalForm", Later)
    assert task_id_of(api.send(key="k", quality="50")) == made
    for other in ({"quality": "50", "sparkle": "true"}, {}):
        assert refusal(api.send(key="k", **other)) == (422, "idempotency_mismatch")


def test_twenty_threads_with_one_key_make_one_task(api: Api) -> None:
    together = threading.Barrier(20)
    store = WatchedStore(api.objects)
    application = api.with_parts(object_store=store).application

    def send(_: int) -> str:
        client = application.test_client()
        together.wait()
        while (answer := client.send(key="k")).status_code == 409:
            assert refusal(answer) == (409, "idempotency_in_progress")
        return task_id_of(answer)

    with ThreadPoolExecutor(20) as pool:
        (made,) = set(pool.map(send, range(20)))
    assert api.queued() == [made]
    assert store.named("put") == [original_key(made), manifest_key(made)]


def test_what_was_not_accepted_leaves_its_key_free(api: Api) -> None:
    def fail(_key: str) -> None:
        raise ObjectStoreUnavailableError("away")

    assert api.send(key="k", image=b"no picture").status_code == 422
    away = api.with_parts(object_store=WatchedStore(api.objects, fail))
    assert away.send(key="k").status_code == 503
    assert api.send(key="k").status_code == 202


def test_a_process_that_dies_having_recorded_the_task_makes_no_second_one(api: Api) -> None:
    class Dying:
        def send(self, _job: Job) -> None:
            raise RuntimeError("this stands for a kill")

    with capture_logs():  # a traceback is long in the making
        assert api.with_parts(dispatcher=Dying()).send(key="k").status_code == 500
    assert api.queued() == [task_id_of(api.send(key="k"))]


def test_a_reservation_that_ran_out_is_not_written_over(api: Api) -> None:
    known = IdempotencyGuard(api.redis, ReservationRenewer(api.redis), lambda _: None)
    mine, other = (Reservation(PLACE, "p", each) for each in ("rm-1", "rm-2"))
    assert known.reserve(mine) is None
    api.redis.delete(PLACE)
    assert known.reserve(other) is None
    known.keep(mine)
    known.free(mine)
    assert known.reserve(mine) == other


@pytest.fixture
def renewer(api: Api, monkeypatch: pytest.MonkeyPatch) -> ReservationRenewer:
    monkeypatch.setattr(idempotency, "_RENEW_SECONDS", 0.02)
    monkeypatch.setattr(idempotency, "_DECIDE_SECONDS", 0.02)
    return ReservationRenewer(api.redis)


def test_a_reservation_lasts_as_long_as_its_request_and_lapses_soon_after_a_crash(
    api: Api, renewer: ReservationRenewer
) -> None:
    known = IdempotencyGuard(api.redis, renewer, lambda _: None)

    def fetch_slowly(made_id: str, _: Reservation | None) -> str:
        assert RESERVED_SECONDS - 5 < api.redis.ttl(PLACE) <= RESERVED_SECONDS == 30
        for _time in range(2):
            api.redis.pexpire(PLACE, 15_000)
            until(lambda: api.redis.pttl(PLACE) > 15_000)
        # It lapsed, and another request has taken the key: that is not prolonged.
        api.redis.set(PLACE, "another", px=1000)
        until(lambda: not api.redis.exists(PLACE))
        return made_id

    made = known.accept("", "k", [], new_id=lambda: "rm-1", make=fetch_slowly, find=lambda _: None)
    assert made == ("rm-1", False)
    until(lambda: not renewer._running)


@pytest.mark.parametrize(
    ("task_id", "recorded", "kept"),
    [("rm-1", True, True), ("rm-1", False, False), ("rm-2", True, False)],
    ids=["recorded", "not recorded", "a task of a batch"],
)
def test_a_request_of_unknown_fate_keeps_its_key_until_it_is_known(
    api: Api, renewer: ReservationRenewer, task_id: str, *, recorded: bool, kept: bool
) -> None:
    back, asked = threading.Event(), list[str]()

    def tombstone(named: str) -> Job | None:
        asked.append(named)
        if not back.is_set():
            # The record may be damaged, too.
            raise (QueueUnavailableError, ValueError)[len(asked) % 2]("away")
        return make_job(task_id=named) if recorded else None

    def lose_the_answer(*_: object) -> str:
        raise UncertainWriteError("no answer", task_id)

    known = IdempotencyGuard(api.redis, renewer, tombstone)
    with pytest.raises(UncertainWriteError):
        known.accept("", "k", [], new_id=lambda: "rm-1", make=lose_the_answer, find=lambda _: None)
    until(lambda: len(asked) > 2)
    assert api.redis.exists(PLACE)
    back.set()
    until(lambda: not renewer._running)
    assert set(asked) == {task_id}
    held = api.redis.get(PLACE)
    assert bool(held and json.loads(str(held))[2]) == kept
    assert bool(held) == kept


def test_a_key_says_when_it_is_free_whose_process_has_died(api: Api) -> None:
    api.send(key="k")
    payload, made_id, _ = json.loads(str(api.redis.get(PLACE)))
    for left, seconds in ((29_900, range(1, 2)), (12_400, range(2, 14))):
        api.redis.set(PLACE, json.dumps([payload, made_id, False]), px=left)
        answer = api.send(key="k")
        assert refusal(answer) == (409, "idempotency_in_progress")
        assert int(answer.headers["Retry-After"]) in seconds


def test_a_key_is_bare_or_quoted_and_nothing_else(api: Api) -> None:
    for header, key in ((' "a" ', "a"), ('"a\\"b\\\\c"', 'a"b\\c')):
        assert parse_key(header) == key
    for header in (" ", '""', "a b", '"a', "ä", "x" * 256, '"a" "b"'):
        answer = api.send(key=header)
        assert refused_fields(answer) == (422, "invalid_parameter", {"Idempotency-Key"}), header
