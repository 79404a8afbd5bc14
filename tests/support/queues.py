"""Jobs that wait, their messages, and the reconciler, with a clock that tests move."""

import json
from typing import Any, Final, NamedTuple

from celery import Celery
from redis import Redis

from tasks import redis_keys
from tasks.housekeeping.missing_messages import dispatch_seq_of, list_key
from tasks.housekeeping.reconcile import Reconciler
from tasks.jobs.job import Job, Priority, Status
from tasks.jobs.routing import JobDispatcher, Router, task_id_of_message
from tasks.jobs.store import ClaimOutcome, JobStore, Message, Turn
from tasks.worker_registry import WorkerRegistry
from tests.support.clock import Clock
from tests.support.jobs import claim, make_job, recorded

SHARED: Final = "model.u2netp"
#: The queue of a GPU, which nobody serves unless a test says so.
OWN: Final = "gpu.h.0"
#: How long a job waits at a priority level before the reconciler raises it.
AGING: Final = 60.0


class Taken(NamedTuple):
    """A message that a worker has taken from its list."""

    list_name: str
    text: str

    @property
    def task_id(self) -> str:
        """The job that it names."""
        return task_id_of_message(json.loads(self.text)["headers"]["id"])

    @property
    def message(self) -> Message:
        return Message(self.list_name, dispatch_seq_of(json.loads(self.text)))


class Queues:
    """What an I/O worker sees of the queues."""

    def __init__(self, redis: Redis, app: Celery) -> None:
        self.redis, self.app, self.clock = redis, app, Clock()
        self.store = JobStore(redis, clock=self.clock)
        self.dispatcher = JobDispatcher(app, self.store)
        self.registry = WorkerRegistry(redis, clock=self.clock)
        self.reconciler = self.another()

    def another(self) -> Reconciler:
        """Return the reconciler of another process."""
        return Reconciler(
            self.redis,
            self.store,
            self.dispatcher,
            self.registry,
            Router(self.redis, clock=self.clock),
            aging_seconds=AGING,
            clock=self.clock,
        )

    def passes(self, number: int = 2) -> None:
        for _ in range(number):
            assert self.reconciler.run_once()

    def submit(
        self, priority: Priority = Priority.NORMAL, *, sent: bool = True, **fields: object
    ) -> str:
        """Accept a job; its message is lost unless it is sent."""
        job = self.store.create(make_job(**{"priority": priority, **fields})).job
        if sent:
            self.dispatcher.send(job)
        return job.task_id

    def take(self, level: Priority = Priority.NORMAL, queue: str = SHARED) -> Taken | None:
        """Take the next message of a list, as a worker's parent does; None if there is none.

        Only earlier versions send messages with another Celery priority than `normal`.
        """
        name = f"{queue}|{int(level)}"
        text = self.redis.rpop(list_key(name))
        return Taken(name, str(text)) if text else None

    def take_of(self, task_id: str) -> Taken:
        """Take the next message of the shared list, which names this job."""
        taken = self.take()
        assert taken is not None
        assert taken.task_id == task_id
        return taken

    def claim(self, taken: Taken, lease: str = "t", **options: Any) -> Turn:  # noqa: ANN401 - any argument's
        """Claim by a message, as a worker's child does."""
        return self.store.claim_next(
            taken.task_id, taken.message, **{"token": lease, "worker": "w", **options}
        )

    def run(
        self, level: Priority = Priority.NORMAL, queue: str = SHARED, model: str | None = None
    ) -> str | None:
        """Run the job whose turn it is to its end; its id, or None if no job was claimed."""
        taken = self.take(level, queue)
        turn = taken and self.claim(taken, model=model)
        if turn is None or turn.claim is not ClaimOutcome.CLAIMED:
            return None
        assert self.store.finish(turn.task_id, token="t", status=Status.SUCCEEDED)
        return turn.task_id

    def give_back(self, taken: Taken) -> None:
        """Return a message to its list, as the next one, as Celery does when a child dies."""
        self.redis.rpush(list_key(taken.list_name), taken.text)

    def running(self) -> str:
        """Accept a job that a worker has claimed under the token `t`."""
        task_id = self.submit(sent=False)
        assert claim(self.store, task_id) is ClaimOutcome.CLAIMED
        return task_id

    def orphan(self) -> str:
        """Accept a job whose worker has died."""
        task_id = self.running()
        self.redis.delete(redis_keys.lease_key(task_id))
        return task_id

    def due(self) -> str:
        """Accept a job that waits for a message to be sent."""
        task_id = self.submit(sent=False)
        self.store.cancel(task_id)
        self.store.requeue(task_id)
        return task_id

    def job(self, task_id: str) -> Job:
        return recorded(self.store, task_id)

    def status(self, task_id: str) -> Status:
        return self.job(task_id).status

    def messages(self, queue: str = SHARED) -> list[str]:
        """Return the jobs whose messages wait on a list, the next one first."""
        found = self.redis.lrange(list_key(f"{queue}|{int(Priority.NORMAL)}"), 0, -1)
        heads = (json.loads(text)["headers"]["id"] for text in reversed(found))
        return [head.partition(".")[0] for head in heads]
