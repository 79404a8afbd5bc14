"""What a pass of the reconciler costs, by what there is to do, with a backlog of 10,000 jobs.

Starts a Valkey of its own on a free port; nothing else is needed.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from redis import Redis

from benchmarks.tables import table
from deploy.bench.processes import machine
from tasks import redis_keys
from tasks.housekeeping.missing_messages import list_key
from tasks.housekeeping.reconcile import Reconciler
from tasks.jobs.job import Job, Priority, Status, new_task_id
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.store import JobStore
from tasks.object_store import original_key
from tasks.runtime import Runtime
from tasks.settings import Settings
from tests.support.servers import embedded_valkey

JOBS = 10_000
RUNS = 5
_QUEUE = "model.m"
_LIST = list_key(f"{_QUEUE}|{int(Priority.LOW)}")


def _fill(store: JobStore, dispatcher: JobDispatcher) -> None:
    now = time.time()
    for _ in range(JOBS):
        task_id = new_task_id()
        original = original_key(task_id)
        job = Job(task_id, "m", _QUEUE, original, now, now + 1e6, priority=Priority.LOW)
        dispatcher.send(store.create(job).job)


def _median(client: Redis, reconciler: Reconciler, before: Callable[[], object]) -> tuple[str, str]:
    taken, counts = [], []
    for _ in range(RUNS):
        before()
        began, sent = time.perf_counter(), _sendings(client)
        reconciler.run_once()
        taken.append(time.perf_counter() - began)
        counts.append(_sendings(client) - sent)
    return f"{statistics.median(taken) * 1000:.0f}", f"{statistics.median(counts):.0f}"


def _sendings(client: Redis) -> int:
    return int(str(client.get(f"{redis_keys.PREFIX}dispatch_seq")))


def _measure(client: Redis, store: JobStore, reconciler: Reconciler) -> list[tuple[str, ...]]:
    queued = store.ids(Status.QUEUED)

    def make_due() -> None:
        client.zadd(redis_keys.DUE_JOBS, dict.fromkeys(queued[:500], 0.0))

    def purge() -> None:
        # The pass before the one that is measured finds them missing for the first time.
        client.delete(_LIST)
        reconciler.run_once()

    cases = {"nothing": lambda: None, "500 due": make_due, "all messages lost": purge}
    return [(name, *_median(client, reconciler, before)) for name, before in cases.items()]


def main() -> None:
    """Print the table."""
    # A line for each job would be most of what is measured.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    with tempfile.TemporaryDirectory() as folder, embedded_valkey(Path(folder)) as url:
        settings = Settings.load(redis_url=url)
        runtime = Runtime(settings)
        client, store, dispatcher = runtime.redis, runtime.job_store, runtime.dispatcher
        reconciler = Reconciler(
            client, store, dispatcher, runtime.registry, runtime.router, aging_seconds=3600
        )
        began = time.perf_counter()
        _fill(store, dispatcher)
        each = (time.perf_counter() - began) / JOBS * 1000
        print(f"\nReconciler, {JOBS:,} queued jobs, {machine()}")
        print(f"recording and queueing one: {each:.2f} ms\n")
        table(("to do", "ms a pass", "sent"), _measure(client, store, reconciler))


if __name__ == "__main__":
    main()
