"""Redis: does it answer quickly, and does it keep what it is given?"""

import time
from collections.abc import Iterator
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import RedisError

from deploy.doctor.findings import Finding, fail, ok, warn

#: The oldest with all commands that the service and its broker use.
_OLDEST: Final = (6, 2)
_SLOW_MILLISECONDS: Final = 10.0
_PINGS: Final = 5
_FULL: Final = 0.8


def check_redis(client: Redis, url: str) -> Iterator[Finding]:
    """Reachable, version, append-only file, eviction, memory, latency."""
    place = _place(url)
    try:
        facts: dict[str, Any] = client.info()
        milliseconds = _latency(client)
    except RedisError as error:
        yield fail(
            "redis", f"{place} does not answer: {error}", "start it, or correct RMBG_REDIS_URL"
        )
        return
    yield _version(facts, place)
    yield _append_only(facts)
    yield _eviction(facts)
    yield _memory(facts)
    yield _speed(milliseconds)


def _place(url: str) -> str:
    """The address without its password."""
    address = urlsplit(url)
    return f"{address.hostname}:{address.port or 6379}" if address.hostname else address.path


def _latency(client: Redis) -> float:
    times = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        client.ping()
        times.append(time.perf_counter() - began)
    return median(times) * 1000


def _version(facts: dict[str, Any], place: str) -> Finding:
    text = str(facts.get("redis_version", "0.0"))
    name = f"Valkey {facts['valkey_version']}" if "valkey_version" in facts else f"Redis {text}"
    if tuple(int(part) for part in text.split(".")[:2]) < _OLDEST:
        return fail(
            "redis.version", f"{name} at {place}", "update it: 6.2 is the oldest that will do"
        )
    return ok("redis.version", f"{name} at {place}")


def _append_only(facts: dict[str, Any]) -> Finding:
    if not facts.get("aof_enabled"):
        return fail(
            "redis.aof",
            "the append-only file is off: a restart of Redis loses jobs",
            "set `appendonly yes` in its configuration",
        )
    if facts.get("aof_last_write_status", "ok") != "ok":
        return fail("redis.aof", "the last write failed", "look at its disk: is it full?")
    return ok("redis.aof", "the append-only file is on")


def _eviction(facts: dict[str, Any]) -> Finding:
    policy = str(facts.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        return ok("redis.eviction", "nothing is evicted")
    return fail(
        "redis.eviction",
        f"maxmemory-policy is {policy}: jobs may be thrown away",
        "set `maxmemory-policy noeviction` in its configuration",
    )


def _memory(facts: dict[str, Any]) -> Finding:
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    text = f"{used / 2**20:,.0f} MiB used" + (f" of {most / 2**20:,.0f}" if most else "")
    if most and used > _FULL * most:
        return warn("redis.memory", text, "raise maxmemory: when it is full, uploads are refused")
    return ok("redis.memory", text)


def _speed(milliseconds: float) -> Finding:
    text = f"answers in {milliseconds:.1f} ms"
    if milliseconds > _SLOW_MILLISECONDS:
        return warn("redis.latency", text, "bring it nearer, or look for what keeps it busy")
    return ok("redis.latency", text)
