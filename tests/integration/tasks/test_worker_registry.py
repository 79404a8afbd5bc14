"""The worker registry in a real Redis: faults, answers, starts and silence."""

import pytest
from redis import Redis

from inference.models.registry import get_spec
from tasks import redis_keys
from tasks.worker_registry import ALIVE_SECONDS, MAX_FAULTS, STARTS_SECONDS, Worker, WorkerRegistry
from tests.support.clock import Clock

WORKER = "gpu0@h"


@pytest.fixture
def registry(redis: Redis, clock: Clock) -> WorkerRegistry:
    """One worker is alive and ready."""
    registry = WorkerRegistry(redis, clock=clock)
    registry.record_heartbeat(WORKER, queue="gpu.h.0", model="m")
    registry.mark_ready(WORKER, 90, pid=2)
    return registry


def _worker(registry: WorkerRegistry) -> Worker:
    (worker,) = registry.workers()
    return worker


def _fail(registry: WorkerRegistry, times: int, job: str = "job{}") -> list[bool]:
    """Record faults of a GPU; which of them drained it."""
    names = map(job.format, range(times))
    return [registry.record_fault(WORKER, name, "gpu_fault") for name in names]


def test_faults_in_a_row_drain_a_gpu_until_somebody_undrains_it(registry: WorkerRegistry) -> None:
    most = [False] * (MAX_FAULTS - 1)
    assert _fail(registry, MAX_FAULTS - 1) == most
    registry.record_result(WORKER, 1.0)  # forgives them
    assert _fail(registry, MAX_FAULTS - 1) == most
    assert registry.drained(WORKER) == ""
    assert registry.record_fault(WORKER, "another", "gpu_fault")
    assert "gpu_fault" in registry.drained(WORKER)
    assert _worker(registry).drained_by == "service"
    assert registry.undrain(WORKER)
    assert _fail(registry, MAX_FAULTS - 1) == most, "it may fail as often as at first"
    assert _worker(registry).usable
    registry.drain(WORKER, "new\r\nfan")
    assert registry.drained(WORKER) == "new fan", "it is a cell of a table"


def test_one_picture_that_is_too_much_drains_no_gpu(registry: WorkerRegistry) -> None:
    assert not any(_fail(registry, 2 * MAX_FAULTS, "job"))
    assert registry.drained(WORKER) == ""


def test_a_worker_is_ready_only_as_long_as_it_lives(registry: WorkerRegistry, clock: Clock) -> None:
    assert registry.ready_names() == [WORKER]
    # Its parent fell silent; what its model answered counts for a minute yet.
    clock.now += ALIVE_SECONDS + 1
    assert registry.ready_names() == []


def test_the_word_of_the_next_child_is_not_taken_back(registry: WorkerRegistry) -> None:
    registry.mark_not_ready(WORKER, pid=1)
    assert _worker(registry).ready
    registry.mark_not_ready(WORKER, pid=2)
    assert not _worker(registry).ready


def test_starts_count_until_they_are_long_ago(
    redis: Redis, registry: WorkerRegistry, clock: Clock
) -> None:
    registry.record_start(WORKER)
    clock.now += STARTS_SECONDS - 1
    registry.record_start(WORKER)
    assert registry.count_starts(WORKER) == 2
    clock.now += 2
    assert registry.count_starts(WORKER) == 1
    assert redis.ttl(redis_keys.process_starts_key(WORKER)) > 0


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
