"""Which queue a job goes to, by what real Redis says of the workers."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tasks import redis_keys
from tasks.jobs.job import Priority
from tasks.jobs.routing import MAX_ASSIGNED, Router
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tasks.worker_registry import WorkerRegistry
from tests.support.jobs import make_job

SHARED = "model.m"


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    """A database of its own, emptied: these tests look at all workers there are."""
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def registry(client: Redis) -> WorkerRegistry:
    return WorkerRegistry(client)


@pytest.fixture
def router(client: Redis) -> Router:
    return Router(client)


def _join(registry: WorkerRegistry, index: int, *, model: str = "m", seconds: float = 1.0) -> str:
    name = f"gpu{index}@h"
    registry.record_heartbeat(name, queue=f"gpu.h.{index}", model=model)
    registry.mark_ready(name, 90, model=model)
    registry.update(name, seconds=seconds)
    return name


def _bind(client: Redis, queue: str, count: int, priority: Priority = Priority.NORMAL) -> None:
    store = JobStore(client)
    for _ in range(count):
        store.create(make_job(model="m", queue=queue, priority=priority))


def test_without_workers_jobs_wait_in_the_shared_queue(router: Router) -> None:
    assert router.choose("m", Priority.NORMAL) == SHARED


def test_an_idle_gpu_is_given_the_job(router: Router, registry: WorkerRegistry) -> None:
    _join(registry, 0)
    assert router.choose("m", Priority.NORMAL) == "gpu.h.0"


def test_the_gpu_that_is_free_soonest_gets_it(
    router: Router, registry: WorkerRegistry, client: Redis
) -> None:
    _join(registry, 0, seconds=1)
    _join(registry, 1, seconds=5)
    _bind(client, "gpu.h.0", 1)
    _bind(client, "gpu.h.1", 1)
    assert router.choose("m", Priority.NORMAL) == "gpu.h.0"
    _join(registry, 0, seconds=9)
    assert router.choose("m", Priority.NORMAL) == "gpu.h.1"


def test_no_job_passes_others_of_its_urgency_that_wait_in_the_shared_queue(
    router: Router, registry: WorkerRegistry, client: Redis
) -> None:
    _join(registry, 0)
    _bind(client, SHARED, 1)
    assert router.choose("m", Priority.NORMAL) == SHARED
    assert router.choose("m", Priority.LOW) == SHARED
    # It passes them in any case.
    assert router.choose("m", Priority.HIGH) == "gpu.h.0"


def test_what_goes_after_the_job_does_not_count_against_a_gpu(
    router: Router, registry: WorkerRegistry, client: Redis
) -> None:
    _join(registry, 0, seconds=2)
    _join(registry, 1, seconds=1)
    _bind(client, "gpu.h.0", 1, Priority.LOW)
    _bind(client, "gpu.h.1", 1, Priority.HIGH)
    assert router.choose("m", Priority.NORMAL) == "gpu.h.0"


def test_no_gpu_is_given_more_than_it_can_soon_begin(
    router: Router, registry: WorkerRegistry, client: Redis
) -> None:
    name = _join(registry, 0)
    _bind(client, "gpu.h.0", MAX_ASSIGNED - 1)
    assert router.choose("m", Priority.NORMAL) == "gpu.h.0"
    registry.update(name, running=1)
    assert router.choose("m", Priority.NORMAL) == SHARED


def test_only_gpus_that_serve_the_model_count(router: Router, registry: WorkerRegistry) -> None:
    _join(registry, 0, model="other")
    assert router.choose("m", Priority.NORMAL) == SHARED


def test_a_gpu_that_is_drained_silent_or_not_ready_gets_nothing(
    client: Redis, router: Router, registry: WorkerRegistry
) -> None:
    name = _join(registry, 0)
    registry.drain(name, "for a test")
    assert router.choose("m", Priority.NORMAL) == SHARED
    assert registry.undrain(name)
    assert router.choose("m", Priority.NORMAL) == "gpu.h.0"
    registry.mark_not_ready(name)
    assert router.choose("m", Priority.NORMAL) == SHARED
    _join(registry, 0)
    client.zrem(redis_keys.ALIVE_WORKERS, name)
    assert router.choose("m", Priority.NORMAL) == SHARED


def test_a_job_avoids_the_gpu_it_went_wrong_on(router: Router, registry: WorkerRegistry) -> None:
    name = _join(registry, 0)
    assert router.choose("m", Priority.NORMAL, excluded_worker=name) == SHARED
    _join(registry, 1)
    assert router.choose("m", Priority.NORMAL, excluded_worker=name) == "gpu.h.1"


def test_routing_can_be_left_to_the_shared_queues(client: Redis, registry: WorkerRegistry) -> None:
    _join(registry, 0)
    assert Router(client, routing="shared").choose("m", Priority.NORMAL) == SHARED


def test_redis_away_is_no_reason_not_to_choose() -> None:
    away = connect("redis://127.0.0.1:1/0", timeout=0.2)
    assert Router(away).choose("m", Priority.NORMAL) == SHARED
