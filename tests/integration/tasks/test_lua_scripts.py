"""The Lua scripts as Python calls them."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from tasks import lua_scripts, redis_keys
from tasks.lua_scripts import LuaScripts
from tasks.redis_client import connect
from tests.support.servers import embedded_valkey

LATE = 1732652242.123456
_COMMAND = re.compile(r"^commands\.(\w+)", re.MULTILINE)


def test_a_script_is_sent_again_once_redis_has_forgotten_it(tmp_path: Path) -> None:
    calls = [{"id": each, "queue": "q", "priority_level": None} for each in ("rm-1", "rm-2")]
    with embedded_valkey(tmp_path) as url, connect(url) as redis:
        for _ in range(2):
            assert lua_scripts.JOBS.run(redis, "renew", id="rm-1", token="t", lease_ms=1) == 0
            redis.script_flush()
            assert lua_scripts.JOBS.run_each(redis, "record_dispatch", calls) == [[], []]
            redis.script_flush()


def test_each_command_is_a_script_with_what_it_needs(redis: Redis) -> None:
    texts, lines = {}, set()
    for scripts in vars(lua_scripts).values():
        for name in scripts.files if isinstance(scripts, LuaScripts) else ():
            texts[name] = text = files("tasks.lua").joinpath(f"{name}.lua").read_text()
            for command in _COMMAND.findall(text):
                made = scripts.script(command)
                assert redis.script_load(made.text) == made.sha1  # Redis has compiled it
                assert _COMMAND.findall(made.text) == [command]
                lines.update(made.text.splitlines())
    # No statement is lost, nor one that nothing needs.
    assert {line for text in texts.values() for line in _code(text)} <= lines
    whole, small = "".join(texts.values()), lua_scripts.JOBS.script("renew").text
    assert len(small) < len(whole) / 8


def _code(text: str) -> list[str]:
    return [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--")
    ]


@pytest.mark.parametrize("text", ["é", "\x00", "😀", '"\\', "a\nb"])
def test_arguments_arrive_as_they_were_given(redis: Redis, text: str) -> None:
    redis.set("k", text)
    replaced = lua_scripts.PRIMITIVES.run(
        redis, "compare_and_set", key="k", expected=text, value=f"{text}!", seconds=60
    )
    assert replaced == 1
    assert redis.get("k") == f"{text}!"


def test_a_time_loses_no_digit(redis: Redis) -> None:
    redis.hset(redis_keys.job_key("rm-1"), "status", "queued")
    redis.expire(redis_keys.job_key("rm-1"), 60)
    assert lua_scripts.JOBS.run(redis, "cancel", id="rm-1", now=LATE) == "canceled"
    assert redis.hget(redis_keys.job_key("rm-1"), "finished_at") == repr(LATE)
    assert redis.zscore(redis_keys.index_key("canceled"), "rm-1") == LATE


@pytest.mark.parametrize("count", ["x", "1.5", "", "007", "-0", "9" * 20])
def test_a_damaged_counter_is_refused_before_anything_is_written(redis: Redis, count: str) -> None:
    redis.hset(redis_keys.job_key("rm-1"), mapping={"status": "queued", "attempts": count})
    redis.expire(redis_keys.job_key("rm-1"), 60)
    with pytest.raises(ResponseError, match="not an integer: attempts"):
        lua_scripts.JOBS.run(
            redis, "claim", id="rm-1", token="t", worker="w", now=LATE, lease_ms=9000, overdue="{}"
        )
    assert redis.keys("*") == [redis_keys.job_key("rm-1")]
