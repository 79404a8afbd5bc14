"""Metrics of the jobs, queues, workers and webhooks, read from Redis at each scrape of the API.

The number of commands does not depend on the number of jobs.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from redis import Redis

from tasks import lua_scripts, metrics, redis_keys
from tasks.capacity import Capacity, Store
from tasks.errors import QueueUnavailableError, TaskError
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs import routing
from tasks.jobs.job import Priority, Status
from tasks.metrics import Metric, gauge_family
from tasks.redis_client import redis_errors, require_primary
from tasks.worker_registry import Worker, WorkerRegistry

#: A metric's values by those of its labels, in order.
Values = Mapping[Any, float]
_PRIORITIES: Final = {str(int(level)): level.name.lower() for level in Priority}
_SIMPLE: Final = (
    (metrics.ATTEMPTS, "attempts"),
    (metrics.CRASHES, "crashes"),
    (metrics.LOSSES, "losses"),
    (metrics.JOINED, "joined"),
    (metrics.DUPLICATES, "duplicates_refused"),
)


class QueueCollector(Collector):
    """Reads Redis at each scrape; if Redis does not answer, or is a replica, shows only that.

    `ping_store` raises a `TaskError` unless the object store answers.
    """

    def __init__(
        self,
        client: Redis,
        worker_registry: WorkerRegistry,
        ping_store: Callable[[], None],
        capacity: Capacity,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._worker_registry = worker_registry
        self._ping_store = ping_store
        self._capacity = capacity
        self._clock = clock

    def collect(self) -> Iterable[Family]:
        """Yield the families of one scrape."""
        yield _family(metrics.STORE_UP, {(): self._store_up()})
        try:
            with redis_errors():
                require_primary(self._client)
            workers = self._worker_registry.workers()
            families = [
                self._full(),
                *self._jobs(),
                *self._queues(workers),
                *self._workers(workers),
            ]
        except QueueUnavailableError:
            yield _family(metrics.REDIS_UP, {(): 0})
        else:
            yield _family(metrics.REDIS_UP, {(): 1})
            yield from families

    def _full(self) -> Family:
        full = self._capacity.full_stores()
        return _family(metrics.STORE_FULL, {(store,): int(store in full) for store in Store})

    def _store_up(self) -> int:
        try:
            self._ping_store()
        except TaskError:
            return 0
        return 1

    def _jobs(self) -> Iterator[Family]:
        queued = redis_keys.index_key(Status.QUEUED)
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.zcard(queued)
            pipe.zcard(redis_keys.index_key(Status.PROCESSING))
            pipe.zrange(queued, 0, 0, withscores=True)
            pipe.zcard(redis_keys.DEAD_LETTERS)
            pipe.zcard(redis_keys.DELIVERIES_DUE)
            pipe.zcard(redis_keys.DELIVERIES_DEAD)
            pipe.exists(redis_keys.SWEEPER_PAUSED)
            pipe.hgetall(redis_keys.COUNTERS)
            waiting, running, oldest, dead, webhooks, given_up, paused, counters = pipe.execute()
        yield _family(metrics.PENDING, {(): waiting + running})
        yield _family(metrics.PROCESSING, {(): running})
        yield _family(metrics.DEAD_LETTERS, {(): dead})
        yield _family(metrics.WEBHOOK_PENDING, {(): webhooks})
        yield _family(metrics.WEBHOOK_DEAD, {(): given_up})
        yield _family(metrics.RETENTION_PAUSED, {(): paused})
        since = max(0.0, self._clock() - oldest[0][1]) if oldest else 0.0
        yield _family(metrics.OLDEST_QUEUED, {(): since})
        yield from _counts(counters)

    def _queues(self, workers: Sequence[Worker]) -> Iterator[Family]:
        depth = gauge_family(metrics.QUEUE_DEPTH)
        lengths: dict[str, int] = defaultdict(int)
        for each in queue_lists(self._client, workers):
            depth.add_metric([each.queue, each.level], each.jobs)
            lengths[each.queue] += each.messages
        yield depth
        yield _family(metrics.CELERY_QUEUE_LENGTH, {(queue,): n for queue, n in lengths.items()})

    def _workers(self, workers: Sequence[Worker]) -> Iterator[Family]:
        up = {
            (each.name, _gpu_of(each), each.model): int(each.alive and each.ready)
            for each in workers
        }
        known = {each.name for each in workers}
        gone = (each for each in self._worker_registry.missing() if each.name not in known)
        up |= {(each.name, _gpu_of(each), each.model): 0 for each in gone}
        yield _family(metrics.WORKER_UP, up)
        yield _family(
            metrics.WORKER_DRAINED,
            {(each.name, each.drained_by): 1 for each in workers if each.drained},
        )


class QueueList(NamedTuple):
    """What waits in a queue at one priority level, `other` for an unknown one.

    All messages of a queue are on the list of its `normal` ones; earlier versions had more lists.
    """

    queue: str
    level: str
    jobs: int
    messages: int


def queue_lists(client: Redis, workers: Sequence[Worker]) -> list[QueueList]:
    """Return the lists that have been used and those that workers take from, by name."""
    with redis_errors():
        used = {str(name) for name in client.smembers(redis_keys.QUEUE_LISTS)}
    lists = sorted(used | _lists_of(workers))
    with redis_errors(), client.pipeline(transaction=False) as pipe:
        for name in lists:
            pipe.llen(list_key(name))
        lengths = pipe.execute()
        counts = lua_scripts.JOBS.run(client, "count_by_priority", lists=lists)
    jobs: Counter[tuple[str, str]] = Counter()
    messages: Counter[tuple[str, str]] = Counter()
    for name, waiting, length in zip(lists, counts, lengths, strict=True):
        queue, _, level = name.rpartition("|")
        messages[queue, _PRIORITIES.get(level, "other")] += length
        for priority, number in zip(_PRIORITIES.values(), waiting, strict=True):
            jobs[queue, priority] += number
    return [QueueList(*place, jobs[place], messages[place]) for place in {**jobs, **messages}]


def _lists_of(workers: Sequence[Worker]) -> set[str]:
    """Return the lists that workers take from, so that empty ones are shown as well."""
    queues = {each.queue for each in workers} | {
        routing.model_queue(each.model) for each in workers if each.model
    }
    return {f"{queue}|{level}" for queue in queues if queue for level in _PRIORITIES}


def _gpu_of(worker: Worker) -> str:
    """Return the number of a worker's GPU, the last part of its own queue's name."""
    return worker.queue.rpartition(".")[2]


def _counts(counters: Mapping[str, str]) -> Iterator[Family]:
    for metric, field in _SIMPLE:
        yield _family(metric, {(): int(counters.get(field, 0))})
    ends = {
        tuple(field.split("|")[1:]): int(number)
        for field, number in counters.items()
        if field.startswith("jobs|")
    }
    yield _family(metrics.JOBS, ends)
    yield _family(metrics.RECOVERED, _by_word(counters, "recovered"))
    yield _family(metrics.SKIPPED, _by_word(counters, "skipped"))
    yield _family(metrics.WEBHOOK_ATTEMPTS, _by_word(counters, "webhook"))
    yield _job_seconds(counters)


def _by_word(counters: Mapping[str, str], kind: str) -> Values:
    """Return the counts of the fields `<kind>:<word>`, by word."""
    return {
        (field.partition(":")[2],): int(number)
        for field, number in counters.items()
        if field.startswith(f"{kind}:")
    }


def _job_seconds(counters: Mapping[str, str]) -> HistogramMetricFamily:
    """Return the histogram; Lua counts each job in one bucket, Prometheus wants sums."""
    metric, total = metrics.JOB_SECONDS, 0
    buckets = []
    for number, bound in enumerate([*map(str, metric.buckets), "+Inf"], start=1):
        field = "inf" if bound == "+Inf" else number
        total += int(counters.get(f"job_seconds|{field}", 0))
        buckets.append((bound, total))
    sum_value = float(counters.get("job_seconds_sum", 0))
    return HistogramMetricFamily(metric.name, metric.text, buckets=buckets, sum_value=sum_value)


def _family(metric: Metric, values: Values) -> Family:
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.text, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
