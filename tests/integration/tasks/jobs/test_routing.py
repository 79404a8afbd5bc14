"""Which queue a job goes to, by what real Redis says of the workers."""

import pytest
from redis import Redis

from tasks import redis_keys
from tasks.jobs import routing
from tasks.jobs.routing import MAX_ASSIGNED, Router
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tasks.worker_registry import WorkerRegistry
from tests.support.jobs import make_job

SHARED = "model.m"
OWN = "gpu.h.0"


class Gpus:
    """Workers that are alive and ready, and what waits for them."""

    def __init__(self, redis: Redis) -> None:
        self.redis, self.registry = redis, WorkerRegistry(redis)

    def join(self, index: int = 0, *, model: str = "m", seconds: float = 1.0) -> str:
        """Start a worker of `gpu.h.<index>` that takes so long for a job; returns its name."""
        name = f"gpu{index}@h"
        self.registry.record_heartbeat(name, queue=f"gpu.h.{index}", model=model)
        self.registry.mark_ready(name, 90, model=model)
        self.registry.update(name, seconds=seconds)
        return name

    def assign(self, queue: str) -> None:
        JobStore(self.redis).create(make_job(model="m", queue=queue))

    def chosen(self, excluded: str | None = None) -> str:
        return Router(self.redis).choose("m", excluded_worker=excluded)


@pytest.fixture
def gpus(redis: Redis) -> Gpus:
    return Gpus(redis)


def test_an_idle_gpu_is_given_the_job_if_it_serves_the_model(gpus: Gpus) -> None:
    assert gpus.chosen() == SHARED
    gpus.join(model="other")
    assert gpus.chosen() == SHARED
    gpus.join(model="m")
    assert gpus.chosen() == OWN


def test_the_gpu_that_is_free_soonest_gets_it(gpus: Gpus) -> None:
    gpus.join(0, seconds=1)
    gpus.join(1, seconds=5)
    gpus.assign("gpu.h.0")
    gpus.assign("gpu.h.1")
    assert gpus.chosen() == "gpu.h.0"
    gpus.join(0, seconds=9)
    assert gpus.chosen() == "gpu.h.1"


def test_no_job_passes_others_that_wait_in_the_shared_queue(gpus: Gpus) -> None:
    gpus.join()
    gpus.assign(SHARED)
    assert gpus.chosen() == SHARED


def test_no_gpu_is_given_more_than_it_can_soon_begin(gpus: Gpus) -> None:
    name = gpus.join()
    for _ in range(MAX_ASSIGNED - 1):
        gpus.assign(OWN)
    assert gpus.chosen() == OWN
    gpus.registry.update(name, running=1)
    assert gpus.chosen() == SHARED


def test_a_gpu_that_is_drained_silent_or_not_ready_gets_nothing(gpus: Gpus) -> None:
    name = gpus.join()
    gpus.registry.drain(name, "for a test")
    assert gpus.chosen() == SHARED
    assert gpus.registry.undrain(name)
    assert gpus.chosen() == OWN
    gpus.registry.mark_not_ready(name)
    assert gpus.chosen() == SHARED
    gpus.join()
    assert gpus.chosen() == OWN
    gpus.redis.zrem(redis_keys.ALIVE_WORKERS, name)
    assert gpus.chosen() == SHARED


def test_a_job_avoids_the_gpu_it_went_wrong_on(gpus: Gpus) -> None:
    name = gpus.join(0)
    assert gpus.chosen(excluded=name) == SHARED
    gpus.join(1)
    assert gpus.chosen(excluded=name) == "gpu.h.1"


def test_routing_can_be_left_to_the_shared_queues(gpus: Gpus, redis: Redis) -> None:
    gpus.join()
    assert Router(redis, routing="shared").choose("m") == SHARED


def test_redis_away_is_no_reason_not_to_choose() -> None:
    away = connect("redis://127.0.0.1:1/0", timeout=0.2)
    assert Router(away).choose("m") == SHARED


@pytest.mark.parametrize(
    ("message", "before"), [("rm-a", 0), ("rm-a.2", 1), ("rm-a.13", 12), ("rm-a.x", -1)]
)
def test_a_messages_id_tells_how_many_came_before_it(message: str, before: int) -> None:
    assert routing.redispatches_of_message(message) == before
