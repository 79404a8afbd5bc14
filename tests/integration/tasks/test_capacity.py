"""When there is no room for more, by a real Redis with little memory and a disk that is told."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from redis import Redis

from deploy.local.servers import valkey_url
from tasks.app import create_celery
from tasks.capacity import FREE_BYTES, REDIS_SHARE, Capacity, Store, disk_problem, redis_problem
from tasks.errors import RedisFullError, StoreFullError
from tasks.redis_client import connect, redis_errors
from tasks.settings import Settings
from tests.support.clock import Clock
from tests.support.servers import embedded_valkey


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis of its own, as its limit holds for all databases."""
    with embedded_valkey(tmp_path_factory.mktemp("small")) as url, connect(url) as client:
        yield client


def test_to_celery_a_full_redis_is_one_that_is_away(small: Redis) -> None:
    """Another error would end a worker, at a message or at its start."""
    place = small.get_connection_kwargs()
    settings = Settings.load(redis_url=valkey_url(place["port"], place["password"]))
    with create_celery(settings) as app, app.connection_for_read() as worker:
        away = worker.recoverable_connection_errors
        queue = worker.SimpleQueue("q")
        queue.put("m")
        small.config_set("maxmemory", 1)
        try:
            with pytest.raises(away, match="full"):
                queue.get(timeout=5)
            worker.collect()
            with pytest.raises(away, match="full"):
                worker.SimpleQueue("another")
        finally:
            small.config_set("maxmemory", 0)
        worker.collect()
        worker.SimpleQueue("q").put("n")


def test_redis_is_full_before_its_limit_and_says_so_beyond_it(small: Redis) -> None:
    # Redis grows it: a value that is sent is for a while in its buffers too.
    small.setrange("filler", 2**24, "end")
    used = small.info("memory")["used_memory"]
    for share, scarce, full in (
        (0.5, False, set()),
        (0.75, True, set()),
        (REDIS_SHARE + 0.05, True, {Store.REDIS}),
        (2, True, {Store.REDIS}),
    ):
        small.config_set("maxmemory", int(used / share))
        capacity = Capacity(small, None)
        assert set(capacity.full_stores()) == full
        assert capacity.scarce_bytes == (scarce and REDIS_SHARE * int(used / share))
        if share < 1:
            small.set("there", "is room for accepted jobs")
    with pytest.raises(RedisFullError), redis_errors():
        small.set("there", "is none")
    small.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, ""),
        ({"used_memory": 2**40, "maxmemory": 0}, ""),
        ({"used_memory": 90, "maxmemory": 100}, ""),
        ({"used_memory": 91, "maxmemory": 100, "mem_not_counted_for_evict": 1}, ""),
        ({"used_memory": 91, "maxmemory": 100}, "raise maxmemory"),
        ({"aof_last_write_status": "err"}, "check its disk"),
    ],
)
def test_redis_is_judged_by_its_own_figures(info: dict[str, object], expected: str) -> None:
    found = redis_problem(info)
    assert expected in found
    assert bool(found) is bool(expected)


def test_a_disk_with_little_left_or_none_at_all_is_named(tmp_path: Path) -> None:
    assert disk_problem(tmp_path, lambda _: FREE_BYTES) == ""
    assert "511 MiB left" in disk_problem(tmp_path, lambda _: FREE_BYTES - 2**20)
    assert "cannot be read" in disk_problem(tmp_path / "gone")


def test_the_room_is_measured_once_a_second(redis: Redis, clock: Clock, tmp_path: Path) -> None:
    free = Mock(side_effect=[FREE_BYTES, 0])
    capacity = Capacity(redis, tmp_path, free=free, clock=clock)
    for _ in range(3):
        capacity.require_room()
    assert free.call_count == 1
    clock.now += 1
    for _ in range(3):
        with pytest.raises(StoreFullError, match="0 MiB left"):
            capacity.require_room()


def test_an_object_store_that_said_it_is_full_is_asked_later_by_all(redis: Redis) -> None:
    here, elsewhere = Capacity(redis, None), Capacity(redis, None)
    here.require_room()
    here.note_full_object_store()
    for capacity in (here, elsewhere):
        with pytest.raises(StoreFullError, match="object store"):
            capacity.require_room()
    (key,) = redis.scan_iter("*")
    assert 0 < redis.ttl(key) <= 10
    redis.delete(key)
    Capacity(redis, None).require_room()
