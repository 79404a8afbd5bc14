"""The worker registry in a real Redis: faults, answers, starts and silence."""

from collections.abc import Iterator

import pytest
from redis import Redis

from inference.models.registry import get_spec
from tasks import redis_keys
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tasks.worker_registry import (
    ALIVE_SECONDS,
    MAX_FAULTS,
    STARTS_SECONDS,
    Worker,
    WorkerRegistry,
)
from tests.support.clock import Clock

WORKER = "gpu0@h"


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(client: Redis, clock: Clock) -> WorkerRegistry:
    """One worker is alive and ready."""
    registry = WorkerRegistry(client, clock=clock)
    registry.record_heartbeat(WORKER, queue="gpu.h.0", model="m")
    registry.mark_ready(WORKER, 90, pid=2)
    return registry


def _worker(registry: WorkerRegistry) -> Worker:
    (worker,) = registry.workers()
    return worker


def test_faults_in_a_row_drain_a_gpu_and_a_success_forgives_them(registry: WorkerRegistry) -> None:
    for number in range(MAX_FAULTS - 1):
        assert not registry.record_fault(WORKER, f"job{number}", "gpu_fault")
    registry.record_result(WORKER, 1.0)
    for number in range(MAX_FAULTS - 1):
        assert not registry.record_fault(WORKER, f"job{number}", "gpu_fault")
    assert registry.drained(WORKER) == ""
    assert registry.record_fault(WORKER, "another", "gpu_fault")
    assert "gpu_fault" in registry.drained(WORKER)


def test_one_picture_that_is_too_much_drains_no_gpu(registry: WorkerRegistry) -> None:
    for _ in range(2 * MAX_FAULTS):
        assert not registry.record_fault(WORKER, "job", "gpu_out_of_memory")
    assert registry.drained(WORKER) == ""


def test_a_worker_that_is_undrained_may_fail_as_often_as_at_first(registry: WorkerRegistry) -> None:
    for number in range(MAX_FAULTS):
        registry.record_fault(WORKER, f"job{number}", "gpu_fault")
    assert _worker(registry).drained_by == "service"
    assert registry.undrain(WORKER)
    assert not registry.record_fault(WORKER, "another", "gpu_fault")
    assert _worker(registry).usable


@pytest.mark.usefixtures("registry")
def test_a_worker_is_ready_only_as_long_as_it_lives(client: Redis, clock: Clock) -> None:
    store = JobStore(client, clock=clock)
    assert store.ready_workers() == [WORKER]
    # Its parent fell silent; what its model answered counts for a minute yet.
    clock.now += ALIVE_SECONDS + 1
    assert store.ready_workers() == []


def test_the_word_of_the_next_child_is_not_taken_back(registry: WorkerRegistry) -> None:
    registry.mark_not_ready(WORKER, pid=1)
    assert _worker(registry).ready
    registry.mark_not_ready(WORKER, pid=2)
    assert not _worker(registry).ready


def test_starts_count_until_they_are_long_ago(
    client: Redis, registry: WorkerRegistry, clock: Clock
) -> None:
    registry.record_start(WORKER)
    clock.now += STARTS_SECONDS - 1
    registry.record_start(WORKER)
    assert registry.count_starts(WORKER) == 2
    clock.now += 2
    assert registry.count_starts(WORKER) == 1
    assert client.ttl(redis_keys.process_starts_key(WORKER)) > 0


def test_a_worker_that_falls_silent_is_missing_for_a_day_unless_it_ended(
    registry: WorkerRegistry, clock: Clock
) -> None:
    registry.record_heartbeat("gpu1@h")
    registry.remove("gpu1@h")
    clock.now += 60
    assert registry.silent() == {WORKER: 60}
    (missing,) = registry.missing()
    assert (missing.name, missing.queue, missing.alive) == (WORKER, "gpu.h.0", False)
    clock.now += 24 * 3600
    registry.record_heartbeat("gpu2@h")
    assert registry.silent() == {}


def test_the_revision_of_a_model_is_what_its_workers_have_loaded(registry: WorkerRegistry) -> None:
    """Unless only one file of it is served at all."""
    assert registry.revision("m") is None
    registry.update(WORKER, revision="b")
    registry.record_heartbeat("gpu1@h", model="m", revision="a")
    registry.record_heartbeat("gpu2@h", model="another", revision="c")
    assert registry.revision("m") == "a+b"
    assert registry.revision("u2netp") == get_spec("u2netp").sha256
