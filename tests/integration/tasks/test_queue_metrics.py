"""What a scrape says of the jobs in a real Redis, and what it costs."""

import itertools
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from tasks import metrics, redis_keys
from tasks.errors import ObjectStoreUnavailableError
from tasks.jobs.job import JobError, Priority, Status
from tasks.jobs.store import MAX_CRASHES, JobStore
from tasks.queue_metrics import QueueCollector
from tasks.redis_client import connect
from tasks.webhooks.deliveries import Attempt, DeliveryState, DeliveryStore, RetryDecision
from tasks.worker_registry import MAX_FAULTS, WorkerRegistry
from tests.support.clock import Clock
from tests.support.jobs import make_job

WORKER = "gpu0@h"
#: What a new connection begins with, and one that was idle for a while.
_GREETINGS = {"HELLO", "CLIENT", "SELECT", "PING"}


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def store(client: Redis) -> JobStore:
    return JobStore(client, clock=Clock(1000.0))


def _registry(client: Redis, *, store_answers: bool = True) -> CollectorRegistry:
    def ping() -> None:
        if not store_answers:
            raise ObjectStoreUnavailableError("gone")

    registry = CollectorRegistry()
    registry.register(QueueCollector(client, WorkerRegistry(client), ping, clock=Clock(1010.0)))
    return registry


def _queued(store: JobStore, *, priority: Priority = Priority.NORMAL) -> str:
    fields = {"model": "m", "created_at": 996.5, "options": {"output_format": "webp"}}
    return store.create(make_job(**fields, priority=priority)).job.task_id


def _value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_jobs_are_counted_at_their_end_by_what_they_were(client: Redis, store: JobStore) -> None:
    done, failed, canceled = _queued(store), _queued(store), _queued(store)
    for task_id, status in ((done, Status.SUCCEEDED), (failed, Status.FAILED)):
        store.claim(task_id, token=f"{WORKER}/1/x", worker=WORKER)
        store.finish(
            task_id, token=f"{WORKER}/1/x", status=status, error=JobError("a", "b"), format="webp"
        )
    store.cancel(canceled)
    registry = _registry(client)
    ended = {"format": "webp", "model": "m"}
    for status in ("succeeded", "failed"):
        labels = {**ended, "status": status, "worker": WORKER}
        assert _value(registry, "rmbg_jobs_total", **labels) == 1
    assert _value(registry, "rmbg_jobs_total", **ended, status="canceled", worker="none") == 1
    assert _value(registry, "rmbg_job_seconds_count") == 3
    assert _value(registry, "rmbg_job_seconds_sum") == pytest.approx(3 * 3.5)
    assert _value(registry, "rmbg_job_seconds_bucket", le="2.0") == 0
    assert _value(registry, "rmbg_job_seconds_bucket", le="5.0") == 3
    assert _value(registry, "rmbg_attempts_total") == 2


def test_crashes_losses_dead_letters_and_duplicates(client: Redis, store: JobStore) -> None:
    task_id = _queued(store)
    for _ in range(MAX_CRASHES):
        store.claim(task_id, token=f"{WORKER}/1/x", worker=WORKER)
        store.claim(task_id, token="gpu1@h/2/y", worker="gpu1@h")
        store.crash(task_id, holder=f"{WORKER}/1/")
    assert not store.finish(task_id, token=f"{WORKER}/1/x", status=Status.SUCCEEDED)
    lost = _queued(store)
    store.claim(lost, token="t/1/x", worker=WORKER)
    store.release(lost, token="t/1/x")
    registry = _registry(client)
    assert _value(registry, "rmbg_crashes_total") == MAX_CRASHES
    assert _value(registry, "rmbg_losses_total") == 1
    assert _value(registry, "rmbg_dead_letters") == 1
    assert _value(registry, "rmbg_duplicates_refused_total") == MAX_CRASHES + 1


def test_webhooks_are_counted_by_what_came_of_them(client: Redis, store: JobStore) -> None:
    for number in range(3):
        job = store.create(make_job(created_at=996.5, webhook_url="http://127.0.0.1:9/")).job
        store.cancel(job.task_id)
        assert _value(_registry(client), "rmbg_webhook_pending") == number + 1
    rows = DeliveryStore(client)
    first, second, _ = rows.waiting(10)
    for row, outcome, state in (
        (first, "delivered", DeliveryState.DELIVERED),
        (second, "url_timeout", DeliveryState.PENDING),
    ):
        rows.dispatch(row, 1000.0, seconds=30, limit=99)
        claim = rows.claim(row, 1000.0, seconds=30)
        attempt = Attempt(1000.0, outcome, None, 1, "")
        rows.record_attempt(row, str(claim), attempt, RetryDecision(state, 1030.0))
    registry = _registry(client)
    for outcome in ("delivered", "url_timeout"):
        assert _value(registry, "rmbg_webhook_attempts_total", outcome=outcome) == 1
    assert _value(registry, "rmbg_webhook_pending") == 2


def test_what_waits_is_shown_by_queue_and_priority(client: Redis, store: JobStore) -> None:
    _queued(store)
    _queued(store, priority=Priority.LOW)
    running = _queued(store)
    store.claim(running, token="t/1/x", worker=WORKER)
    registry = _registry(client)
    for priority in ("normal", "low"):
        depth = _value(registry, "rmbg_queue_depth", queue="model.m", priority=priority)
        assert depth == 1
    assert _value(registry, "rmbg_pending") == 3
    assert _value(registry, "rmbg_processing") == 1
    assert _value(registry, "rmbg_oldest_queued_seconds") == 10
    assert _value(registry, "celery_queue_length", queue_name="model.m") == 0


def test_workers_are_up_down_or_drained(client: Redis) -> None:
    now = 1009.0
    worker_registry = WorkerRegistry(client, clock=lambda: now)
    worker_registry.record_heartbeat(WORKER, queue="gpu.h.0", model="m")
    worker_registry.mark_ready(WORKER, 60, model="m", pid=1)
    for number in range(MAX_FAULTS):
        worker_registry.record_fault(WORKER, f"job{number}", "gpu_fault")
    now = 900.0
    worker_registry.record_heartbeat("gpu1@h", queue="gpu.h.1", model="m")
    reader = CollectorRegistry()
    late = WorkerRegistry(client, clock=Clock(1010.0))
    reader.register(QueueCollector(client, late, lambda: None))
    assert _value(reader, "rmbg_worker_up", worker=WORKER, gpu="0", model="m") == 1
    assert _value(reader, "rmbg_worker_up", worker="gpu1@h", gpu="1", model="m") == 0
    assert _value(reader, "rmbg_worker_drained", worker=WORKER, by="service") == 1


def test_without_redis_or_store_the_scrape_says_so() -> None:
    with connect("redis://127.0.0.1:1/0", timeout=0.2) as nowhere:
        registry = _registry(nowhere, store_answers=False)
        assert _value(registry, "rmbg_redis_up") == 0
        assert _value(registry, "rmbg_store_up") == 0
        assert _value(registry, "rmbg_pending") is None


def test_the_queues_of_workers_are_shown_while_they_are_empty(client: Redis) -> None:
    worker_registry = WorkerRegistry(client, clock=Clock(1009.0))
    worker_registry.record_heartbeat(WORKER, queue="gpu.h.0", model="m")
    registry = CollectorRegistry()
    registry.register(QueueCollector(client, worker_registry, lambda: None))
    for queue in ("gpu.h.0", "model.m"):
        for priority in ("high", "normal", "low"):
            assert _value(registry, "rmbg_queue_depth", queue=queue, priority=priority) == 0
        assert _value(registry, "celery_queue_length", queue_name=queue) == 0


def _scrape_commands(client: Redis) -> list[str]:
    """The names of the commands that one scrape sends to its database.

    The server's own count would not do: a service of other tests uses it meanwhile.
    """
    registry = _registry(client)
    database = client.get_connection_kwargs()["db"]
    with client.monitor() as monitor:
        samples = {sample.name for family in registry.collect() for sample in family.samples}
        client.echo("scraped")
        heard = list(
            itertools.takewhile(lambda each: each["command"] != "ECHO scraped", monitor.listen())
        )
    sent = [each["command"].split()[0] for each in heard if each["db"] == database]
    assert "rmbg_pending" in samples
    return [command for command in sent if command not in _GREETINGS]


def test_a_scrape_costs_the_same_however_many_jobs_wait(client: Redis, store: JobStore) -> None:
    _queued(store)
    few = _scrape_commands(client)
    with client.pipeline(transaction=False) as pipe:
        for number in range(10_000):
            pipe.zadd(redis_keys.index_key(Status.QUEUED), {f"rm-{number}": number})
            pipe.zadd(redis_keys.dispatched_key("model.m|3"), {f"rm-{number}": number})
        pipe.execute()
    assert _scrape_commands(client) == few
    assert 0 < len(few) < 30


def test_every_metric_of_redis_is_collected(client: Redis, store: JobStore) -> None:
    _queued(store)
    shown = {family.name for family in _registry(client).collect()}
    expected = {each.name for each in metrics.METRICS if each.source is metrics.MetricSource.REDIS}
    assert {name.removesuffix("_total") for name in expected} == shown
