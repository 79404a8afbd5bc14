"""What a scrape says of the jobs in a real Redis, and what it costs."""

import itertools
from pathlib import Path
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from tasks import redis_keys
from tasks.capacity import Capacity
from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.job import JobError, Priority, Status
from tasks.jobs.store import MAX_CRASHES, JobStore
from tasks.queue_metrics import QueueCollector
from tasks.redis_client import connect
from tasks.webhooks.deliveries import DeliveryState, DeliveryStore
from tasks.worker_registry import MAX_FAULTS, WorkerRegistry
from tests.support.clock import Clock
from tests.support.counting import commands_of
from tests.support.jobs import claim, finish, make_job
from tests.support.outbox import attempted
from tests.support.servers import embedded_valkey

WORKER, TOKEN = "gpu0@h", "gpu0@h/1/x"


@pytest.fixture
def store(redis: Redis) -> JobStore:
    return JobStore(redis, clock=Clock(1000.0))


class Scrape:
    """One look at a database, ten seconds after its jobs were made."""

    def __init__(
        self, redis: Redis, *, ping: Mock | None = None, folder: Path | None = None
    ) -> None:
        workers = WorkerRegistry(redis, clock=Clock(1010.0))
        self.registry = CollectorRegistry()
        room = Capacity(redis, folder, free=lambda _: 0)
        self.registry.register(
            QueueCollector(redis, workers, ping or Mock(), room, clock=Clock(1010.0))
        )

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"rmbg_{name}", labels)


def _queued(store: JobStore, **fields: object) -> str:
    made = {"model": "m", "created_at": 996.5, "options": {"output_format": "webp"}, **fields}
    return store.create(make_job(**made)).job.task_id


def test_jobs_are_counted_at_their_end_by_what_they_were(redis: Redis, store: JobStore) -> None:
    for status in (Status.SUCCEEDED, Status.FAILED):
        facts = {"error": JobError("a", "b"), "format": "webp"}
        finish(store, _queued(store), status, lease=TOKEN, **facts)
    store.cancel(_queued(store))
    value = Scrape(redis)
    for status, worker in (("succeeded", WORKER), ("failed", WORKER), ("canceled", "none")):
        assert value("jobs_total", format="webp", model="m", status=status, worker=worker) == 1
    assert value("job_seconds_count") == 3
    assert value("job_seconds_sum") == pytest.approx(3 * 3.5)
    assert value("job_seconds_bucket", le="2.0") == 0
    assert value("job_seconds_bucket", le="5.0") == 3
    assert value("attempts_total") == 2


def test_crashes_losses_dead_letters_and_duplicates(redis: Redis, store: JobStore) -> None:
    task_id = _queued(store)
    for _ in range(MAX_CRASHES):
        claim(store, task_id, TOKEN)
        claim(store, task_id, "gpu1@h/2/y")
        store.crash(task_id, holder=f"{WORKER}/1/")
    assert not store.finish(task_id, token=TOKEN, status=Status.SUCCEEDED)
    lost = _queued(store)
    claim(store, lost)
    store.release(lost, token="t")
    value = Scrape(redis)
    assert value("crashes_total") == MAX_CRASHES
    assert value("losses_total") == 1
    assert value("dead_letters") == 1
    assert value("duplicates_refused_total") == MAX_CRASHES + 1


def test_webhooks_are_counted_by_what_came_of_them(redis: Redis, store: JobStore) -> None:
    for _ in range(3):
        store.cancel(_queued(store, webhook_url="http://127.0.0.1:9/"))
    assert Scrape(redis)("webhook_pending") == 3
    rows = DeliveryStore(redis)
    outcomes = {"delivered": DeliveryState.DELIVERED, "url_timeout": DeliveryState.PENDING}
    for row, (outcome, state) in zip(rows.waiting(2), outcomes.items(), strict=True):
        attempted(rows, row, state, now=1000.0, outcome=outcome)
    value = Scrape(redis)
    assert [value("webhook_attempts_total", outcome=each) for each in outcomes] == [1, 1]
    assert (value("webhook_pending"), value("webhook_dead")) == (2, 0)
    attempted(rows, rows.waiting(1)[0], DeliveryState.DEAD, now=1000.0, outcome="refused")
    assert Scrape(redis)("webhook_dead") == 1


def test_what_waits_is_shown_by_queue_and_priority(redis: Redis, store: JobStore) -> None:
    _queued(store)
    _queued(store, priority=Priority.LOW)
    claim(store, _queued(store))
    value = Scrape(redis)
    for priority in ("normal", "low"):
        assert value("queue_depth", queue="model.m", priority=priority) == 1
    assert value("pending") == 3
    assert value("processing") == 1
    assert value("oldest_queued_seconds") == 10


def test_workers_are_up_down_or_drained(redis: Redis) -> None:
    clock = Clock(1009.0)
    workers = WorkerRegistry(redis, clock=clock)
    workers.record_heartbeat(WORKER, queue="gpu.h.0", model="m")
    workers.mark_ready(WORKER, 60, model="m", pid=1)
    for number in range(MAX_FAULTS):
        workers.record_fault(WORKER, f"job{number}", "gpu_fault")
    clock.now = 900.0
    workers.record_heartbeat("gpu1@h", queue="gpu.h.1", model="m")
    value = Scrape(redis)
    assert value("worker_up", worker=WORKER, gpu="0", model="m") == 1
    assert value("worker_up", worker="gpu1@h", gpu="1", model="m") == 0
    assert value("worker_drained", worker=WORKER, by="service") == 1
    # The queues of workers are shown while they are empty.
    for queue, priority in itertools.product(("gpu.h.0", "model.m"), ("high", "normal", "low")):
        assert value("queue_depth", queue=queue, priority=priority) == 0
        assert value.registry.get_sample_value("celery_queue_length", {"queue_name": queue}) == 0


def test_without_redis_or_store_the_scrape_says_so() -> None:
    with connect("redis://127.0.0.1:1/0", timeout=0.2) as nowhere:
        value = Scrape(nowhere, ping=Mock(side_effect=ObjectStoreUnavailableError("gone")))
    assert value("redis_up") == 0
    assert value("store_up") == 0
    assert value("pending") is None


@pytest.mark.parametrize(
    ("command", "up", "full"),
    [("REPLICAOF 127.0.0.1 1", 0, None), ("CONFIG SET maxmemory 1", 1, 1)],
)
def test_a_replica_counts_as_down_and_a_full_server_as_full(
    tmp_path: Path, command: str, up: int, full: int | None
) -> None:
    with embedded_valkey(tmp_path) as url, connect(url) as redis:
        redis.execute_command(command)
        value = Scrape(redis)
        assert value("redis_up") == up
        assert value("store_full", store="redis") == full


def test_the_stores_without_room_are_named(redis: Redis, tmp_path: Path) -> None:
    redis.set(redis_keys.OBJECTS_FULL, "1")
    scrape = Scrape(redis, folder=tmp_path)
    full = {name: scrape("store_full", store=name) for name in ("redis", "disk", "objects")}
    assert full == {"redis": 0, "disk": 1, "objects": 1}


def test_a_scrape_costs_the_same_however_many_jobs_wait(redis: Redis, store: JobStore) -> None:
    def commands() -> list[str]:
        return commands_of(redis, lambda: list(Scrape(redis).registry.collect()))

    _queued(store)
    few = commands()
    many = {f"rm-{number}": number for number in range(2000)}
    redis.zadd(redis_keys.index_key(Status.QUEUED), many)
    redis.zadd(redis_keys.dispatched_key("model.m|3"), many)
    assert commands() == few
    assert 0 < len(few) < 30
