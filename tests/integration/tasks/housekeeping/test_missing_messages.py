"""Celery's own `purge`, run as an operator would: the reconciler undoes it."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest
from redis import Redis

from deploy.local import service
from tasks import redis_keys
from tasks.app import create_celery
from tasks.housekeeping.missing_messages import list_key
from tasks.housekeeping.reconcile import Reconciler
from tasks.jobs.job import Priority, Status
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.jobs import make_job

SHARED, OWN = "model.u2netp", "gpu.h.0"


@dataclass
class Queues:
    url: str
    client: Redis
    store: JobStore
    dispatcher: JobDispatcher
    reconciler: Reconciler

    def submit(self, queue: str, priority: Priority) -> str:
        job = self.store.create(make_job(queue=queue, priority=priority)).job
        self.dispatcher.send(job)
        return job.task_id

    def messages(self) -> Counter[str]:
        """How many messages each job has, on all lists together."""
        found = [text for name in self.store.lists() for text in self._texts(name)]
        return Counter(json.loads(text)["headers"]["id"].partition(".")[0] for text in found)

    def waiting(self, queue: str) -> int:
        return sum(len(self._texts(f"{queue}|{int(step)}")) for step in Priority)

    def _texts(self, name: str) -> list[str]:
        return list(self.client.lrange(list_key(name), 0, -1))

    def purge(self, *arguments: str) -> str:
        """Run the command; what it says."""
        done = subprocess.run(
            [service.script("celery"), "-A", "tasks.app", "purge", "-f", *arguments],
            env={**os.environ, "RMBG_REDIS_URL": self.url},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@pytest.fixture
def queues(redis_url: str, server_settings: dict[str, object]) -> Iterator[Queues]:
    settings = Settings.load(**server_settings)
    with connect(redis_url) as client, create_celery(settings) as app:
        store, registry = JobStore(client), WorkerRegistry(client)
        dispatcher = JobDispatcher(app, store)
        router = Router(client)
        reconciler = Reconciler(client, store, dispatcher, registry, router, aging_seconds=60)
        yield Queues(redis_url, client, store, dispatcher, reconciler)


def test_a_stock_purge_of_all_queues_is_undone_for_every_job_exactly_once(queues: Queues) -> None:
    jobs = [queues.submit(*each) for each in product((SHARED, OWN), Priority) for _ in range(3)]
    everyone = Counter(dict.fromkeys(jobs, 1))
    # It knows the queues that the application declares: that of the I/O workers alone.
    assert "No messages purged from 1 queue" in queues.purge()
    assert queues.messages() == everyone
    assert "Purged 18 messages from 2 known task queues" in queues.purge("-Q", f"{SHARED},{OWN}")
    assert queues.messages() == Counter()
    for _ in range(4):
        assert queues.reconciler.run_once()
    assert queues.messages() == everyone
    assert set(queues.store.ids(Status.QUEUED)) == set(jobs)
    for job in queues.store.get_many(jobs):
        assert job.queue == SHARED
        assert queues.client.zscore(
            redis_keys.dispatched_key(f"{SHARED}|{int(job.priority)}"), job.task_id
        )


def test_a_stock_purge_of_one_queue_leaves_the_others_alone(queues: Queues) -> None:
    registry = WorkerRegistry(queues.client)
    registry.mark_ready("gpu0@h", 90, model="u2netp")
    shared = [queues.submit(SHARED, step) for step in Priority]
    bound = [queues.submit(OWN, step) for step in Priority]
    for _ in range(2):
        assert "Purged 3 messages from 1 known task queue" in queues.purge("-Q", SHARED)
        assert queues.messages() == Counter(bound)
        for _ in range(3):
            # It lives, however long the commands took.
            registry.record_heartbeat("gpu0@h", queue=OWN)
            assert queues.reconciler.run_once()
        assert queues.messages() == Counter(shared + bound)
    assert (queues.waiting(SHARED), queues.waiting(OWN)) == (3, 3)
    sends = {job.task_id: job.redispatches for job in queues.store.get_many(shared + bound)}
    assert sends == {**dict.fromkeys(shared, 2), **dict.fromkeys(bound, 0)}
