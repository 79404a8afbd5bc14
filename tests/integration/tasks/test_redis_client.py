"""The Lua scripts as Python calls them."""

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from tasks import redis_client, redis_keys
from tasks.redis_client import connect

LATE = 1732652242.123456


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


def _renew(client: Redis, task_id: str) -> object:
    return redis_client.JOBS.run(client, "renew", id=task_id, token="t", lease_ms=1)


def test_a_script_is_sent_again_once_redis_has_forgotten_it(client: Redis) -> None:
    for _ in range(2):
        client.script_flush()
        assert _renew(client, "rm-1") == 0
        assert _renew(client, "rm-1") == 0


def test_several_calls_are_repeated_once_redis_has_forgotten_the_script(client: Redis) -> None:
    client.script_flush()
    calls: list[dict[str, redis_client.Argument]] = [
        {"id": each, "queue": "q", "priority_level": None} for each in ("rm-1", "rm-2")
    ]
    for _ in range(2):
        assert redis_client.JOBS.run_each(client, "record_dispatch", calls) == [[], []]


@pytest.mark.parametrize("text", ["é", "\x00", "😀", '"\\', "a\nb"])
def test_arguments_arrive_as_they_were_given(client: Redis, text: str) -> None:
    client.set("k", text)
    replaced = redis_client.PRIMITIVES.run(
        client, "compare_and_set", key="k", expected=text, value=f"{text}!", seconds=60
    )
    assert replaced == 1
    assert client.get("k") == f"{text}!"


def test_a_time_loses_no_digit(client: Redis) -> None:
    client.hset(redis_keys.job_key("rm-1"), "status", "queued")
    assert redis_client.JOBS.run(client, "cancel", id="rm-1", now=LATE) == "canceled"
    assert client.hget(redis_keys.job_key("rm-1"), "finished_at") == repr(LATE)
    assert client.zscore(redis_keys.index_key("canceled"), "rm-1") == LATE


@pytest.mark.parametrize("count", ["x", "1.5", "", "007", "-0", "9" * 20])
def test_a_damaged_counter_is_refused_before_anything_is_written(client: Redis, count: str) -> None:
    client.hset(redis_keys.job_key("rm-1"), mapping={"status": "queued", "attempts": count})
    with pytest.raises(ResponseError, match="not an integer: attempts"):
        redis_client.JOBS.run(
            client, "claim", id="rm-1", token="t", worker="w", now=LATE, lease_ms=9000, overdue="{}"
        )
    assert client.keys("*") == [redis_keys.job_key("rm-1")]
