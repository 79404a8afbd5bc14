"""Records that are not what this version writes, among good ones: those go on."""

from collections.abc import Callable

import pytest
from redis import Redis
from structlog.testing import capture_logs

from tasks import redis_keys
from tasks.errors import UnreadableRecordError
from tasks.jobs.job import Priority, Status
from tasks.jobs.store import Dispatch
from tests.support.jobs import claim, finish
from tests.support.queues import AGING, OWN, Queues
from tests.support.redis_content import content

#: What may be wrong with a record, as changes of its fields; None for a field that is missing.
DAMAGES: dict[str, dict[str, str | bytes | None]] = {
    "no JSON": {"options": "{no json"},
    "another kind of JSON": {"options": "[1]"},
    "no number": {"redispatches": "x", "losses": "x", "created_at": "x"},
    "of a later version": {"priority": "1"},
    "half of it": {"model": None},
    "no text": {"file_stem": b"\xff\xfe"},
}


def _damage(redis: Redis, task_id: str, fields: dict[str, str | bytes | None]) -> None:
    for name, value in fields.items():
        if value is None:
            redis.hdel(redis_keys.job_key(task_id), name)
        else:
            redis.hset(redis_keys.job_key(task_id), name, value)


def _damaged(queues: Queues, make: Callable[[], str]) -> list[str]:
    """Make seven jobs, and damage each in another way."""
    *some, last = [make() for _ in range(7)]
    for task_id, fields in zip(some, DAMAGES.values(), strict=True):
        _damage(queues.redis, task_id, fields)
    queues.redis.set(redis_keys.job_key(last), "no hash", keepttl=True)
    return [*some, last]


def _among_damaged(queues: Queues, make: Callable[[], str]) -> list[str]:
    """Make jobs of which only the first and the last one can be read; return these two."""
    first = make()
    for _ in range(3):
        _damaged(queues, make)
    return [first, make()]


@pytest.mark.parametrize(
    "make",
    [
        Queues.orphan,
        Queues.due,
        lambda queues: queues.submit(sent=False),
        lambda queues: queues.submit(queue=OWN),
    ],
    ids=["whose worker died", "that are due", "whose message is lost", "of a GPU that is gone"],
)
def test_jobs_go_out_beside_damaged_records(queues: Queues, make: Callable[[Queues], str]) -> None:
    good = _among_damaged(queues, lambda: make(queues))
    queues.passes()
    assert sorted(queues.messages()) == sorted(good)


def test_jobs_are_raised_and_meet_their_deadline_beside_damaged_records(queues: Queues) -> None:
    deadline = queues.clock() + 2 * AGING
    good = _among_damaged(queues, lambda: queues.submit(Priority.LOW, deadline=deadline))
    queues.clock.now += AGING
    queues.passes(22)
    assert {queues.job(each).raised_priority for each in good} == {Priority.NORMAL}
    queues.clock.now += AGING + 1
    queues.passes()
    assert set(good) <= set(queues.store.ids(Status.FAILED))


def test_a_damaged_record_is_logged_once_and_examined_once_a_minute(queues: Queues) -> None:
    bad = _damaged(queues, queues.due)
    with capture_logs() as logs:
        for _ in range(5):
            queues.passes(1)
            queues.clock.now += 30
    lines = [line for line in logs if line["log_level"] == "error"]
    assert sorted(line["task_id"] for line in lines) == sorted(bad)
    assert {(line["event"], line["step"]) for line in lines} == {("job.skipped", "send")}
    assert all(line["reason"] for line in lines)
    assert queues.redis.hget(redis_keys.COUNTERS, "skipped:send") == "7"
    assert sorted(queues.store.ids(Status.QUEUED)) == sorted(bad)


def test_a_record_that_was_mended_goes_on_by_itself(queues: Queues) -> None:
    task_id = queues.submit(sent=False)
    _damage(queues.redis, task_id, DAMAGES["no JSON"])
    queues.passes()
    _damage(queues.redis, task_id, {"options": "{}"})
    for seconds, sent in ((59, []), (2, [task_id])):
        queues.clock.now += seconds
        queues.passes(1)
        assert queues.messages() == sent


@pytest.mark.parametrize(
    ("make", "step", "counted"),
    [
        (Queues.submit, claim, "attempts"),
        (Queues.running, lambda store, bad: store.release(bad, token="t"), "losses"),
        (Queues.running, lambda store, bad: store.crash(bad, holder="t"), "crashes"),
    ],
)
def test_a_step_that_a_damaged_count_refuses_changes_nothing(
    queues: Queues, make: Callable[[Queues], str], step: Callable[..., object], counted: str
) -> None:
    bad = make(queues)
    _damage(queues.redis, bad, {counted: "x"})
    before = content(queues.redis)
    with pytest.raises(UnreadableRecordError, match="not an integer"):
        step(queues.store, bad)
    assert content(queues.redis) == before


def test_a_dispatch_that_a_damaged_count_refuses_changes_nothing(queues: Queues) -> None:
    bad = queues.due()
    _damage(queues.redis, bad, {"redispatches": "x"})
    before = content(queues.redis)
    assert queues.store.record_dispatches([Dispatch(bad, "another")]) == [None]
    assert content(queues.redis) == before


@pytest.mark.parametrize("value", ["x", "nan", "inf", "-inf", "1e300"])
def test_a_job_whose_numbers_are_damaged_ends_whole(queues: Queues, value: str) -> None:
    bad, duplicate = queues.submit(cache_key="k"), queues.submit(cache_key="k", sent=False)
    numbers = ("created_at", "cache_seconds", "expires_at", "priority")
    _damage(queues.redis, bad, dict.fromkeys(numbers, value))
    finish(queues.store, bad)
    assert queues.store.ids(Status.SUCCEEDED) == [bad]
    assert queues.store.ids(Status.QUEUED) == [duplicate]
    assert queues.redis.zrange(redis_keys.COMPLETING, 0, -1) == [bad]
    _damage(queues.redis, bad, {"finished_at": value})
    assert queues.store.erase(bad)
    assert not queues.redis.exists(redis_keys.job_key(bad))


@pytest.mark.parametrize("fields", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_job_is_ended_and_reported_as_any_other(
    queues: Queues, fields: dict[str, str | bytes | None]
) -> None:
    bad = queues.submit()
    webhook = {"webhook_url": "http://h/", "webhook_events": "{no json"}
    _damage(queues.redis, bad, {**webhook, **fields})
    with queues.redis.pubsub() as heard:
        heard.subscribe(redis_keys.done_channel(bad))
        assert heard.get_message(timeout=5) is not None
        assert queues.store.cancel(bad) == "canceled"
        assert heard.get_message(timeout=5) is not None
    assert queues.redis.zcard(redis_keys.DELIVERIES_DUE) == 1
